"""What the nodes read off a ComfyUI model: its sigma table, what it predicts, and its reference size."""
from __future__ import annotations

import math

import comfy.model_sampling as ms
from comfy.supported_models import SD20
from torch import Tensor


def table(model) -> Tensor:
    """The model's sigmas, ascending [T], after every patch on it."""
    return model.get_model_object("model_sampling").sigmas.detach().cpu()


def is_flow(sampling) -> bool:
    return isinstance(sampling, ms.CONST)


def prediction(sampling) -> str:
    """epsilon, v, flow, or the class name of what has no discrete table."""
    if is_flow(sampling):
        return "flow"
    discrete = (isinstance(sampling, ms.ModelSamplingDiscrete)
                and not isinstance(sampling, ms.ModelSamplingDiscreteEDM))
    if discrete and isinstance(sampling, ms.V_PREDICTION) and not isinstance(sampling, ms.EDM):
        return "v"
    if discrete and isinstance(sampling, ms.EPS) and not isinstance(sampling, (ms.X0, ms.V_PREDICTION)):
        return "epsilon"
    return type(sampling).__name__


def reference_tokens(model, shape: tuple[int, ...]) -> int:
    """Latent positions at the size that the model family was trained for.

    The pack's tiny model 128x128, SD1 512x512, SD2 v 768x768, other picture models 1024x1024; video models
    832x480 with 81 frames. A video latent of one frame counts as a picture.
    """
    latent = model.get_model_object("latent_format")
    scale = getattr(latent, "spacial_downscale_ratio", 8)
    if len(shape) == 5 and shape[2] > 1:
        return (1 + 80 // getattr(latent, "temporal_downscale_ratio", 4)) * (480 // scale) * (832 // scale)
    side = 1024
    if type(latent).__name__ == "SD15":
        sd2_v = (isinstance(model.model.model_config, SD20)
                 and prediction(model.get_model_object("model_sampling")) == "v")
        side = getattr(type(model.model.model_config), "tweedie_side", 768 if sd2_v else 512)
    return math.ceil(side / scale) ** 2
