"""The ControlNets of Forge, reForge and Neo as one blend, for a pass: a new head of their linked list."""
from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..controls.blended import Blend
from ..controls.children import Call, Child, out_of_range
from ..controls.multi import Batch, Residuals, progress_at
from .controls_panel import TITLE, Settings
from .scope import Clock, patched

log = logging.getLogger("tweedie")


def ask(control: Any, x: Tensor, t: Tensor, cond: dict, chunks: int, options: dict) -> Residuals | None:
    """Forge and Neo hand options to a control beforehand, reForge with the call."""
    if hasattr(control, "transformer_options"):
        control.transformer_options = options
        return control.get_control(x, t, cond, chunks)
    return control.get_control(x, t, cond, chunks, options)


class Chain:
    """What these hosts take for a control."""

    previous_controlnet = None

    def __init__(self, blend: Blend, clock: Clock):
        self.blend, self.clock, self.transformer_options = blend, clock, {}
        self.model_sampling = self.to_sigma = None
        self.begun: list[Any] = []  # a ControlLora can be cleaned up after its pre_run alone

    @property
    def controls(self) -> list[Any]:
        return [child.control for child in self.blend.children]

    def pre_run(self, model: Any, to_sigma: Any) -> None:
        self.blend.forget()
        self.to_sigma = to_sigma
        self.model_sampling = model.predictor if hasattr(model, "predictor") else model.model_sampling
        for control in self.controls:
            control.pre_run(model, to_sigma)
            self.begun.append(control)

    def cleanup(self) -> None:
        self.blend.forget()
        while self.begun:
            self.begun.pop().cleanup()

    def get_models(self) -> list:
        return [model for control in self.controls for model in control.get_models()]

    def get_extra_hooks(self) -> list:
        return [hooks for control in self.controls for hooks in control.get_extra_hooks()]

    def inference_memory_requirements(self, dtype: Any) -> float:
        """The largest, as they run in turn."""
        return max(control.inference_memory_requirements(dtype) for control in self.controls)

    def get_control(self, x: Tensor, t: Tensor, cond: dict, chunks: int,
                    options: dict | None = None) -> Residuals | None:
        options = self.transformer_options if options is None else options
        self.clock.tick()
        kinds = tuple(options.get("cond_or_uncond", (0,) * chunks))
        seen = self.model_sampling.calculate_input(t, x) if self.blend.reuse.mode == "threshold" else None
        return self.blend.answer(Call(
            ask, out_of_range, x, t, cond, options, Batch(len(x), kinds, tuple(x.shape[-2:])),
            progress_at(float(t[0]), self.to_sigma), self.clock.step, self.clock.last,
            (self.clock.calls, kinds, tuple(x.shape)), seen))


def alone(control: Any) -> Any:
    """A copy outside the list: the host keeps its own for the next picture."""
    copied = copy.copy(control)
    copied.previous_controlnet = None
    return copied


def tiles(unet: Any) -> bool:
    """Whether the built-in MultiDiffusion calls the model, a tile at a time."""
    wrapper = unet.model_options.get("model_function_wrapper")
    return hasattr(getattr(wrapper, "__self__", wrapper), "process_controlnet")


@contextmanager
def blend_chain(settings: Settings, p: Any) -> Iterator[None]:
    """This pass's controls joined by the settings, on a clone of the host's unet."""
    unet = p.sd_model.forge_objects.unet
    controls = [alone(control) for control in reversed(unet.list_controlnets())]
    if controls and tiles(unet):
        log.warning("%s: MultiDiffusion cuts the hints of the host's own controls into tiles, so nothing is "
                    "blended; the picture is the host's own", TITLE)
    if not controls or tiles(unet):
        yield
        return
    pairs = zip(controls, settings.rules(len(controls)), strict=True)
    children = [Child(control, rule, type(control).__name__ == "ControlNet") for control, rule in pairs]
    chain = Chain(Blend(children, settings.policy, settings.reuse, settings.union),
                  Clock(p.sampler.model_wrap_cfg))
    cloned = unet.clone()
    cloned.controlnet_linked_list = chain
    try:
        with patched(p.sd_model.forge_objects, unet=cloned):
            yield
    finally:
        chain.cleanup()
