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


def sd15(channels=4):
    return small(
        comfy.supported_models.SD15, comfy.model_base.BaseModel, in_channels=channels, out_channels=4,
        image_size=32, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
        transformer_depth=[1, 1], transformer_depth_output=[1, 1, 1, 1], transformer_depth_middle=1,
        context_dim=16, num_heads=-1, num_head_channels=8, use_spatial_transformer=True,
        use_linear_in_transformer=False, legacy=False, adm_in_channels=None, use_temporal_attention=False)


def sd15_two():
    """Two blocks a level, as Stable Diffusion has and T2I-Adapters count on."""
    return small(
        comfy.supported_models.SD15, comfy.model_base.BaseModel, in_channels=4, out_channels=4, image_size=32,
        model_channels=32, num_res_blocks=[2, 2], channel_mult=[1, 2], transformer_depth=[1] * 4,
        transformer_depth_output=[1] * 6, transformer_depth_middle=1, context_dim=16, num_heads=-1,
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


def sdxl():
    return small(
        comfy.supported_models.SDXL, comfy.model_base.SDXL, in_channels=4, out_channels=4, image_size=32,
        model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[0, 2],
        transformer_depth_output=[0, 0, 2, 2], transformer_depth_middle=2, context_dim=16, num_heads=-1,
        num_head_channels=8, use_spatial_transformer=True, use_linear_in_transformer=True, legacy=False,
        num_classes="sequential", adm_in_channels=2816, use_temporal_attention=False)


def sd35():
    """SD3.5-M: some blocks attend to the picture alone as well."""
    return small(
        comfy.supported_models.SD3, comfy.model_base.SD3, in_channels=16, out_channels=16, patch_size=2,
        depth=2, input_size=None, adm_in_channels=8, num_patches=96 * 96, pos_embed_max_size=96,
        qk_norm="rms", x_block_self_attn_layers=[0],
        context_embedder_config={"target": "torch.nn.Linear",
                                 "params": {"in_features": 12, "out_features": 128}})


def flux2():
    return small(
        comfy.supported_models.Flux2, comfy.model_base.Flux2, image_model="flux2", in_channels=128,
        out_channels=128, patch_size=1, vec_in_dim=None, context_in_dim=12, hidden_size=64, mlp_ratio=3.0,
        num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[8, 8, 8, 8], theta=2000, qkv_bias=False,
        guidance_embed=True, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False)


def chroma():
    return small(
        comfy.supported_models.Chroma, comfy.model_base.Chroma, image_model="chroma", in_channels=64,
        out_channels=64, patch_size=2, context_in_dim=12, hidden_size=48, mlp_ratio=2.0, num_heads=2, depth=2,
        depth_single_blocks=2, axes_dim=[4, 10, 10], theta=10000, qkv_bias=True, in_dim=64, out_dim=48,
        hidden_dim=32, n_layers=2, txt_ids_dims=[], vec_in_dim=8)


def qwen():
    return small(
        comfy.supported_models.QwenImage, comfy.model_base.QwenImage, image_model="qwen_image",
        num_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=12,
        axes_dims_rope=(8, 12, 12))


def lumina(dim=64, heads=2, **more):
    return small(
        comfy.supported_models.Lumina2, comfy.model_base.Lumina2, image_model="lumina2", patch_size=2,
        in_channels=16, dim=dim, n_layers=2, n_refiner_layers=1, n_heads=heads, n_kv_heads=heads,
        qk_norm=True, cap_feat_dim=12, axes_dims=(8, 12, 12), axes_lens=(300, 512, 512),
        ffn_dim_multiplier=2.0, multiple_of=32, **more)


def z_image():
    return lumina(256, 8, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)


def anima():
    return small(
        comfy.supported_models.Anima, comfy.model_base.Anima, image_model="anima", max_img_h=240,
        max_img_w=240, max_frames=128, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
        model_channels=64, num_blocks=2, num_heads=2, crossattn_emb_channels=1024, pos_emb_cls="rope3d",
        use_adaln_lora=True, adaln_lora_dim=16, extra_per_block_abs_pos_emb=False)


MODELS = {"sd3": (sd3, 12), "flux": (flux, 12)}  # name -> maker, width of its text


def conditioning(width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 4, width, generator=generator),
             {"pooled_output": torch.randn(1, 8, generator=generator)}]]
