"""Tiny models of ComfyUI's own classes, for scripts in its Python; import `in_comfyui` first."""
import comfy.model_base
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

CPU = torch.device("cpu")


def small(config, base, **unet):
    """A ModelPatcher on a randomly filled model of the host's class, some ten thousand parameters."""
    unet["dtype"] = torch.float32
    settings = config({"image_model": None, **unet})
    settings.unet_config, settings.manual_cast_dtype = unet, None
    model = base(settings, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (*model.parameters(), *model.diffusion_model.buffers()):  # SD3's places are a buffer
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return ModelPatcher(model, CPU, CPU)


def sd15():
    return small(
        comfy.supported_models.SD15, comfy.model_base.BaseModel, in_channels=4, out_channels=4, image_size=32,
        model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1], transformer_depth_middle=1, context_dim=16, num_heads=-1,
        num_head_channels=8, use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False,
        adm_in_channels=None, use_temporal_attention=False)


def sd3():
    return small(
        comfy.supported_models.SD3, comfy.model_base.SD3, in_channels=16, out_channels=16, patch_size=2,
        depth=2, input_size=None, adm_in_channels=8, num_patches=64 * 64, pos_embed_max_size=64, qk_norm=None,
        x_block_self_attn_layers=[],
        context_embedder_config={"target": "torch.nn.Linear",
                                 "params": {"in_features": 12, "out_features": 128}})


def flux():
    return small(
        comfy.supported_models.Flux, comfy.model_base.Flux, image_model="flux", in_channels=16,
        out_channels=16, patch_size=2, vec_in_dim=8, context_in_dim=12, hidden_size=48, mlp_ratio=2.0,
        num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[4, 10, 10], theta=10000, qkv_bias=True,
        guidance_embed=True, txt_ids_dims=[])


def wan():
    """Video: latents [B,16,T,H,W]."""
    return small(
        comfy.supported_models.WAN21_T2V, comfy.model_base.WAN21, image_model="wan2.1", model_type="t2v",
        patch_size=(1, 2, 2), text_len=8, in_dim=16, dim=48, ffn_dim=96, freq_dim=32, text_dim=12, out_dim=16,
        num_heads=2, num_layers=2, qk_norm=True, cross_attn_norm=True)


MODELS = {"sd3": (sd3, 12), "flux": (flux, 12)}  # name -> maker, width of its text


def conditioning(width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 4, width, generator=generator),
             {"pooled_output": torch.randn(1, 8, generator=generator)}]]
