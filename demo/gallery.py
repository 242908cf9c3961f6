"""paint(seed, variants) -> pictures [K,3,96,96] in -1..1, captions [K]: the world of the exact model.

Everything is drawn here with Pillow, four times larger and reduced. A painter gets an `Easel`, whose
coordinates run from 0 to 1 (x to the right, y down), and a source of randomness for its variants.
"""
from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

SIZE, FINE = 96, 4

Color = tuple[float, float, float]  # red, green, blue in 0..1
Point = tuple[float, float]


def hsv(hue: float, saturation: float, value: float) -> Color:
    return colorsys.hsv_to_rgb(hue % 1, saturation, value)


def mix(a: Color, b: Color, share: float) -> Color:
    return tuple(x + share * (y - x) for x, y in zip(a, b, strict=True))


def on_circle(x: float, y: float, radius: float, turn: float) -> Point:
    """`turn` in whole turns, from the right, clockwise."""
    return x + radius * math.cos(2 * math.pi * turn), y + radius * math.sin(2 * math.pi * turn)


class Easel:
    """A canvas in unit coordinates."""

    def __init__(self):
        from PIL import Image, ImageDraw
        self.size = SIZE * FINE
        self.image = Image.new("RGB", (self.size, self.size))
        self.draw = ImageDraw.Draw(self.image)

    def ink(self, color: Color) -> tuple[int, ...]:
        return tuple(round(255 * min(max(part, 0.0), 1.0)) for part in color)

    def fade(self, above: Color, below: Color, top: float = 0.0, bottom: float = 1.0) -> None:
        """A vertical gradient between two heights, over the whole width."""
        rows = range(round(top * self.size), round(bottom * self.size))
        for row in rows:
            share = (row - rows.start) / max(1, len(rows) - 1)
            self.draw.line([(0, row), (self.size, row)], fill=self.ink(mix(above, below, share)))

    def disc(self, x: float, y: float, radius: float, color: Color, squash: float = 1.0) -> None:
        box = [(x - radius), (y - radius * squash), (x + radius), (y + radius * squash)]
        self.draw.ellipse([self.size * edge for edge in box], fill=self.ink(color))

    def area(self, points: Sequence[Point], color: Color) -> None:
        self.draw.polygon([(self.size * x, self.size * y) for x, y in points], fill=self.ink(color))

    def limb(self, start: Point, end: Point, width: float, color: Color) -> None:
        """A thick line with round ends."""
        fine = [(self.size * x, self.size * y) for x, y in (start, end)]
        self.draw.line(fine, fill=self.ink(color), width=round(self.size * width))
        for x, y in (start, end):
            self.disc(x, y, width / 2, color)

    def ridge(self, random: Random, height: float, rough: float, color: Color) -> list[float]:
        """Hills up to the lower edge: three sines of random phase; returns the heights."""
        waves = [(rough / n, n * random.uniform(0.7, 1.4), random.random()) for n in (1, 2, 4)]
        tops = [height + sum(a * math.sin(2 * math.pi * (f * i / 96 + p)) for a, f, p in waves)
                for i in range(97)]
        self.area([(0, 1), *[(i / 96, top) for i, top in enumerate(tops)], (1, 1)], color)
        return tops

    def picture(self) -> Tensor:
        """[3,96,96] in -1..1."""
        flat = torch.frombuffer(bytearray(self.image.reduce(FINE).tobytes()), dtype=torch.uint8)
        return flat.reshape(SIZE, SIZE, 3).permute(2, 0, 1).double() / 127.5 - 1


def paint_sunrise(easel: Easel, random: Random) -> None:
    hue, x, y = random.uniform(0.0, 0.09), random.uniform(0.25, 0.75), random.uniform(0.36, 0.52)
    sky, glow, sun = hsv(0.62 + hue, 0.55, 0.72), hsv(hue + 0.02, 0.62, 1), hsv(0.13, 0.35, 1)
    easel.fade(sky, glow, 0, 0.6)
    for i in range(24):
        easel.disc(x, y, 0.26 - 0.007 * i, mix(glow, sun, (i / 24) ** 2 * 0.6 + 0.1 * i / 24))
    easel.disc(x, y, 0.1, sun)
    easel.fade(mix(glow, (0.1, 0.15, 0.35), 0.45), (0.05, 0.1, 0.28), 0.6, 1)
    for i in range(9):
        width = 0.035 + 0.012 * random.random() + 0.006 * i
        easel.limb((x - width, 0.635 + 0.042 * i), (x + width, 0.635 + 0.042 * i), 0.012,
                   mix(sun, glow, i / 9))


