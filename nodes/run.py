"""What one sampling run remembers: made when it begins, gone with its own model options when it ends."""
from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ..controls.regions import MaskSet
from ..samplers.guidance import Memory
from ..samplers.spectral import Window, partition
from .regional import KEY as PLAN

log = logging.getLogger("tweedie")
KEY = "tweedie_run"


@dataclass
class Run:
    """seed: the run's. changeable: where a denoise mask lets the picture change [B,*S], or None.

    windows are keyed by their percents, memories and calls by the hook that has them.
    """

    seed: int
    changeable: Tensor | None = None
    windows: dict[tuple[float, float], Window] = field(default_factory=dict)
    memories: dict[object, Memory] = field(default_factory=dict)
    calls: Counter = field(default_factory=Counter)
    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        """Log a line, once a run."""
        if text not in self.said:
            self.said.add(text)
            log.warning("%s", text)

    def window(self, args: dict, start: float, end: float) -> Window:
        """Read once from the table that this run has; reading waits for the device."""
        if (start, end) not in self.windows:
            self.windows[start, end] = Window.of(args["model"].model_sampling.sigmas, start, end)
        return self.windows[start, end]


def begin(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None,
          disable_pbar=False, seed=None, **options):
    """OUTER_SAMPLE: a new Run in the run's own copy of the model options; all hooks share it."""
    changeable = None if denoise_mask is None else denoise_mask.amax(1)
    executor.class_obj.model_options.setdefault(KEY, Run(seed or 0, changeable))
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed,
                    **options)


def add_hook(model, hook, last: bool = False):
    """A clone of the model with a pre-CFG hook; those marked `last` stay behind all others."""
    patched = model.clone()
    hook.tweedie_last = last
    patched.set_model_sampler_pre_cfg_function(hook)
    hooks = patched.model_options["sampler_pre_cfg_function"]
    hooks.sort(key=lambda one: getattr(one, "tweedie_last", False))
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, begin)
    return patched


def packed(args: dict) -> bool:
    """Several streams in one flat latent (audio beside video), or no rows and columns at all."""
    return len(getattr(args["model"], "latent_shapes", None) or [1]) > 1 or args["input"].ndim not in (4, 5)


def progress(args: dict) -> Tensor:
    """Share of the run's steps that are done, 0..1, a scalar on the device."""
    sigmas = args["model_options"]["transformer_options"]["sample_sigmas"]
    return (sigmas > args["sigma"][:1] * (1 + 1e-5)).sum() / (len(sigmas) - 1)


def area_mask(area: tuple[int, ...], space: tuple[int, ...], device: torch.device) -> Tensor:
    """A conditioning's area, sizes then offsets, as a mask [1,*space]."""
    mask = torch.zeros(1, *space, device=device)
    inside = mask[0]
    for axis, (size, offset) in enumerate(zip(area[: len(space)], area[len(space):], strict=True)):
        inside = inside.narrow(axis, offset, size)
    inside.fill_(1)
    return mask


def regional_masks(masks: MaskSet, space: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Each region's shares of the picture [1,*space], alike in every frame."""
    shares = masks.on(space[-2:], space[-2:], tuple(range(len(masks.regions))), device)[1:]
    return [share.expand(1, *space) for share in shares]


def regions(args: dict, run: Run) -> Tensor | None:
    """The prompt's regions as shares [R,1|B,1,*S], within what may change; None for one region all over."""
    space, device, masks = tuple(args["input"].shape[2:]), args["input"].device, []
    for cond in args["conds"][0]:
        if "mask" in cond and tuple(cond["mask"].shape[1:]) == space:
            mask = comfy.utils.repeat_to_batch_size(cond["mask"], len(args["input"]))
            masks.append(mask.to(device).float())
        elif PLAN in cond:
            masks += regional_masks(cond[PLAN].masks, space, device)
        elif cond.get("area") and len(cond["area"]) == 2 * len(space):
            masks.append(area_mask(cond["area"], space, device))
    if run.changeable is not None and tuple(run.changeable.shape[1:]) == space:
        inside = run.changeable.to(device).float()
        masks = [mask * inside for mask in masks] or [inside]
    return partition(masks, space) if masks else None
