"""X/Y/Z plot: an axis for every weight of spectral guidance, put into the grid script's table, once."""
from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from modules import script_callbacks, scripts

from ..plugin import Knob
from ..samplers.recipe import PRESETS
from .panel import weights

ATTRIBUTE = "tweedie_spectral"  # of p: {name: value}, what the axes of this cell have set
MARK = "[Tweedie] "


def register() -> None:
    """At once, for what the host draws before its callbacks, and again where the grid script loads later."""
    add_axes()
    script_callbacks.on_before_ui(add_axes)


def add_axes() -> None:
    for grid in [data.module for data in scripts.scripts_data if pathlib.Path(data.path).stem == "xyz_grid"]:
        others = [option for option in grid.axis_options if not option.label.startswith(MARK)]
        preset = Knob("preset", str, "", choices=tuple(PRESETS))
        knobs = [("preset", "Preset", preset)] + [
            (name, form.label, form.knob) for name, form in weights().items()]
        grid.axis_options[:] = others + [make_axis(grid.AxisOption, *row) for row in knobs]


def make_axis(option: type, name: str, label: str, knob: Knob) -> Any:
    choices = ["True", "False"] if knob.kind is bool else list(knob.choices)
    kind = knob.kind if knob.range else str
    return option(MARK + label, kind, set_by_axis(name, knob), choices=(lambda: choices) if choices else None)


def set_by_axis(name: str, knob: Knob) -> Callable:
    def apply(p: Any, value: Any, values: list) -> None:
        value = value == "True" if knob.kind is bool else value
        setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), name: value})  # a cell's p is a shallow copy
    return apply