def paint_mountains(easel: Easel, random: Random) -> None:
    hue = random.uniform(0.52, 0.68)
    easel.fade(hsv(hue, 0.45, 0.95), hsv(hue - 0.5, 0.15, 1), 0, 0.85)
    for _ in range(3):
        x, y = random.uniform(0.15, 0.85), random.uniform(0.34, 0.46)
        stone = hsv(hue, 0.3, random.uniform(0.42, 0.6))
        easel.area([(x - 0.5, 1), (x, y - 0.14), (x + 0.5, 1)], stone)
        easel.area([(x, y - 0.14), (x + 0.5, 1), (x + 0.12, 1)], mix(stone, (0.1, 0.1, 0.2), 0.35))
        teeth = [(x + 0.08, y + 0.03), (x + 0.035, y), (x, y + 0.04), (x - 0.03, y), (x - 0.08, y + 0.04)]
        easel.area([(x, y - 0.14), *teeth], (0.97, 0.98, 1))
    easel.ridge(random, 0.74, 0.035, hsv(0.36, 0.5, 0.42))
    easel.ridge(random, 0.87, 0.03, hsv(0.33, 0.6, 0.28))


def paint_night(easel: Easel, random: Random) -> None:
    hue = random.uniform(0.6, 0.74)
    dark = hsv(hue, 0.8, 0.12)
    easel.fade(dark, hsv(hue - 0.04, 0.65, 0.42))
    for _ in range(46):
        easel.disc(random.random(), 0.75 * random.random(), random.uniform(0.003, 0.009), hsv(0.15, 0.15, 1))
    x, y, radius = random.uniform(0.2, 0.8), random.uniform(0.17, 0.36), random.uniform(0.09, 0.13)
    easel.disc(x, y, radius, (0.98, 0.96, 0.84))
    if random.random() < 0.6:  # a crescent
        easel.disc(x + 0.45 * radius, y - 0.25 * radius, 0.85 * radius,
                   mix(dark, hsv(hue - 0.04, 0.65, 0.42), y))
    easel.ridge(random, 0.76, 0.05, hsv(hue, 0.6, 0.16))
    easel.ridge(random, 0.88, 0.03, hsv(hue, 0.7, 0.08))


def paint_flower(easel: Easel, random: Random) -> None:
    backdrop, petal = hsv(random.uniform(0.3, 0.6), 0.18, 0.97), hsv(random.uniform(-0.2, 0.14), 0.72, 0.95)
    easel.fade(backdrop, mix(backdrop, (1, 1, 1), 0.5))
    x, y = random.uniform(0.38, 0.62), random.uniform(0.33, 0.44)
    turn, count = random.random(), random.choice([5, 6, 8])
    leaf = hsv(0.33, 0.6, 0.5)
    easel.limb((x, y), (0.5, 1.02), 0.035, leaf)
    for side in (-1, 1):
        edge = [(0.0, 0.93), (0.1, 0.74), (0.3, 0.7), (0.18, 0.86)]
        easel.area([(0.5 + side * along, down) for along, down in edge], leaf)
    for i in range(count):
        for reach, radius, shade in ((0.15, 0.42, 0.0), (0.13, 0.28, 0.25)):
            px, py = on_circle(x, y, reach, turn + i / count)
            easel.disc(px, py, radius / count**0.6 * 0.75, mix(petal, (1, 1, 1), shade))
    easel.disc(x, y, 0.085, hsv(0.13, 0.8, 1))
    easel.disc(x, y, 0.05, hsv(0.09, 0.85, 0.85))


def paint_hand(easel: Easel, random: Random) -> None:
    """Five fingers, always: four from the palm's upper edge and a thumb at the side."""
    skin = mix((0.98, 0.83, 0.72), (0.42, 0.27, 0.2), random.random())
    backdrop = hsv(random.random(), 0.35, 0.85)
    easel.fade(backdrop, mix(backdrop, (1, 1, 1), 0.3))
    spread, side, lean = random.uniform(0.028, 0.05), random.choice([-1, 1]), random.uniform(-0.03, 0.03)
    easel.limb((0.5, 0.75), (0.5 - lean, 1.05), 0.22, skin)
    easel.area([(0.33, 0.56), (0.67, 0.56), (0.63, 0.84), (0.37, 0.84)], skin)
    for i, reach in enumerate((0.22, 0.3, 0.32, 0.28)):
        base, turn = 0.5 + side * (i - 1.5) * 0.098, -0.25 + side * (i - 1.5) * spread + lean
        easel.limb((base, 0.58), on_circle(base, 0.58, reach, turn), 0.083, skin)
    easel.limb((0.5 + side * 0.11, 0.75), (0.5 + side * 0.33, 0.52 + lean), 0.095, skin)
    crease = mix(skin, (0.35, 0.12, 0.1), 0.28)
    easel.limb((0.5 - side * 0.12, 0.66), (0.5 + side * 0.1, 0.63), 0.012, crease)
    easel.limb((0.5 - side * 0.1, 0.73), (0.5 + side * 0.07, 0.7), 0.012, crease)


