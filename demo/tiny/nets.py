"""The tiny model's networks: () -> modules of `diffusers` and `transformers`, small Stable Diffusion 1.x."""
from __future__ import annotations

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH, LAYERS, HEAD = 128, 2, 64  # of the text encoder
CHANNELS, HEADS = (64, 64), 4
SCALE = 0.18215  # Stable Diffusion's latent scale: the encoder's last convolution is set to meet it


def new_vae() -> AutoencoderKL:
    """Eight times smaller, four channels.

    64 channels everywhere: hosts fix 32 groups in each norm, and with one channel a group a norm would
    wipe out plain colours. No residual blocks on the way down, one a level on the way up.
    """
    return AutoencoderKL(
        block_out_channels=(64, 64, 64, 64), layers_per_block=0, latent_channels=4, scaling_factor=SCALE,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)


def new_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD, max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407))


def new_unet() -> UNet2DConditionModel:
    """Cross attention at 8x8 only: at 16x16 it doubles the time of a step."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=HEADS, cross_attention_dim=WIDTH)


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 16, 32, 32))
