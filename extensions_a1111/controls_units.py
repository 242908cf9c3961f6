"""sd-webui-controlnet's units as one blend, for a pass: proxies in the place of their nets.

The extension asks each unit's net in turn, weighs what it gives, and adds it up. A proxy only takes the
question down; that of the last unit that acts answers for all, in weights that the extension leaves alone.
"""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..controls.blended import Blend
from ..controls.calls import View
from ..controls.children import NEGATIVE, Call, Child
from ..controls.curves import SOFT
from ..controls.multi import Batch, Residuals, Rule, pick_rows
from .controls_panel import TITLE, Settings
from .scope import Clock, patched

log = logging.getLogger("tweedie")
MOST = 13  # residuals of a Stable Diffusion 1.x net
T2I_SOFT = (0.25, 0.62, 0.825, 1.0)
SHARP = ("canny", "mlsd")  # preprocessors whose units the extension softens in a hires pass
EDITS = ("colorfix", "inpaint_only")  # those which later read the unit's weight
SEPARATE = "Each"  # begins the batch option by which units share no picture
NEUTRAL = dict(weight=1.0, soft_injection=False, cfg_injection=False, global_average_pooling=False,
               advanced_weighting=None, effective_region_mask=None)


def find_network(p: Any) -> tuple[Any, Any] | None:
    """The extension's script and its hook in this run; None where no unit is enabled."""
    for script in p.scripts.alwayson_scripts:
        network = getattr(script, "latest_network", None)
        if script.title().lower() == "controlnet" and getattr(network, "control_params", None):
            return script, network
    return None


class Unit:
    """A unit's own settings, and its net, as a control of ours."""

    def __init__(self, param: Any, network: Any):
        self.param, self.network, self.cond_hint = param, network, None
        self.soft, self.layers = param.soft_injection, param.advanced_weighting
        self.strength, self.mask = param.weight if self.layers is None else 1.0, param.effective_region_mask
        self.pooled, self.name = param.global_average_pooling, param.preprocessor["name"]
        self.one_sided = param.cfg_injection or param.global_average_pooling
        self.t2i = param.control_model_type.name == "T2I_Adapter"
        outer = param.control_model
        inside = type(outer).__name__ == "PlugableControlModel" and not outer.is_control_lora
        self.control_model = outer.control_model if inside else outer
        self.asked: dict | None = None

    @property
    def active(self) -> bool:
        return not (self.param.guidance_stopped
                    or self.param.disabled_by_hr_option(self.network.is_in_high_res_fix))

    def scales(self, count: int) -> Sequence[float]:
        """Of each residual, as the extension has them."""
        if self.layers is not None:
            return self.layers
        sharp = self.network.is_in_high_res_fix and any(name in self.name for name in SHARP)
        if not (self.soft or sharp):
            return [self.strength] * count
        if self.t2i:
            return [self.strength * factor for factor in T2I_SOFT]
        return [self.strength * SOFT ** float(12 - number) for number in range(count)]

    def finish(self, output: Sequence[Tensor]) -> Residuals:
        """What the net gave, weighed as the unit is set."""
        done = [one * scale for one, scale in zip(output, self.scales(len(output)), strict=False)]
        if self.mask is not None:
            done = [one * torch.nn.functional.interpolate(
                self.mask.to(one.device), size=one.shape[-2:], mode="bilinear") for one in done]
        if self.pooled:
            done = [one.mean((2, 3), keepdim=True) for one in done]
        return {"input": done} if self.t2i else {"output": done[:-1], "middle": done[-1:]}


def not_asked(unit: Unit, t: Tensor) -> bool:
    """Whether the extension leaves this unit out now."""
    return unit.asked is None


def ask(unit: Unit, x: Tensor, t: Tensor, cond: dict, chunks: int, options: dict) -> Residuals | None:
    """The unit's residuals for some rows of what it was asked."""
    rows, count = cond["rows"], len(unit.asked["x"])
    unit.cond_hint = unit.param.used_hint_cond
    given = unit.asked if len(rows) == count else {
        name: pick_rows(value, rows, count) for name, value in unit.asked.items()}
    output = unit.control_model(**given)
    return unit.finish(output) if output else {}


@dataclass
class Group:
    """Units whose residuals meet in the model."""

    units: list[Unit]
    blend: Blend
    network: Any
    clock: Clock

    def take(self, unit: Unit, asked: dict) -> list:
        """A unit's net is called: the residuals to add, none for all but the last unit that acts."""
        unit.asked = asked
        if unit is not [other for other in self.units if other.active][-1]:
            return []
        try:
            found = self.blend.answer(self.look(asked))
        finally:
            for other in self.units:
                other.asked = None
        if found is None:
            return []
        listed = found["input"] if unit.t2i else [*found["output"], *found["middle"]]
        return [0.0 if one is None else one for one in listed]

    def look(self, asked: dict) -> Call:
        """When this call is, and of what; each row of the batch is a chunk of its own."""
        x = asked["x"]
        clock = self.clock
        clock.tick()
        marks = self.network.model.cond_mark.flatten().tolist()
        kinds = tuple(0 if mark else NEGATIVE for mark in marks)
        rows, batch = torch.arange(len(x), device=x.device), Batch(len(x), kinds, tuple(x.shape[-2:]))
        return Call(ask, not_asked, x, asked["timesteps"], {"rows": rows}, {}, batch,
                    clock.step / (clock.last + 1), clock.step, clock.last,
                    (clock.calls, kinds, tuple(x.shape)), x)


def neutral(param: Any) -> dict[str, Any]:
    """What the extension would weigh the answer with, out of its way."""
    name = param.preprocessor["name"]
    if any(edit in name for edit in EDITS):
        return {**NEUTRAL, "weight": param.weight, "advanced_weighting": [1.0] * MOST}
    softened = {"preprocessor": {**param.preprocessor, "name": "none"}} if any(
        sharp in name for sharp in SHARP) else {}
    return {**NEUTRAL, **softened}


def take_for(group: Group, unit: Unit):
    return lambda net, options: group.take(unit, options)


@contextmanager
def blend_units(settings: Settings, p: Any) -> Iterator[None]:
    """The units of this pass joined by the settings; the extension's own state is put back behind it."""
    found = find_network(p)
    if found is None:
        yield
        return
    script, network = found
    if str(script.ui_batch_option_state[0]).startswith(SEPARATE):
        log.warning("%s: each ControlNet unit is for an image of its own (ControlNet's batch option), so "
                    "nothing is blended; the picture is the extension's own", TITLE)
        yield
        return
    params = [param for param in network.control_params
              if param.control_model_type.is_controlnet or param.control_model_type.name == "T2I_Adapter"]
    units = [Unit(param, network) for param in params]
    rules = [Rule(rule.curve, uncond=0.0 if unit.one_sided else 1.0, priority=rule.priority)
             for unit, rule in zip(units, settings.rules(len(units)), strict=True)]
    with ExitStack() as stack:
        for t2i in (False, True):
            pairs = [(unit, rule) for unit, rule in zip(units, rules, strict=True) if unit.t2i == t2i]
            blend = Blend([Child(unit, rule, not t2i) for unit, rule in pairs], settings.policy,
                          settings.reuse, settings.union)
            group = Group([unit for unit, _ in pairs], blend, network, Clock(p.sampler.model_wrap_cfg))
            for unit, _ in pairs:
                view = View(unit.param.control_model, take_for(group, unit))
                stack.enter_context(patched(unit.param, control_model=view, **neutral(unit.param)))
        yield
