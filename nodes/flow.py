"""A model whose schedules are shifted for the size of the latent being sampled, with any sampler node."""
from __future__ import annotations

import copy
import math

import comfy.model_sampling as ms
import comfy.patcher_extension
from comfy_api.latest import io

from ..samplers.flow import Rule, relative_shift, shift_sigmas
from ..samplers.table import own_shift
from .model import is_flow, reference_tokens


def set_shift(sampling, shift: float) -> None:
    """Give a flow model's sampling object this shift, so that a run's percentages mean shifted sigmas too."""
    if isinstance(sampling, ms.ModelSamplingFlux):
        sampling.set_parameters(shift=math.log(shift))
    elif isinstance(sampling, ms.ModelSamplingDiscreteFlow):
        extra = {"audio_shift": sampling.audio_shift} if hasattr(sampling, "audio_shift") else {}
        sampling.set_parameters(shift=shift, multiplier=sampling.multiplier, **extra)


def shifter(rule: Rule, shift: float):
    """OUTER_SAMPLE: shift the run's sigmas, and the patch's own shift while the run lasts."""
    def shift_for_latent(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        model = executor.class_obj.model_patcher
        sampling = model.get_model_object("model_sampling")
        shape = tuple((kwargs.get("latent_shapes") or [noise.shape])[0])
        ratio = relative_shift(shape, rule, shift, sampling.sigmas, reference_tokens(model, shape))
        if ratio == 1:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        sigmas = shift_sigmas(sigmas, sampling.sigmas, ratio)
        if not is_flow(sampling):
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        before = {name: getattr(sampling, name) for name in ("shift", "sigmas") if hasattr(sampling, name)}
        try:
            set_shift(sampling, own_shift(sampling.sigmas) * ratio)
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            for name, value in before.items():
                setattr(sampling, name, value)
    return shift_for_latent


class TweedieFlowShift(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieFlowShift", display_name="Tweedie Flow Shift", category="tweedie/schedules",
            description="Shifts any schedule for the size of the latent that is sampled: larger pictures "
                        "need more steps at high noise. Works on flow models and on SD/SDXL.",
            search_aliases=["ModelSamplingSD3", "ModelSamplingFlux", "resolution shift", "time shift"],
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("rule", options=list(Rule.__args__), default="sqrt", tooltip=(
                    "sqrt: shift x sqrt(positions / the model's own size). mu: Flux's, clamped to 256..4096 "
                    "tokens. mu_raw: unclamped, grows exponentially. fixed: the same at every size.")),
                io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.01, tooltip=(
                    "Shift at the model's own size; 0 takes the model's. Not used by the mu rules.")),
            ],
            outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, rule, shift) -> io.NodeOutput:
        patched = model.clone()
        patched.add_object_patch("model_sampling", copy.deepcopy(model.get_model_object("model_sampling")))
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "tweedie_flow_shift",
                                     shifter(rule, shift))
        return io.NodeOutput(patched)


NODES = [TweedieFlowShift]
