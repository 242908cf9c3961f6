"""Zero terminal SNR on a v-prediction model, and the first step that keeps any sampler finite there."""
from __future__ import annotations

import copy
import logging

import comfy.patcher_extension
import torch
from comfy.samplers import KSAMPLER
from comfy_api.latest import io

from ..samplers.solvers import with_safe_start
from ..samplers.table import TERMINAL
from ..samplers.zero_snr import refuse, rescale_cfg, rescale_table
from .model import is_flow, prediction

log = logging.getLogger("tweedie")
CATEGORY = "tweedie/schedules"


class SafeStart(KSAMPLER):
    """A KSAMPLER whose function is wrapped when the run begins, as only then model and start are known."""

    def __init__(self, inner: KSAMPLER, calibrate: bool = False):
        super().__init__(inner.sampler_function, inner.extra_options, inner.inpaint_options)
        self.calibrate = calibrate

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *args, **kwargs):
        blank = latent_image is None or not torch.count_nonzero(latent_image)
        flow = is_flow(model_wrap.inner_model.model_sampling)
        function = with_safe_start(
            self.sampler_function, flow,
            calibrate=self.calibrate and blank and self.max_denoise(model_wrap, sigmas))
        safe = KSAMPLER(function, self.extra_options, self.inpaint_options)
        return safe.sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)


def start_safely(executor, noise, latent_image, sampler, *args, **kwargs):
    """OUTER_SAMPLE: this run's sampler, wrapped."""
    if type(sampler) is KSAMPLER:
        sampler = SafeStart(sampler)
    elif not isinstance(sampler, SafeStart):
        log.warning("zero terminal SNR: %s is no k-diffusion sampler; its first step stays as it is",
                    type(sampler).__name__)
    return executor(noise, latent_image, sampler, *args, **kwargs)


def rescaler(phi: float):
    """Post-CFG hook: Lin et al.'s CFG rescale; without guidance there is nothing to rescale."""
    def rescale(args):
        if args["cond_scale"] == 1 or args["cond_denoised"] is None:
            return args["denoised"]
        return rescale_cfg(args["input"], args["sigma"], args["denoised"], args["cond_denoised"], phi)
    return rescale


class TweedieZeroTerminalSNR(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieZeroTerminalSNR", display_name="Tweedie Zero Terminal SNR", category=CATEGORY,
            description="Lets a v-prediction model start from pure noise, so that it can paint black and "
                        "white (Lin et al. 2023). Refuses epsilon models, where it can't work.",
            search_aliases=["ztsnr", "zsnr", "zero snr", "v prediction"],
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("rescale_cfg", default=0.7, min=0.0, max=1.0, step=0.05, tooltip=(
                    "phi: how far guided v is brought back to the spread of the conditional v; 0 is off.")),
                io.Boolean.Input("safe_first_step", default=True, tooltip=(
                    "Take the first step in its exponential form, with which every sampler stays finite.")),
            ],
            outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, rescale_cfg, safe_first_step) -> io.NodeOutput:
        sampling = model.get_model_object("model_sampling")
        refuse(prediction(sampling))
        patched = model.clone()
        if float(sampling.sigmas[-1]) <= TERMINAL:
            sampling = copy.deepcopy(sampling)
            sampling.set_sigmas(rescale_table(sampling.sigmas))
            sampling.zsnr = True
            patched.add_object_patch("model_sampling", sampling)
        if rescale_cfg > 0:
            patched.set_model_sampler_post_cfg_function(rescaler(rescale_cfg))
        if safe_first_step:
            patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE,
                                         "tweedie_safe_first_step", start_safely)
        return io.NodeOutput(patched)


class TweedieSafeFirstStep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieSafeFirstStep", display_name="Tweedie Safe First Step", category=CATEGORY,
            description="Where a schedule starts without signal (zero terminal SNR, flow), takes the "
                        "sampler's first step in the form that stays finite, then hands over. Elsewhere the "
                        "sampler is untouched.",
            search_aliases=["ztsnr heun", "exponential first step"],
            inputs=[
                io.Sampler.Input("sampler"),
                io.Boolean.Input("calibrate_dc", default=False, optional=True, advanced=True, tooltip=(
                    "For epsilon models: asks the model twice which mean colour it expects, and starts from "
                    "noise with that mean. Two evaluations; only for full denoise from an empty latent.")),
            ],
            outputs=[io.Sampler.Output()])

    @classmethod
    def execute(cls, sampler, calibrate_dc=False) -> io.NodeOutput:
        if not isinstance(sampler, KSAMPLER):
            raise ValueError(f"Safe first step: got a {type(sampler).__name__}, which has no sampler "
                             "function to wrap; connect a k-diffusion sampler such as KSamplerSelect's")
        return io.NodeOutput(SafeStart(sampler, calibrate_dc))


NODES = [TweedieZeroTerminalSNR, TweedieSafeFirstStep]
