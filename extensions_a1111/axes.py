"""X/Y/Z plot: an axis for every knob that a panel opens to it, put into the grid script's table, once."""
from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from modules import script_callbacks, scripts

from ..plugin import Knob
from ..samplers.recipe import PRESETS
from .panel import weights

ATTRIBUTE = "tweedie_spectral"  # of p: {name: value}, what the axes of this cell have set
MARK = "[Tweedie] "

Row = tuple[str, str, Knob]  # name, label, knob


def spectral_rows() -> list[Row]:
    preset = Knob("preset", str, "", choices=tuple(PRESETS))
    return [("preset", "Preset", preset)] + [
        (name, form.label, form.knob) for name, form in weights().items()]


def register(attribute: str = ATTRIBUTE, rows: Callable[[], Sequence[Row]] = spectral_rows) -> None:
    """At once, for what the host draws before its callbacks, and again where the grid script loads later."""
    add = functools.partial(add_axes, attribute, rows)
    add()
    script_callbacks.on_before_ui(add)


def add_axes(attribute: str, rows: Callable[[], Sequence[Row]]) -> None:
    for grid in [data.module for data in scripts.scripts_data if pathlib.Path(data.path).stem == "xyz_grid"]:
        ours = [make_axis(grid.AxisOption, attribute, *row) for row in rows()]
        labels = {option.label for option in ours}
        grid.axis_options[:] = [option for option in grid.axis_options if option.label not in labels] + ours


def make_axis(option: type, attribute: str, name: str, label: str, knob: Knob) -> Any:
    choices = ["True", "False"] if knob.kind is bool else list(knob.choices)
    kind = knob.kind if knob.range else str
    return option(MARK + label, kind, set_by_axis(attribute, name, knob),
                  choices=(lambda: choices) if choices else None)


def set_by_axis(attribute: str, name: str, knob: Knob) -> Callable:
    def apply(p: Any, value: Any, values: list) -> None:
        value = value == "True" if knob.kind is bool else value
        setattr(p, attribute, {**getattr(p, attribute, {}), name: value})  # a cell's p is a shallow copy
    return apply
