"""What the hand repair panel's widgets say, by position or by name -> Panel: checked, with infotext."""
from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..controls.hands.files import OWN
from ..controls.hands.prepare import Settings
from ..plugin import Knob, Range, read_knobs
from .forms import check, fill_in, refuse_unknown

TITLE = "Tweedie Hand Repair"
NONE = "none"
SEP, SKIP, PROMPT = "[SEP]", "[SKIP]", "[PROMPT]"
NETWORK = re.compile(r"<\w+:[^<>]+>")  # what the host reads as an extra network, such as a LoRA
LABELS = {"enabled": "Repair hands", "only_repair": "Only repair the given picture, draw nothing else",
          "detector": "Hand detector", "prompt": "Prompt for hands", "negative": "Negative prompt for hands",
          "depth_model": "Depth ControlNet", "save_before": "Also save the picture before",
          "save_strip": "Also save all tries with their scores"}
TIPS = {"classes": "Names of the detector's classes, by commas; empty for all.",
        "prompt": f"Empty: the picture's. {SEP} parts those of hands 1, 2, .. from the left; {PROMPT} is the "
                  f"picture's; {SKIP} leaves a hand alone.",
        "negative": f"Empty: the picture's; {SEP} and {PROMPT} as above.",
        "depth_model": "A depth ControlNet that is installed: it is given the fitted five-finger hand.",
        "detector": "The first knows drawn hands only. For photographs put a YOLO file into models/adetailer "
                    "or models/ultralytics, or hand_landmarker.task into models/mediapipe."}


@functools.cache
def knobs() -> Mapping[str, Knob]:
    """name -> knob of every widget, in their order."""
    goes, ends = "A finger too many goes from about 0.6 on.", "Share of the run after which depth ends."
    before = [Knob("enabled", bool, False), Knob("only_repair", bool, False), Knob("detector", str, OWN),
              Knob("confidence", float, 0.3, Range(0, 1, 0.01, "How sure the detector must be.")),
              Knob("classes", str, ""), Knob("prompt", str, ""), Knob("negative", str, ""),
              Knob("denoise", float, 0.7, Range(0.01, 1, 0.01, goes)),
              Knob("steps", int, 0, Range(0, 150, 1, "0: as many as the picture's."))]
    after = [Knob("depth_model", str, NONE), Knob("depth_strength", float, 0.55, Range(0, 2, 0.05)),
             Knob("depth_end", float, 0.75, Range(0, 1, 0.01, ends)),
             Knob("save_before", bool, False), Knob("save_strip", bool, False)]
    return {knob.name: knob for knob in (*before, *read_knobs(Settings), *after)}


def label_of(name: str) -> str:
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def key_of(name: str) -> str:
    """The widget's key in infotext."""
    return "Tweedie hands" if name == "enabled" else f"Tweedie hands {name.replace('_', ' ')}"


@dataclass(frozen=True)
class Panel:
    """Checked values of all the widgets, by name."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def settings(self) -> Settings:
        return Settings(**{knob.name: self[knob.name] for knob in read_knobs(Settings)})

    @property
    def depth(self) -> bool:
        return self["depth_model"] != NONE and self["depth_strength"] > 0

    def infotext(self) -> dict[str, Any]:
        """Whatever makes the picture another than the host's own; a value that does not act is left out."""
        if not self["enabled"]:
            return {}
        idle = {"save_before", "save_strip"} | ({"depth_strength", "depth_end"} if not self.depth else set())
        return {key_of(name): self[name] for name, knob in knobs().items()
                if name == "enabled" or (self[name] != knob.default and name not in idle)}


def take_names(names: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(TITLE, names, knobs())
    return dict(names)


def read(values: Sequence[Any], axes: Mapping[str, Any] | None = None) -> Panel:
    """The widgets' values in order, or the first of them a dict of names; ValueError says what is wrong.

    axes: what X/Y/Z plots set in this cell, by name; an axis switches the panel on.
    """
    given = fill_in({name: knob.default for name, knob in knobs().items()}, values, axes, take_names)
    return Panel({name: check(TITLE, knob, given[name]) for name, knob in knobs().items()})


def part_of(text: str, hand: int, whole: str) -> str | None:
    """What a panel's prompt says of a hand, the last part of all further ones; None to leave it alone.

    Extra networks of the whole picture's prompt stay in force.
    """
    parts = text.split(SEP)
    part = parts[min(hand, len(parts) - 1)].strip()
    if part == SKIP:
        return None
    part = part.replace(PROMPT, whole) if part else whole
    missing = [network for network in dict.fromkeys(NETWORK.findall(whole)) if network not in part]
    return " ".join([part, *missing])
