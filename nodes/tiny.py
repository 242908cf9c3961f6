"""The demo's own tiny model as MODEL, CLIP, VAE and two CONTROL_NETs, built from the host's classes."""
from __future__ import annotations

from typing import ClassVar

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_base
import comfy.model_detection
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..demo.tiny.checkpoint import UNET_HEADS, VAE_SIZES, read
from ..demo.tiny.layout import WIDTH, check, pad_hint

TEXT_SIZES = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": WIDTH // 64,
              "num_hidden_layers": 2}  # the rest is CLIP-L's


class Epsilon(comfy.supported_models.SD15):
    tweedie_side = 128  # pixels, for what goes by a model's own size
    unet_extra_config: ClassVar[dict] = {"num_heads": UNET_HEADS, "num_head_channels": -1}

    def load_dtype(self, parameters: int, device) -> None:
        """Let the host choose what to store and what to compute in."""
        supported = self.supported_inference_dtypes
        dtype = management.unet_dtype(model_params=parameters, supported_dtypes=supported,
                                      weight_dtype=torch.float16)
        self.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))


class V(Epsilon):
    sampling_settings: ClassVar[dict] = {"zsnr": True}

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


FAMILIES = {"v": V, "epsilon": Epsilon}
PREDICTIONS = {"v, zero terminal SNR": "v", "epsilon": "epsilon"}


def patcher_class(disable_dynamic: bool):
    return comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher


def load_model(prediction: str, disable_dynamic: bool = False):
    """MODEL, as `comfy.sd.load_diffusion_model_state_dict` does it, less the guess of the family."""
    weights, device = read(f"unet_{prediction}"), management.get_torch_device()
    settings = FAMILIES[prediction](comfy.model_detection.detect_unet_config(weights, ""))
    settings.load_dtype(comfy.utils.calculate_parameters(weights), device)
    offload = management.unet_offload_device()
    model = settings.get_model(weights, "").to(offload)
    check("UNet in this ComfyUI", weights, model.diffusion_model.state_dict())
    patcher = patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (prediction,))
    return patcher


def load_clip(disable_dynamic: bool = False):
    """CLIP in our sizes, which the host's CLIP-L takes as options."""
    weights = {f"clip_l.transformer.{name}": value for name, value in read("text").items()}
    weights["clip_l.transformer.text_projection.weight"] = torch.eye(WIDTH)
    weights["clip_l.logit_scale"] = torch.tensor(4.6055)
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target, embedding_directory=folder_paths.get_folder_paths("embeddings"), state_dict=weights,
        parameters=comfy.utils.calculate_parameters(weights),
        model_options={"clip_l_model_config": TEXT_SIZES}, disable_dynamic=disable_dynamic)
    check("text encoder in this ComfyUI", weights, clip.cond_stage_model.state_dict())
    clip.patcher.cached_patcher_init = (lambda disable_dynamic=False: load_clip(disable_dynamic).patcher, ())
    return clip


def load_vae():
    weights = read("vae")
    vae = comfy.sd.VAE(sd=weights, config={"params": {"embed_dim": 4, "ddconfig": dict(VAE_SIZES)}})
    check("VAE in this ComfyUI", weights, vae.first_stage_model.state_dict())
    vae.patcher.cached_patcher_init = (lambda disable_dynamic=False: load_vae().patcher, ())
    return vae


def load_control(name: str):
    """CONTROL_NET; the host's own loader would take our four heads for one."""
    weights, device = pad_hint(read(f"control_{name}")), management.get_torch_device()
    settings = Epsilon(comfy.model_detection.detect_unet_config(weights, ""))
    settings.load_dtype(-1, device)
    cast = settings.manual_cast_dtype
    sizes = {key: value for key, value in settings.unet_config.items() if key != "out_channels"}
    net = comfy.cldm.cldm.ControlNet(**sizes, hint_channels=3, device=management.unet_offload_device(),
                                     operations=comfy.ops.pick_operations(sizes["dtype"], cast))
    net.load_state_dict(weights)
    return comfy.controlnet.ControlNet(net, load_device=device, manual_cast_dtype=cast)


class TweedieTinyLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieTinyLoader", display_name="Tweedie Tiny Loader", category="tweedie/loaders",
            description="A complete little diffusion model that comes with the pack: 128 x 128 pictures of "
                        "simple scenes in seconds on a CPU, to try schedules, controls and regions on.",
            search_aliases=["demo model", "tiny model", "load checkpoint", "test model"],
            inputs=[io.Combo.Input("prediction", options=list(PREDICTIONS), tooltip=(
                "v was trained down to pure noise (zero terminal SNR), epsilon as SD 1.5 was."))],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output(),
                     io.ControlNet.Output(display_name="edges"), io.ControlNet.Output(display_name="depth")])

    @classmethod
    def execute(cls, prediction) -> io.NodeOutput:
        return io.NodeOutput(load_model(PREDICTIONS[prediction]), load_clip(), load_vae(),
                             load_control("edges"), load_control("depth"))


NODES = [TweedieTinyLoader]
