"""(boxes of hands, picture's size) -> windows: whole pixels within it, of a crop's aspect."""
from __future__ import annotations

import math
from collections.abc import Sequence

from .found import Box

STRETCH = 0.02  # by which a window's aspect may differ from its crop's
SLACK = 1e-6  # of rounding

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels, within the picture
Size = tuple[int, int]  # rows, columns


def longer(box: Box | Window) -> float:
    """The longer side, at least one pixel."""
    return max(box[2] - box[0], box[3] - box[1], 1.0)


def union(boxes: Sequence[tuple]) -> tuple:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def meeting(boxes: Sequence[Window]) -> list[tuple[int, ...]]:
    """Indices of boxes that intersect, directly or through others; groups in the order of their first."""
    groups: list[tuple[int, ...]] = []
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        near = [group for group in groups if any(
            x0 < boxes[other][2] and boxes[other][0] < x1 and y0 < boxes[other][3] and boxes[other][1] < y1
            for other in group)]
        groups = [group for group in groups if group not in near] + [(*sum(near, ()), index)]
    return sorted(tuple(sorted(group)) for group in groups)


def span(low: float, high: float, room: int) -> tuple[int, int]:
    """Whole pixels from low to high, those in part included, within 0..room; at least one."""
    start = min(max(math.floor(low + SLACK), 0), room - 1)
    return start, max(min(math.ceil(high - SLACK), room), start + 1)


def widen(box: Box, margin: float, picture: Size) -> Window:
    """The box with a margin on each side, as far as the picture goes."""
    x0, x1 = span(box[0] - margin, box[2] + margin, picture[1])
    y0, y1 = span(box[1] - margin, box[3] + margin, picture[0])
    return x0, y0, x1, y1


def slide(centre: float, length: int, room: int) -> int:
    """Where `length` pixels around a centre start, moved inside 0..room."""
    return min(max(math.floor(centre - length / 2 + 0.5), 0), room - length)


def square(box: Box, context: float, picture: Size) -> Window:
    """`context` longer sides around a box, moved inside the picture; clipped where it is larger."""
    length = math.ceil(context * longer(box) - SLACK)
    wide, tall = min(length, picture[1]), min(length, picture[0])
    x0 = slide((box[0] + box[2]) / 2, wide, picture[1])
    y0 = slide((box[1] + box[3]) / 2, tall, picture[0])
    return x0, y0, x0 + wide, y0 + tall


def place(ideal: Window, hold: Window, size: Size, picture: Size) -> Window:
    """The window of a crop's size: around the ideal one, of the crop's aspect, holding `hold` if it can."""
    room = picture[1], picture[0]
    lengths = shape((ideal[2] - ideal[0], ideal[3] - ideal[1]), size[1] / size[0], room)
    starts = []
    for axis, length in enumerate(lengths):
        low, high = hold[axis], hold[axis + 2]
        if length < high - low:
            starts.append(slide((low + high) / 2, length, room[axis]))
        else:
            start = slide((ideal[axis] + ideal[axis + 2]) / 2, length, room[axis])
            starts.append(min(max(start, high - length), low))
    return starts[0], starts[1], starts[0] + lengths[0], starts[1] + lengths[1]


def shape(ideal: tuple[int, int], aspect: float, room: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of the smallest window of an aspect that holds the ideal one; smaller where room ends.

    The aspect is kept to STRETCH, except in a picture so small that no whole pixels have it.
    """
    (wide, tall), (widest, tallest) = ideal, room

    def rows(columns: int) -> int:
        return min(max(math.floor(columns / aspect + 0.5), 1), tallest)

    def alike(columns: int) -> bool:
        return abs(columns / rows(columns) / aspect - 1) <= STRETCH
    growing = range(max(wide, math.floor(tall * aspect)), widest + 1)
    found = next((columns for columns in growing if rows(columns) >= tall and alike(columns)), None)
    if found is None:
        shrinking = range(min(widest, math.floor(tallest * aspect * (1 + STRETCH))), 0, -1)
        found = next((columns for columns in shrinking if alike(columns)), None)
    return (found, rows(found)) if found else (widest, tallest)


def common(a: Window, b: Window) -> Window:
    """What two windows share, if they meet."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def missed(window: Window, hold: Window) -> int:
    """Square pixels of `hold` outside the window."""
    x0, y0, x1, y1 = common(window, hold)
    return (hold[2] - hold[0]) * (hold[3] - hold[1]) - max(x1 - x0, 0) * max(y1 - y0, 0)
