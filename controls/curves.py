"""(points "0:1, 0.6:1, 0.6:0", or a preset) -> Curve: a control's weight over progress or depth, 0..1."""
from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Points = tuple[tuple[float, float], ...]
LONGEST, MOST, HIGHEST = 2000, 64, 10.0  # characters, points, weight
SOFT = 0.825  # of sd-webui-controlnet's soft injection

# Poses and depth settle a picture's layout early, lines its contours, a tile its detail.
CURVES: dict[str, Points] = {
    "always": ((0, 1),),
    "structure early": ((0, 1), (0.6, 1), (0.6, 0)),
    "lines": ((0, 1), (0.8, 1), (0.8, 0)),
    "detail late": ((0, 0), (0.3, 0), (0.3, 1)),
    "fade out": ((0, 1), (1, 0)),
}


@dataclass(frozen=True)
class Curve:
    """Points (x, weight) in ascending x: linear between them, level beyond; at a jump the higher holds."""

    points: Points = CURVES["always"]

    def __call__(self, x: float) -> float:
        places = [place for place, _ in self.points]
        at = [weight for place, weight in self.points if place == x]
        if at:
            return max(at)
        right = bisect_left(places, x)
        if right in (0, len(places)):
            return self.points[min(right, len(places) - 1)][1]
        (x0, low), (x1, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (x - x0) / (x1 - x0)


ALWAYS = Curve()
Layers = Callable[[int, int], float]  # (layer, layers) -> factor; layer 0 is the nearest to the picture


@dataclass(frozen=True)
class Soft:
    """0.825^(n-i) of the layers 0..n: the deepest is kept whole, so that the prompt has more to say."""

    base: float = SOFT

    def __call__(self, layer: int, layers: int) -> float:
        return self.base ** (layers - 1 - layer)


@dataclass(frozen=True)
class Depth:
    """A curve over depth."""

    curve: Curve = ALWAYS

    def __call__(self, layer: int, layers: int) -> float:
        return self.curve(layer / max(layers - 1, 1))


EVEN = Depth()
LAYERS: dict[str, Layers] = {
    "even": EVEN,
    "soft": Soft(),
    "prompt more important": Soft(),
    "control more important": Soft(),
}
ONE_SIDED = "control more important"  # which leaves the negative prompt's pass without the control


def read_points(text: str, presets: Mapping[str, object], name: str) -> Points:
    """Points as written; numbers alone are spread evenly. ValueError says what can't be read."""
    words = re.split(r"[\s,;]+", text[:LONGEST].strip(" \t\r\n,;"))
    if len(text) > LONGEST or len(words) > MOST:
        raise ValueError(f"{name}: the text has {len(text)} characters and {len(words)} points or more; give "
                         f"at most {MOST} points")
    points = []
    for number, word in enumerate(words):
        place, mark, weight = word.rpartition(":")
        try:
            x = float(place) if mark else number / max(len(words) - 1, 1)
            points.append((x, float(weight)))
        except ValueError:
            raise ValueError(f"{name}: {text[:60]!r} is neither a preset nor points; choose one of "
                             f"{', '.join(presets)}, or give points such as 0:1, 0.6:1, 0.6:0") from None
    for x, weight in points:
        if not (0 <= x <= 1 and 0 <= weight <= HIGHEST):
            raise ValueError(f"{name}: point {x:g}:{weight:g} is out of range; give 0..1 before the colon, "
                             f"0 to {HIGHEST:g} behind it")
    if points != sorted(points, key=lambda point: point[0]):
        raise ValueError(f"{name}: the points of {text[:60]!r} go back; give them in ascending order")
    return tuple(points)


def read_curve(text: str, name: str) -> Curve:
    """A preset of CURVES, or points `progress:weight`."""
    preset = CURVES.get(text.strip().lower())
    return Curve(preset or read_points(text, CURVES, name))


def read_layers(text: str, name: str) -> Layers:
    """A preset of LAYERS, or points `depth:weight`, depth 0 being the layers nearest to the picture."""
    preset = LAYERS.get(text.strip().lower())
    return preset or Depth(Curve(read_points(text, LAYERS, name)))
