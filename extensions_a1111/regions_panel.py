"""What the regional panel's widgets say, by position or by name -> Settings: checked, with infotext."""
from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..controls.layouts import LAYOUTS
from ..plugin import Knob, Range, read_knobs
from .forms import check, fill_in, refuse_unknown

TITLE = "Tweedie Regional Prompt"
TILED = ("columns", "rows")  # layouts whose regions the prompt itself counts
PAINTED = "colours"  # the layout that takes a picture
SIDE = 1024  # of a painted picture; a larger one is thinned out

PRESETS: dict[str, dict[str, Any]] = {
    "two columns": {"layout": "columns", "ratios": "1,1"},
    "three columns": {"layout": "columns", "ratios": "1,1,1"},
    "wide middle": {"layout": "columns", "ratios": "1,2,1"},
    "two rows": {"layout": "rows", "ratios": "1,1"},
    "sky, and two below": {"layout": "columns", "ratios": "1,1;2,1,1"},
    "quarters": {"layout": "columns", "ratios": "1,1,1;1,1,1"},
}


@dataclass(frozen=True)
class Settings:
    """The panel: its fields are its widgets, in the order of the API's `args`; off by default.

    picture: the painted map [h,w,3] in 0..1 of layout `colours`; the API's is a PNG in base64 or a data URL.
    """

    enabled: bool = False
    mode: Literal["attention", "latent"] = "attention"
    layout: str = "columns"
    ratios: str = "1,1"
    base_ratio: str = "0.2"
    shapes: str = ""
    flip: bool = False
    flip_prompts: bool = False
    feather: Annotated[float, Range(
        0, 1, 0.01, "Width of the soft edge between regions, as a share of the region's own size.")] = 0.0
    start_percent: Annotated[float, Range(0, 1, 0.01, "Share of the run before regions act.")] = 0.0
    end_percent: Annotated[float, Range(0, 1, 0.01, "Share of the run after which they no longer act.")] = 1.0
    overlay: bool = False
    picture: Any = None

    def infotext(self) -> dict[str, Any]:
        """Whatever makes the picture another than the host's own; a painted picture is not in it."""
        if not self.enabled:
            return {}
        given = {name: getattr(self, name) for name in knobs()}
        return {key_of(name): value for name, value in given.items() if self.acts(name, value)}

    def acts(self, name: str, value: Any) -> bool:
        if name in ("enabled", "mode", "layout"):
            return True
        if name == "ratios":
            return self.layout in TILED
        unused = {"flip": self.layout not in TILED, "shapes": self.layout in (*TILED, PAINTED),
                  "overlay": True}
        return value != knobs()[name].default and not unused.get(name, False)


LABELS = {"enabled": "Regions", "mode": "Region mode", "layout": "Layout", "ratios": "Ratios",
          "base_ratio": "Base ratio", "shapes": "Shapes, one region a line", "flip": "Flip , and ;",
          "flip_prompts": "Reverse the regions' order", "feather": "Feather",
          "start_percent": "Regions start", "end_percent": "Regions end",
          "overlay": "Also show the layout over each picture"}

TIPS = {
    "ratios": "Sizes of the regions: 1,2,1. In two levels, 1,2,1;2,4,6, each part's own size comes first.",
    "base_ratio": "Share of the base prompt (ADDBASE) in each region, 0 to 1: one number, or several.",
    "shapes": "Boxes: left top right bottom. Polygons: x y of each corner. Grid: 3 2. Fractions, or pixels.",
}


@functools.cache
def knobs() -> Mapping[str, Knob]:
    """name -> knob of every widget but the picture, in their order."""
    marked = {knob.name: knob for knob in read_knobs(Settings)}
    layouts = tuple(id for id in LAYOUTS if id != "masks")
    marked["layout"] = Knob("layout", str, Settings.layout, choices=layouts)
    return {field.name: marked.get(field.name, Knob(field.name, str, field.default))
            for field in fields(Settings) if field.name != "picture"}


def key_of(name: str) -> str:
    """The widget's key in infotext."""
    return "Tweedie regions" if name == "enabled" else f"Tweedie regions {name.replace('_', ' ')}"


def fill(preset: str) -> dict[str, Any]:
    """The values that a preset sets, by name."""
    if preset not in PRESETS:
        raise ValueError(f"{TITLE}: preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    return {"flip": False, **PRESETS[preset]}


def take_names(names: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name, a preset's first."""
    names = dict(names)
    preset = names.pop("preset", "")
    refuse_unknown(TITLE, names, ["preset", *asdict(Settings())])
    return {**(fill(preset) if preset else {}), **names}


def read(values: Sequence[Any], axes: Mapping[str, Any] | None = None) -> Settings:
    """The widgets' values in order, or the first of them a dict of names; ValueError says what is wrong.

    axes: what X/Y/Z plots set in this cell, by name; an axis switches the panel on.
    """
    given = fill_in(asdict(Settings()), values, axes, take_names)
    checked = {name: check(TITLE, knob, given[name]) for name, knob in knobs().items()}
    return Settings(**checked, picture=read_picture(given["picture"]) if checked["enabled"] else None)


def read_picture(value: Any) -> Tensor | None:
    """A painted map as the host or the API gives it, bytes [h,w,3] or base64 -> [h,w,3] in 0..1."""
    if value is None or (isinstance(value, str) and not value):
        return None
    picture = torch.as_tensor(decode(value) if isinstance(value, str) else value)
    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[-1] < 3 or not picture.numel():
        raise ValueError(f"{TITLE}: the colour map holds {picture.dtype} of shape {list(picture.shape)}; "
                         "give a colour picture")
    step = math.ceil(max(picture.shape[:2]) / SIDE)
    return picture[::step, ::step, :3].float() / 255


def decode(text: str) -> Tensor:
    """A picture file in base64, or its data URL -> uint8 [h,w,3]; ValueError for anything else."""
    from PIL import Image
    try:
        data = base64.b64decode(text.rpartition("base64,")[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) > 16 * SIDE:
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            image = image.convert("RGB")
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{TITLE}: the colour map can't be read ({error}); give a PNG of at most "
                         f"{16 * SIDE} pixels a side in base64") from error
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3)
