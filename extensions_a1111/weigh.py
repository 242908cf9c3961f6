"""(Panel, the host's pass) -> change of its guided steps: bands and map, energy, then the companions."""
from __future__ import annotations

import functools
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..samplers.guidance import Companions, Memory, guide
from ..samplers.power import find_powers
from ..samplers.spectral import Recipe, Window, partition, reweight
from . import host
from .panel import Panel


def make_change(panel: Panel, p: Any, x: Tensor) -> host.Change:
    """For one pass, whose latent is x [B,C,*S]; ValueError where the settings contradict each other."""
    deciding = panel.settings.time == "deciding" and panel.weighs
    recipe = panel.recipe(find_powers([host.latent_format(p.sd_model)], x.shape[1]) if deciding else ())
    recipe.excess(tuple(x.shape[2:]), x.device)
    companions, memory, denoiser = panel.companions, Memory(), p.sampler.model_wrap_cfg
    begin, end = panel.settings.start_percent, panel.settings.end_percent

    @functools.cache
    def window() -> Window:  # not before the first step: the schedules' panel may change the table for a pass
        return Window.of(host.model_table(p.sd_model), begin, end)

    def change(step: host.Step) -> Tensor:
        if step.uncond is None or step.scale == 0 or math.isclose(step.scale, 1) or not step.uncond.any():
            return step.guided
        with full_precision(step.x):
            regions = changeable(denoiser, tuple(step.x.shape[2:]))
            guided = weigh(step, recipe, window(), denoiser.step, regions)
            progress = denoiser.step / (denoiser.total_steps or 1)
            return guided if companions.neutral else accompany(
                step._replace(guided=guided), companions, memory, window().flow, progress)

    return change


def full_precision(x: Tensor) -> AbstractContextManager:
    """A1111 samples under autocast, where the cosine transform's products would be half precision."""
    on = x.device.type in ("cuda", "cpu")  # elsewhere A1111 casts by modules
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


def changeable(denoiser: Any, space: tuple[int, ...]) -> Tensor | None:
    """Where inpainting lets the picture change, and the rest, as regions [2,1,1,*S]; None without a mask."""
    mask = getattr(denoiser, "nmask", None)
    return None if mask is None else partition([mask.reshape(-1, *mask.shape[-2:])[:1]], space)


def weigh(step: host.Step, recipe: Recipe, window: Window, seed: int = 0,
          regions: Tensor | None = None) -> Tensor:
    """The guided estimate, its distance to `uncond` reweighted: all prompts with weights, and the scale.

    Weights and energy are relative, so the scale in it does not matter. Where nothing is added, the estimate
    is the host's bit for bit.
    """
    delta = step.guided.float() - step.uncond.float()
    added = reweight(delta, recipe, window, step.sigma, step.guided, step.uncond, seed, regions)
    return step.guided + added.to(step.guided)


def accompany(step: host.Step, c: Companions, memory: Memory, flow: bool, progress: float) -> Tensor:
    """The guided estimate with what the companions make of it added to it.

    Several prompts count as one, the `cond` that leads to `guided` at this scale.
    """
    guided, uncond = step.guided.float(), step.uncond.float()
    cond = uncond + (guided - uncond) / step.scale
    plain = uncond + (cond - uncond) * step.scale
    added = guide(step.x, step.sigma, cond, uncond, step.scale, c, memory, flow, progress) - plain
    return step.guided + added.to(step.guided)
