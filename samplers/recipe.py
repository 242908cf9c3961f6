"""Settings, the knobs that every recipe has beside those of its band and its map; and presets, as data."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from ..plugin import Range, read_knobs
from .spectral import BANDS, Recipe, Time, tabulate
from .structure import MAPS


@dataclass(frozen=True)
class Settings:
    """Plain guidance until a band or a map differs from neutral."""

    time: Time = "constant"
    strength: Annotated[float, Range(0, 2, 0.05, "0 is plain guidance, 1 is as set.")] = 1.0
    keep_energy: bool = True
    start_percent: Annotated[float, Range(0, 1, 0.01, "Share of the run before weights act.")] = 0.0
    end_percent: Annotated[float, Range(0, 1, 0.01, "Share of the run after which they no longer act.")] = 1.0

    def checked(self) -> Settings:
        """The same in the right types; ValueError says what is out of range."""
        return Settings(**{knob.name: knob.check(getattr(self, knob.name), "Spectral guidance")
                           for knob in read_knobs(Settings)})


def compose(bands: Callable[[Tensor], Tensor] | None, structure: Callable[..., Tensor] | None,
            settings: Settings, powers: Sequence[float]) -> Recipe:
    """A recipe of a gain over radius and a map, either None for neutral; powers for `deciding`."""
    gain = bands or (lambda radius: radius * 0 + 1)
    return Recipe(tabulate(gain, settings.keep_energy), settings.time, structure, settings.strength,
                  settings.keep_energy, tuple(powers))


def bind(id: str, registry: Mapping[str, Any], knobs: Mapping[str, Any]) -> Callable | None:
    """A band or a map with its knobs, checked when it is called; None for the map `off`."""
    return None if id == "off" else lambda *contract: registry[id](*contract, **knobs)


PRESETS: dict[str, dict[str, Any]] = {  # a band and a map by name, their knobs, and settings
    "detail first": {"bands": "two_band", "band_knobs": {"high": 3.0}},
    "detail, deciding": {"bands": "two_band", "band_knobs": {"high": 3.0}, "time": "deciding"},
    "limbs first": {"bands": "three_band", "band_knobs": {"mid": 3.0}},
    "coherent": {"structure": "coherence", "map_knobs": {}},
}


def preset(name: str, powers: Sequence[float]) -> Recipe:
    given = PRESETS[name]
    settings = {key: value for key, value in given.items() if key in Settings.__dataclass_fields__}
    return compose(bind(given.get("bands", "off"), BANDS, given.get("band_knobs", {})),
                   bind(given.get("structure", "off"), MAPS, given.get("map_knobs", {})),
                   Settings(**settings), powers)