def paint_ball(easel: Easel, random: Random) -> None:
    floor, red = hsv(random.uniform(0.05, 0.7), 0.25, 0.8), hsv(random.uniform(-0.03, 0.02), 0.9, 0.88)
    easel.fade(mix(floor, (1, 1, 1), 0.55), mix(floor, (1, 1, 1), 0.25), 0, 0.62)
    easel.fade(floor, mix(floor, (0, 0, 0), 0.25), 0.62, 1)
    x, y, radius = random.uniform(0.32, 0.68), random.uniform(0.46, 0.6), random.uniform(0.19, 0.29)
    easel.disc(x + 0.3 * radius, y + 0.95 * radius, 1.05 * radius, mix(floor, (0, 0, 0), 0.45), 0.22)
    for i in range(40):
        share = i / 40
        easel.disc(x - 0.32 * radius * share, y - 0.36 * radius * share, radius * (1 - 0.94 * share),
                   mix(mix(red, (0.2, 0, 0.05), 0.45 * (1 - share)), (1, 1, 1), 0.75 * share**3))


def paint_city(easel: Easel, random: Random) -> None:
    hue = random.uniform(0.72, 0.98)
    easel.fade(hsv(hue - 0.1, 0.6, 0.4), hsv(hue + 0.12, 0.5, 1), 0, 0.85)
    for depth in (0, 1):
        left, wall = -0.02, hsv(hue - 0.12, 0.5, 0.4 - 0.22 * depth)
        while left < 1:
            width, top = random.uniform(0.09, 0.19), random.uniform(0.25, 0.6) + 0.14 * depth
            easel.area([(left, 1), (left, top), (left + width, top), (left + width, 1)], wall)
            for i in range(int(width / 0.042) * int((1 - top) / 0.06)) if depth else ():
                x = left + 0.016 + 0.042 * (i % int(width / 0.042))
                y = top + 0.025 + 0.06 * (i // int(width / 0.042))
                if random.random() < 0.5:
                    easel.area([(x, y), (x + 0.021, y), (x + 0.021, y + 0.03), (x, y + 0.03)], (1, 0.86, 0.5))
            left += width + random.uniform(0, 0.02)


def paint_boat(easel: Easel, random: Random) -> None:
    hue, x, sail = random.uniform(0.48, 0.6), random.uniform(0.4, 0.6), hsv(random.random(), 0.55, 0.98)
    easel.fade(hsv(hue, 0.4, 0.98), hsv(hue - 0.02, 0.1, 1), 0, 0.85)
    for _ in range(3):
        cx, cy = random.uniform(0, 1), random.uniform(0.08, 0.3)
        for i in range(4):
            easel.disc(cx + 0.06 * i, cy - 0.02 * (i % 2), 0.055, (1, 1, 1), 0.65)
    height = random.uniform(0.14, 0.24)
    easel.area([(x + 0.015, height), (x + 0.26, 0.66), (x + 0.015, 0.66)], sail)
    easel.area([(x - 0.015, height + 0.06), (x - 0.2, 0.66), (x - 0.015, 0.66)], (0.98, 0.97, 0.93))
    easel.limb((x, height - 0.02), (x, 0.7), 0.014, (0.35, 0.22, 0.15))
    hull = hsv(random.choice([0.0, 0.08, 0.6]), 0.6, 0.45)
    easel.area([(x - 0.27, 0.69), (x + 0.3, 0.69), (x + 0.2, 0.82), (x - 0.2, 0.82)], hull)
    easel.ridge(random, 0.79, 0.008, hsv(hue + 0.02, 0.75, 0.7))
    easel.ridge(random, 0.89, 0.008, hsv(hue + 0.04, 0.8, 0.58))


PAINTERS: dict[str, Callable[[Easel, Random], None]] = {
    "a sunrise": paint_sunrise,
    "mountains": paint_mountains,
    "a clear night": paint_night,
    "a flower": paint_flower,
    "an open hand": paint_hand,
    "a red ball": paint_ball,
    "a city at dusk": paint_city,
    "a sailing boat": paint_boat,
}
PLAIN = {"pure black": -1.0, "pure white": 1.0}


def paint(seed: int = 7, variants: int = 5) -> tuple[Tensor, list[str]]:
    """`variants` pictures of every caption, one black, one white: [K,3,96,96] float64, captions [K]."""
    pictures, captions = [], []
    for caption, painter in PAINTERS.items():
        for variant in range(variants):
            easel = Easel()
            painter(easel, Random(f"{seed} {caption} {variant}"))
            pictures.append(easel.picture())
            captions.append(caption)
    for caption, value in PLAIN.items():
        pictures.append(torch.full((3, SIZE, SIZE), value, dtype=torch.float64))
        captions.append(caption)
    return torch.stack(pictures), captions


def only(captions: Sequence[str], caption: str) -> Tensor:
    """log_weights [K] of one caption's pictures: 0 there, minus infinity elsewhere."""
    if caption not in captions:
        raise ValueError(f"caption is '{caption}'; give one of {', '.join(dict.fromkeys(captions))}")
    return torch.tensor([0.0 if name == caption else -math.inf for name in captions], dtype=torch.float64)
