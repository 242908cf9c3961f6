"""Schedules in ComfyUI: rows in the stock menus, sigmas with every knob, and a picture of what was chosen."""
from __future__ import annotations

import comfy.k_diffusion.sampling as k_diffusion
import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ..plugin import Plugin
from ..samplers.curve import draw_curves
from ..samplers.flow import DenoiseMode, cut, relative_shift, shift_sigmas
from ..samplers.schedules import SCHEDULES
from ..samplers.solvers import sample_2m
from .model import is_flow, reference_tokens, table
from .widgets import choose, chooser

CATEGORY = "tweedie/schedules"


def sample_tweedie_2m(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """`solvers.sample_2m`, told by the host whether the model is a flow model."""
    flow = is_flow(model.inner_model.model_patcher.get_model_object("model_sampling"))
    return sample_2m(model, x, sigmas, extra_args, callback, disable, flow=flow)


def handler(plugin: Plugin):
    return lambda model_sampling, steps: plugin.run(steps, model_sampling.sigmas)


def register_menus() -> None:
    """Add every schedule and `tweedie_2m` to the host's own lists, in place; a second call adds nothing."""
    for plugin in SCHEDULES.values():
        name = f"tweedie_{plugin.id}"
        comfy.samplers.SCHEDULER_HANDLERS[name] = comfy.samplers.SchedulerHandler(handler(plugin))
        if name not in comfy.samplers.SCHEDULER_NAMES:
            comfy.samplers.SCHEDULER_NAMES.append(name)
    k_diffusion.sample_tweedie_2m = sample_tweedie_2m
    for names in (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES):
        if "tweedie_2m" not in names:
            names.append("tweedie_2m")


class TweedieSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TweedieSchedule", display_name="Tweedie Schedule", category=CATEGORY,
            description="Sigmas for any model family, with every knob; with a latent, shifted for its size.",
            search_aliases=["scheduler", "sigmas", "karras", "beta", "log-SNR"],
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("steps", default=20, min=1, max=1000),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Combo.Input("denoise_mode", options=list(DenoiseMode.__args__), default="steps", tooltip=(
                    "steps: the last part of a longer schedule, as the stock nodes do. sigma: start where "
                    "the noise fraction is `denoise`. log_snr: start at that share of the model's log-SNR "
                    "range. The last two begin at the same noise whatever the schedule and the shift.")),
                chooser("schedule", SCHEDULES, "How the steps are spread over the noise levels."),
                io.Latent.Input("latent", optional=True,
                                tooltip="Shift the schedule for this latent's size."),
            ],
            outputs=[io.Sigmas.Output()])

    @classmethod
    def execute(cls, model, steps, denoise, denoise_mode, schedule, latent=None) -> io.NodeOutput:
        if denoise == 0:
            return io.NodeOutput(torch.FloatTensor([]))
        own, ratio = table(model), 1.0
        if latent is not None:
            shape = tuple(latent["samples"].shape)
            ratio = relative_shift(shape, "sqrt", 0, own, reference_tokens(model, shape))
        if schedule.get("last"):  # so that the shifted schedule meets it
            last = torch.tensor([schedule["last"]], dtype=torch.float64)
            schedule = {**schedule, "last": float(shift_sigmas(last, own, 1 / ratio))}
        sigmas_of = choose(SCHEDULES, schedule, "schedule")
        return io.NodeOutput(cut(lambda count, sigmas: shift_sigmas(sigmas_of(count, sigmas), sigmas, ratio),
                                 steps, own, denoise, denoise_mode))


class TweedieScheduleCurve(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        template = io.Autogrow.TemplatePrefix(io.Sigmas.Input("sigmas"), prefix="sigmas_", min=1, max=16)
        return io.Schema(
            node_id="TweedieScheduleCurve", display_name="Tweedie Schedule Curve", category=CATEGORY,
            description="Draws schedules: sigma, log-SNR, where the steps lie, and how many lie above "
                        "log-SNR 0.",
            search_aliases=["plot sigmas", "graph"],
            inputs=[io.Autogrow.Input("sigmas", template=template),
                    io.Model.Input("model", optional=True, tooltip=(
                        "Tells flow models; else sigma 1 at most is taken for one."))],
            outputs=[io.Image.Output()], is_output_node=True)

    @classmethod
    def execute(cls, sigmas, model=None) -> io.NodeOutput:
        curves = {name: values.detach().cpu() for name, values in sigmas.items()
                  if values is not None and len(values)}
        if not curves:
            raise ValueError("Schedule curve: every list of sigmas is empty (denoise 0?); "
                             "connect one with steps in it")
        highest = max(float(values.max()) for values in curves.values())
        flow = is_flow(model.get_model_object("model_sampling")) if model is not None else highest <= 1
        image = draw_curves(curves, flow)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [TweedieSchedule, TweedieScheduleCurve]
