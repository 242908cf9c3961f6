"""LAYOUTS: what the user wrote or painted -> masks of regions [R,H,W] in their order, 0..1.

Numbers are fractions of the picture, or pixels where one of them is above 1.
"""
from __future__ import annotations

import colorsys
import math
import re

import torch
from torch import Tensor

from ..plugin import Registry
from .grammar import parse
from .masks import box_mask, check_mask, fit

Size = tuple[int, int]  # rows and columns of the canvas, in pixels
MOST = 64  # regions
NEAR = 0.06  # how far a painted colour may be off, in 0..1 of each channel
BLOCK = 3  # pixels of a side that a painted colour fills somewhere

LAYOUTS = Registry("spec", "size")


def read_lines(spec: str, name: str, count: int | None = None) -> list[list[float]]:
    """Numbers of each line that has any; ValueError for a word, NaN, or a wrong count of numbers."""
    lines = [re.split(r"[\s,;]+", line.strip(" \t,;")) for line in spec.splitlines() if line.strip(" \t,;\r")]
    if not 0 < len(lines) <= MOST:
        raise ValueError(f"{name}: {len(lines)} lines; give one line for each region, 1 to {MOST}")
    rows = []
    for number, words in enumerate(lines, 1):
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = [math.nan]
        if not all(math.isfinite(value) for value in row) or (count is not None and len(row) != count):
            raise ValueError(f"{name}: line {number} is {' '.join(words)[:60]!r}; give "
                             f"{'numbers' if count is None else f'{count} numbers'}")
        rows.append(row)
    return rows


def to_fractions(row: list[float], size: Size) -> list[float]:
    """x, y, x, y, .. in fractions."""
    scale = (size[1], size[0]) if max(map(abs, row)) > 1 else (1, 1)
    return [value / scale[place % 2] for place, value in enumerate(row)]


def tile(spec: str, layout: str, size: Size) -> Tensor:
    cells = " BREAK ".join("a" for _ in re.split("[,;:]", spec))
    return torch.stack([box_mask(cell.box, size) for cell in parse(cells, layout=layout, ratios=spec).cells])


@LAYOUTS.add("columns", "Columns")
def columns(spec: str, size: Size) -> Tensor:
    """Columns by ratios: `1,2,1`; with rows, whose height comes first, `1,2,1;2,4,6`."""
    return tile(spec, "columns", size)


@LAYOUTS.add("rows", "Rows")
def rows(spec: str, size: Size) -> Tensor:
    """Rows by ratios: `1,2,1`; with columns, whose width comes first, `1;2;1,2;4;6`."""
    return tile(spec, "rows", size)


@LAYOUTS.add("grid", "Grid")
def grid(spec: str, size: Size) -> Tensor:
    """Equal cells in reading order: `3 2` is three across and two down."""
    (across, down), = read_lines(" ".join(spec.lower().replace("x", " ").split()), "Grid", 2)
    whole = across.is_integer() and down.is_integer() and across >= 1 and down >= 1
    if not whole or across * down > MOST:
        raise ValueError(f"Grid: {spec[:60]!r}; give two whole numbers, cells across and down, of at most "
                         f"{MOST} cells")
    return torch.stack([box_mask((x / across, y / down, (x + 1) / across, (y + 1) / down), size)
                        for y in range(int(down)) for x in range(int(across))])


@LAYOUTS.add("boxes", "Boxes")
def boxes(spec: str, size: Size) -> Tensor:
    """A region a line: left, top, right, bottom."""
    masks = []
    for row in read_lines(spec, "Boxes", 4):
        x0, y0, x1, y1 = to_fractions(row, size)
        masks.append(box_mask((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), size))
    return torch.stack(masks)


@LAYOUTS.add("polygons", "Polygons")
def polygons(spec: str, size: Size) -> Tensor:
    """A region a line: x y of each corner, three or more."""
    masks = []
    for number, row in enumerate(read_lines(spec, "Polygons"), 1):
        if len(row) < 6 or len(row) % 2:
            raise ValueError(f"Polygons: line {number} has {len(row)} numbers; give x and y of three or more "
                             "corners")
        masks.append(fill_polygon(to_fractions(row, size), size))
    return torch.stack(masks)


def fill_polygon(corners: list[float], size: Size) -> Tensor:
    """Coverage [H,W] of a polygon x, y, x, y, .. in fractions, by Pillow at four times the size."""
    from PIL import Image, ImageDraw
    height, width = size
    points = [(min(max(x, -8), 8) * 4 * width - 0.5, min(max(y, -8), 8) * 4 * height - 0.5)
              for x, y in zip(corners[::2], corners[1::2], strict=True)]
    image = Image.new("1", (4 * width, 4 * height))
    ImageDraw.Draw(image).polygon(points, fill=1)
    bits = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8)
    return torch.nn.functional.avg_pool2d(bits.view(1, 4 * height, 4 * width).float() / 255, 4)[0]


@LAYOUTS.add("masks", "Painted masks")
def masks(spec: Tensor, size: Size) -> Tensor:
    """Masks [R,h,w] as they are, stretched to the canvas."""
    if not len(spec):
        raise ValueError("Painted masks: there is none; give at least one")
    return torch.stack([fit(check_mask(mask, f"Mask {number}"), size) for number, mask in enumerate(spec, 1)])


@LAYOUTS.add("colours", "Colour map")
def colours(spec: Tensor, size: Size) -> Tensor:
    """A painted picture [h,w,3] in 0..1: a region for each colour of the palette, up to the last one used."""
    if spec.ndim != 3 or spec.shape[-1] < 3 or not bool(torch.isfinite(spec).all()):
        raise ValueError(f"Colour map: its shape is {list(spec.shape)}; give a picture of rows, columns and "
                         "three colours")
    distance, nearest = spec.new_full(spec.shape[:2], NEAR), torch.full(spec.shape[:2], MOST)
    for number, colour in enumerate(palette(MOST)):
        away = (spec[..., :3] - spec.new_tensor(colour)).abs().amax(-1)
        nearest = torch.where(away < distance, number, nearest)
        distance = torch.minimum(away, distance)
    used = [number for number in nearest.unique().tolist() if number < MOST and is_solid(nearest == number)]
    if not used:
        raise ValueError("Colour map: none of the palette's colours is in it; paint with the colours shown "
                         "beside it")
    return torch.stack([fit(((nearest == number) & (number in used)).float(), size)
                        for number in range(used[-1] + 1)])


def is_solid(mask: Tensor) -> bool:
    """Whether it fills a block somewhere: a smoothed border passes through many colours, but never does."""
    side = min(BLOCK, *mask.shape)
    return bool((torch.nn.functional.max_pool2d((~mask).float()[None], side, 1) == 0).any())


def palette(count: int) -> list[tuple[float, float, float]]:
    """The first `count` regions' colours, as Regional Prompter paints them, each in 0..1.

    Half saturated and half bright, of hues 0, 180, 90, 270, 45, 135, ..: each turn halves the gaps.
    """
    hues, step = [0.0], 0.5
    while len(hues) < count:
        hues += [step * (1 + 2 * number) for number in range(len(hues))]
        step /= 2
    return [colorsys.hsv_to_rgb(hue, 0.5, 0.5) for hue in hues[:count]]
