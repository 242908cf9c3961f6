"""(Result) -> one picture: a panel for each table, a dot and its 95 % interval for each cell."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from PIL import Image
from tweedie_pack.samplers.curve import COLORS, nice_ticks
from tweedie_pack.samplers.sheet import INK, PALE, Panel, Sheet, load_font

from .result import Cell, Result, Table
from .stats import Estimate, estimate

WIDTH, SIZE, ACROSS = 600, 13, 2  # pixels of a panel, of letters; panels side by side
ROW, DOT, EDGE, TOP, FOOT = 18, 7, 24, 36, 64  # pixels: a line, a further dot in it, margins of a panel


def ends(found: Sequence[Estimate], log: bool) -> tuple[float, float]:
    """Range of an axis that shows every interval, and 0 if it is near; in powers of ten on a log axis."""
    low, high = min(one.low for one in found), max(one.high for one in found)
    if log:
        low, high = (math.log10(max(end, 1e-6)) for end in (low, high))
    elif 0 < low < high / 2:
        low = 0.0
    room = 0.04 * (high - low) or 0.5
    return (low if low == 0 and not log else low - room), high + room


def ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """(place, label): 1, 2 and 5 of every decade on a log axis."""
    if not log:
        return [(tick, f"{tick:.4g}") for tick in nice_ticks(low, high, 7)]
    decades = range(math.floor(low), math.ceil(high))
    values = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
    return [(math.log10(value), f"{value:g}") for value in values if low <= math.log10(value) <= high]


def height_of(table: Table) -> float:
    return TOP + FOOT + len(table.lines) * max(ROW, DOT * (len(table.columns) + 1))


def draw_legend(sheet: Sheet, panel: Panel, columns: Sequence[str]) -> None:
    x, y = panel.left, panel.bottom + 2.6 * SIZE
    for column, color in zip(columns, itertools.cycle(COLORS), strict=False):
        width = sheet.draw.textlength(column, font=sheet.font)
        if x > panel.left and x + 14 + width > panel.right:
            x, y = panel.left, y + ROW
        sheet.dot(x + 4, y, 4, color)
        sheet.text(x + 14, y, column)
        x += 34 + width


def draw_cells(sheet: Sheet, panel: Panel, table: Table, found: dict[Cell, Estimate]) -> None:
    scale = (lambda value: math.log10(max(value, 1e-6))) if table.log else float
    for (line, column), one in found.items():
        at = table.columns.index(column)
        y = panel.place(0, -table.lines.index(line))[1] + (at - (len(table.columns) - 1) / 2) * DOT
        x, low, high = (panel.place(scale(value), 0)[0] for value in one)
        color = COLORS[at % len(COLORS)]
        sheet.line([(low, y), (high, y)], color, 1.6)
        sheet.dot(x, y, 3.4, color)


def draw_table(sheet: Sheet, table: Table, left: float, top: float, right: float) -> None:
    """One table in its place; rates are shown in per cent."""
    factor = 100 if table.kind == "rate" else 1
    found = {cell: Estimate(*(factor * value for value in estimate(values, table.kind)))
             for cell, values in table.cells.items()}
    names = max(sheet.draw.textlength(line, font=sheet.font) for line in table.lines)
    axis = ends(list(found.values()), table.log)
    panel = Panel(left + names + SIZE, top + TOP, right, top + height_of(table) - FOOT, axis,
                  (0.6 - len(table.lines), 0.6))
    lines = [(-i, line) for i, line in enumerate(table.lines)]
    sheet.frame(panel, "", "", ticks(*axis, table.log), lines)
    sheet.text(left, top + 0.6 * SIZE, table.title, INK)
    sheet.text(right, top + 0.6 * SIZE + 1.3 * SIZE, table.unit, PALE, "right")
    if axis[0] < 0 < axis[1] and not table.log:
        zero = panel.place(0, 0)[0]
        sheet.line([(zero, panel.top), (zero, panel.bottom)], PALE)
    draw_cells(sheet, panel, table, found)
    draw_legend(sheet, panel, table.columns)


def draw_result(result: Result) -> Image.Image:
    """Tables in their order, from left to right and from top to bottom."""
    rows = [result.tables[i:i + ACROSS] for i in range(0, len(result.tables), ACROSS)]
    heights = [max(height_of(table) for table in row) for row in rows]
    sheet = Sheet(WIDTH * len(rows[0]), round(sum(heights) + EDGE))
    sheet.size, sheet.font = SIZE, load_font(SIZE)
    for row, top in zip(rows, itertools.accumulate(heights, initial=EDGE / 2), strict=False):
        for i, table in enumerate(row):
            draw_table(sheet, table, i * WIDTH + EDGE, top, (i + 1) * WIDTH - EDGE)
    return Image.fromarray((255 * sheet.picture()).round().byte().numpy())
