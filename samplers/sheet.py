"""A white page for axes, lines and words, with Pillow alone; `picture()` gives it as [H,W,3] in 0..1."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

FINE = 3  # lines are drawn this many times larger and reduced, which smooths them
INK, PALE, GRID, PAPER = "#22262b", "#767c84", "#e8eaed", "#ffffff"
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf")

Point = tuple[float, float]
Ticks = Sequence[tuple[float, str]]


class Panel(NamedTuple):
    """A rectangle in pixels and the ranges of its axes, x from left to right and y from bottom to top."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> Point:
        """Pixel of a value; what lies outside, or is infinite, is put on the edge."""
        across = min(max((x - self.x[0]) / (self.x[1] - self.x[0]), 0.0), 1.0)
        up = min(max((y - self.y[0]) / (self.y[1] - self.y[0]), 0.0), 1.0)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def load_font(size: int):
    """Pillow's own scalable font (10.1 and later), else one of the system's, else Pillow's small bitmap."""
    from PIL import ImageFont
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 takes no size
        pass
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default()


def spell(words: str) -> str:
    """What Pillow's own fonts can set, which is ASCII; other letters become question marks."""
    return words.encode("ascii", "replace").decode("ascii")


def cut_dashes(points: Sequence[Point], pattern: Sequence[float]) -> Iterator[list[Point]]:
    """Cut a polyline into strokes: `pattern` is the length of a stroke and of the gap after it."""
    stroke, drawn, left = [points[0]], True, pattern[0]
    for start, end in itertools.pairwise(points):
        length, done = math.dist(start, end), 0.0
        while length - done > left:
            done += left
            cut = tuple(a + (b - a) * done / length for a, b in zip(start, end, strict=True))
            if drawn:
                yield [*stroke, cut]
            drawn = not drawn
            stroke, left = [cut], pattern[0 if drawn else 1]
        left -= length - done
        stroke.append(end)
    if drawn:
        yield stroke


class Sheet:
    """Words wait until the end: fonts smooth themselves, while lines are drawn at `FINE` times the size."""

    def __init__(self, width: int, height: int):
        from PIL import Image, ImageDraw
        self.image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.size = max(9, round(height / 56))
        self.font = load_font(self.size)
        self.words: list[tuple[float, float, str, str, str]] = []

    def line(self, points: Sequence[Point], color: str, width: float = 1.0,
             dash: Sequence[float] = ()) -> None:
        for stroke in cut_dashes(points, dash) if dash else [points]:
            fine = [(round(FINE * x), round(FINE * y)) for x, y in stroke]
            self.draw.line(fine, fill=color, width=max(1, round(FINE * width)), joint="curve")

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        box = [FINE * (x - radius), FINE * (y - radius), FINE * (x + radius), FINE * (y + radius)]
        self.draw.ellipse(box, fill=color, outline=PAPER, width=2)

    def text(self, x: float, y: float, words: str, color: str = INK,
             align: Literal["left", "right", "center"] = "left") -> None:
        """Words whose middle line is at y."""
        self.words.append((x, y, spell(words), color, align))

    def fit(self, words: str, width: float) -> str:
        """`words`, shortened to `width` pixels."""
        if self.draw.textlength(spell(words), font=self.font) <= width:
            return words
        return self.fit(words[:-3] + "..", width) if len(words) > 3 else words

    def frame(self, panel: Panel, title: str, note: str, across: Ticks, up: Ticks) -> None:
        """Grid, tick labels below and to the left, title and note above."""
        for value, label in across:
            x = panel.place(value, panel.y[0])[0]
            self.line([(x, panel.top), (x, panel.bottom)], GRID)
            self.text(x, panel.bottom + self.size, label, PALE, "center")
        for value, label in up:
            y = panel.place(panel.x[0], value)[1]
            self.line([(panel.left, y), (panel.right, y)], GRID)
            self.text(panel.left - 0.5 * self.size, y, label, PALE, "right")
        corners = [(panel.left, panel.top), (panel.left, panel.bottom), (panel.right, panel.bottom)]
        self.line(corners, PALE)
        self.text(panel.left, panel.top - 1.1 * self.size, title)
        self.text(panel.right, panel.top - 1.1 * self.size, note, PALE, "right")

    def picture(self) -> Tensor:
        """Reduce the lines, set the words: [H,W,3] float32 in 0..1."""
        from PIL import ImageDraw
        image = self.image.reduce(FINE)
        draw = ImageDraw.Draw(image)
        for x, y, words, color, align in self.words:
            _, top, _, bottom = draw.textbbox((0, 0), "Hg", font=self.font)
            wide = draw.textlength(words, font=self.font)
            x -= {"left": 0, "center": wide / 2, "right": wide}[align]
            draw.text((round(x), round(y - (top + bottom) / 2)), words, fill=color, font=self.font)
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return flat.reshape(image.height, image.width, 3).float() / 255
