"""Tiny control nets of ComfyUI's own classes, for scripts in its Python; import `in_comfyui` first."""
import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_base
import comfy.ops
import comfy.supported_models
import comfy.t2i_adapter.adapter
import torch
from hosts import tiny_families

CPU = torch.device("cpu")
OPS = comfy.ops.disable_weight_init
UNET = dict(image_size=32, in_channels=4, model_channels=32, hint_channels=3, num_res_blocks=[1, 1],
            channel_mult=[1, 2], context_dim=16, num_heads=-1, num_head_channels=8,
            use_spatial_transformer=True, legacy=False, dtype=torch.float32, operations=OPS)


class Vae:
    """Stands in for a VAE: the mean of 8x8 pixels, in as many channels and frames as asked for."""

    def __init__(self, channels, frames=()):
        self.channels, self.frames = channels, frames

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        latent = small.mean(1, keepdim=True).repeat(1, self.channels, 1, 1)
        return latent.reshape(*latent.shape[:2], *self.frames, *latent.shape[2:])


def fill(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (*net.parameters(), *net.buffers()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return net.eval()


def wrap(net, seed, kind=comfy.controlnet.ControlNet, **settings):
    return kind(fill(net, seed), load_device=CPU, **settings)


def sd15(seed=0, **more):
    net = comfy.cldm.cldm.ControlNet(
        **UNET, transformer_depth=[1, 1], transformer_depth_middle=1, use_linear_in_transformer=False, **more)
    return wrap(net, seed)


def shuffle(seed=0):
    """A net whose residuals are averaged over the picture."""
    control = sd15(seed)
    control.global_average_pooling = True
    return control


def linear_up(seed=0):
    """Of the kind whose strength counts more, the deeper the layer."""
    control = sd15(seed)
    control.strength_type = comfy.controlnet.StrengthType.LINEAR_UP
    return control


def lora(seed=0):
    """A ControlLora: its net is made for each run from the model's weights; two of its layers are changed."""
    generator = torch.Generator().manual_seed(seed)
    state, layer = sd15(seed).control_model.state_dict(), "input_blocks.1.1.transformer_blocks.0.attn1.to_{}"
    own = ("input_hint_block.", "zero_convs.", "middle_block_out.")
    weights = {name: weight for name, weight in state.items() if name.startswith(own)}
    for letter in "qv":
        for part, shape in (("up", (32, 4)), ("down", (4, 32))):
            weights[f"{layer.format(letter)}.{part}"] = torch.randn(shape, generator=generator) * 0.2
    return comfy.controlnet.ControlLora({**weights, "lora_controlnet": torch.tensor([])})


WIDE = {"model_channels": 320, "num_head_channels": 64}


def union(seed=0):
    """Six types; its own embeddings of hints are 320 wide, and so is the model for it."""
    net = comfy.cldm.cldm.ControlNet(
        **{**UNET, **WIDE}, transformer_depth=[0, 1], transformer_depth_middle=1,
        use_linear_in_transformer=False, union_controlnet_num_control_type=6)
    return wrap(net, seed)


def wide():
    """The model for `union`."""
    return tiny_families.small(
        comfy.supported_models.SD15, comfy.model_base.BaseModel, in_channels=4, out_channels=4, image_size=32,
        num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[0, 1],
        transformer_depth_output=[0, 0, 1, 1], transformer_depth_middle=1, context_dim=16, num_heads=-1,
        use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False, adm_in_channels=None,
        use_temporal_attention=False, **WIDE)


def sdxl(seed=0):
    net = comfy.cldm.cldm.ControlNet(
        **UNET, transformer_depth=[0, 2], transformer_depth_middle=2, use_linear_in_transformer=True,
        num_classes="sequential", adm_in_channels=2816)
    return wrap(net, seed)


FLUX = dict(image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=8,
            context_in_dim=12, hidden_size=48, mlp_ratio=2.0, num_heads=2, axes_dim=[4, 10, 10], theta=10000,
            qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.float32, operations=OPS)


def flux_xlabs(seed=0):
    net = comfy.ldm.flux.controlnet.ControlNetFlux(depth=2, depth_single_blocks=0, **FLUX)
    return wrap(net, seed, extra_conds=["y", "guidance"])


def flux(seed=0, modes=0):
    """InstantX and union nets: latent hints, tensors repeated over blocks."""
    net = comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True, num_union_modes=modes, control_latent_channels=16, depth=2, depth_single_blocks=1,
        **FLUX)
    return wrap(net, seed, compression_ratio=1, latent_format=comfy.latent_formats.Flux(),
                extra_conds=["y", "guidance"])


def flux_union(seed=0):
    return flux(seed, modes=4)


def sd35(seed=0):
    net = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=False,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=8, device=CPU, dtype=torch.float32,
        operations=OPS)
    return wrap(net, seed, comfy.controlnet.ControlNetSD35, compression_ratio=1,
                latent_format=comfy.latent_formats.SD3())


def qwen(seed=0):
    net = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
        image_model="qwen_image", num_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=(8, 12, 12), extra_condition_channels=0, dtype=torch.float32,
        operations=OPS)
    return wrap(net, seed, compression_ratio=1, latent_format=comfy.latent_formats.Wan21(), extra_conds=[])


def qwen_fun(seed=0):
    """Injects into blocks 0 and 1, in tokens of the model that runs."""
    net = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        control_in_features=132, inner_dim=64, num_attention_heads=2, attention_head_dim=32,
        num_control_blocks=2, main_model_double=2, injection_layers=(0, 1), dtype=torch.float32,
        operations=OPS)
    return wrap(net, seed, comfy.controlnet.QwenFunControlNet, compression_ratio=1,
                latent_format=comfy.latent_formats.Wan21(), extra_conds=[])


def t2i(seed=0):
    net = comfy.t2i_adapter.adapter.Adapter(
        cin=64 * 3, channels=[32, 64], nums_rb=1, ksize=1, sk=True, use_conv=False, xl=False)
    return comfy.controlnet.T2IAdapter(fill(net, seed), 3, 8, "nearest-exact", device=CPU)


VAES = dict.fromkeys(("flux", "flux_union", "sd35", "qwen", "qwen_fun"), 16)  # channels of a hint's latent
