"""What the blending panel's widgets say, by position or by name -> Settings: checked, with infotext."""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..controls.blends import BLENDS
from ..controls.curves import CURVES, read_curve
from ..controls.multi import Reuse, Rule
from ..plugin import Knob, read_knobs
from .forms import check, fill_in, refuse_unknown

TITLE = "Tweedie Control Blend"
LABELS = {"enabled": "Blend ControlNet units", "policy": "Policy", "reuse": "Reuse residuals",
          "interval": "Reuse: interval", "threshold": "Reuse: threshold", "curves": "Strength curves",
          "priorities": "Priorities", "union": "One call for the types of a union net"}
TIPS = {"curves": f"A line for each enabled unit: {', '.join(CURVES)}, or points progress:weight such as "
                  "0:1, 0.6:1, 0.6:0. They multiply the unit's weight.",
        "priorities": "For policy project: a number for each enabled unit, such as 2, 1."}


@functools.cache
def knobs() -> Mapping[str, Knob]:
    """name -> knob of every widget, in their order; a policy's own knobs carry its name."""
    own = {f"{id}_{knob.name}": knob for id, plugin in BLENDS.items() for knob in plugin.knobs}
    return {"enabled": Knob("enabled", bool, False),
            "policy": Knob("policy", str, next(iter(BLENDS)), choices=tuple(BLENDS)), **own,
            **{"reuse" if knob.name == "mode" else knob.name: knob for knob in read_knobs(Reuse)},
            "curves": Knob("curves", str, ""), "priorities": Knob("priorities", str, ""),
            "union": Knob("union", bool, False)}


def label_of(name: str) -> str:
    id, _, knob = name.partition("_")
    return LABELS.get(name) or f"{BLENDS[id].label}: {knob.replace('_', ' ')}"


def key_of(name: str) -> str:
    """The widget's key in infotext."""
    return "Tweedie controls" if name == "enabled" else f"Tweedie controls {name.replace('_', ' ')}"


@dataclass(frozen=True)
class Settings:
    """Checked values of all the widgets, by name."""

    values: Mapping[str, Any]

    @property
    def enabled(self) -> bool:
        return self.values["enabled"]

    @property
    def union(self) -> bool:
        return self.values["union"]

    @property
    def policy(self) -> Callable:
        id = self.values["policy"]
        own = {knob.name: self.values[f"{id}_{knob.name}"] for knob in BLENDS[id].knobs}
        return lambda residuals, weights: BLENDS[id](residuals, weights, **own)

    @property
    def reuse(self) -> Reuse:
        return Reuse(*(self.values[name] for name in ("reuse", "interval", "threshold")))

    def rules(self, count: int) -> list[Rule]:
        """One for each of so many units; ValueError where more are written."""
        lines = self.values["curves"].rstrip().splitlines()
        words = re.split(r"[\s,;]+", self.values["priorities"].strip(" ,;\n"))
        words = [] if words == [""] else words
        for what, given in (("curves", lines), ("priorities", words)):
            if len(given) > count:
                raise ValueError(f"{TITLE}: there are {len(given)} {what} for {count} enabled units; take "
                                 "some away, or enable more units")
        try:
            priorities = [float(word) for word in words]
        except ValueError:
            raise ValueError(f"{TITLE}: priorities are {self.values['priorities'][:60]!r}; give numbers such "
                             "as 2, 1") from None
        curves = [read_curve(line or "always", f"{TITLE}, curve {number}")
                  for number, line in enumerate(lines, 1)]
        return [Rule(curve=curves[number] if number < len(curves) else Rule.curve,
                     priority=priorities[number] if number < len(priorities) else 0.0)
                for number in range(count)]

    def infotext(self) -> dict[str, Any]:
        """Whatever makes the picture another than the host's own; a value that does not act is left out."""
        if not self.enabled:
            return {}
        idle = {name: name != self.values["reuse"] for name in ("interval", "threshold")}
        idle |= {f"{id}_{knob.name}": id != self.values["policy"]
                 for id, plugin in BLENDS.items() for knob in plugin.knobs}
        return {key_of(name): self.values[name] for name, knob in knobs().items()
                if name in ("enabled", "policy")
                or (self.values[name] != knob.default and not idle.get(name))}


def take_names(names: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(TITLE, names, knobs())
    return dict(names)


def read(values: Sequence[Any], axes: Mapping[str, Any] | None = None) -> Settings:
    """The widgets' values in order, or the first of them a dict of names; ValueError says what is wrong.

    axes: what X/Y/Z plots set in this cell, by name; an axis switches the panel on.
    """
    given = fill_in({name: knob.default for name, knob in knobs().items()}, values, axes, take_names)
    return Settings({name: check(TITLE, knob, given[name]) for name, knob in knobs().items()})
