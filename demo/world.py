"""(scene) -> its caption, picture [3,128,128], depth and edges [1,128,128], all in 0..1; scenes at random.

A world with exact labels: coloured shapes at stated places, and hands of 21 joints, on plain backgrounds.
Words are whole tokens of CLIP's byte-pair vocabulary.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from .hand import POSES, capsules, place, rotation, template

SIZE = 128
COLOURS = {
    "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "red": (0.85, 0.08, 0.10),
    "green": (0.10, 0.60, 0.20), "blue": (0.10, 0.22, 0.88), "yellow": (0.97, 0.88, 0.10),
    "purple": (0.55, 0.12, 0.68), "orange": (0.98, 0.50, 0.05),
}
SKIN = ((0.98, 0.84, 0.74), (0.91, 0.71, 0.57), (0.76, 0.56, 0.42), (0.56, 0.38, 0.27), (0.37, 0.24, 0.17))
PLACES = {"on the left": (0.28, 0.5), "on the right": (0.72, 0.5), "at the top": (0.5, 0.28),
          "at the bottom": (0.5, 0.72), "in the middle": (0.5, 0.5)}
PAIRS = (("on the left", "on the right"), ("at the top", "at the bottom"))
STRANGERS = tuple(pair for pair in combinations(PLACES, 2) if pair not in PAIRS)  # never painted together


def circle(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y**2).sqrt() - 0.95


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.82


def triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(y - 0.62, 0.866 * x.abs() - 0.5 * y - 0.55)


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points at radius 1.1; the edges of a pentagram's arms."""
    sector = 2 * math.pi / 5
    angle = (torch.atan2(x, -y) + sector / 2) % sector - sector / 2
    radius = (x**2 + y**2).sqrt()
    across, up = radius * angle.sin().abs(), radius * angle.cos()
    inner = 0.44 * 1.1  # where two arms meet, at half a sector
    nx, ny = 1.1 - inner * math.cos(sector / 2), inner * math.sin(sector / 2)
    return (across * nx + (up - 1.1) * ny) / math.hypot(nx, ny)


def cross(x: Tensor, y: Tensor) -> Tensor:
    long, wide = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 0.95, wide - 0.32)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return ((x**2 + y**2).sqrt() - 0.74).abs() - 0.24


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (circle, square, triangle, star, cross, ring)}


@dataclass(frozen=True)
class Shape:
    """A shape of `radius` pixels around (x, y), turned by `angle` degrees."""

    shape: str
    colour: str
    place: str
    x: float
    y: float
    radius: float
    angle: float

    def words(self) -> str:
        return f"{article(self.colour)} {self.shape} {self.place}"


@dataclass(frozen=True)
class Hand:
    """A hand of `size` pixels from wrist to fingertip; `glove` is a colour or None; side 1 left, -1 right."""

    pose: str
    glove: str | None
    skin: int
    x: float
    y: float
    size: float
    angle: float
    tilt: float
    turn: float
    side: int
    spread: float
    bend: float

    @property
    def fingers(self) -> int:
        return sum(POSES[self.pose])

    @property
    def small(self) -> bool:
        return self.size < 75

    def words(self) -> str:
        pose = self.pose if self.pose == "fist" else f"{self.pose} hand"
        noun = f"small {pose}" if self.small else pose
        return article(noun) + (f" in {article(self.glove)} glove" if self.glove else "")

    def joints(self) -> Tensor:
        """[22,3] pixels: 21 joints, and the end of the forearm."""
        return place(template(self.pose, self.spread, self.bend), (self.x, self.y), self.size, self.side,
                     rotation(self.angle, self.tilt, self.turn))


@dataclass(frozen=True)
class Scene:
    subjects: tuple[Shape | Hand, ...]
    background: str

    @property
    def caption(self) -> str:
        return " and ".join(s.words() for s in self.subjects) + f", {self.background} background"


class Picture(NamedTuple):
    """image [3,H,W], depth [1,H,W] (near is white), edges [1,H,W]; all 0..1."""

    image: Tensor
    depth: Tensor
    edges: Tensor


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def pixel_grid(height: int = SIZE, width: int = SIZE) -> Tensor:
    """Centres [H,W,2] of the pixels, x first."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def draw_shape(subject: Shape, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """coverage, depth, edges [H,W], colour [3,H,W]."""
    c, s = math.cos(math.radians(subject.angle)), math.sin(math.radians(subject.angle))
    x, y = ((grid - torch.tensor([subject.x, subject.y])) / subject.radius).unbind(-1)
    distance = SHAPES[subject.shape](c * x + s * y, c * y - s * x) * subject.radius
    coverage = (0.5 - distance).clamp(0, 1)
    depth = coverage * (0.6 + 0.4 * (-distance / subject.radius).clamp(0, 1))
    colour = torch.tensor(COLOURS[subject.colour])[:, None, None].expand(3, *distance.shape)
    return coverage, depth, (1.5 - distance.abs()).clamp(0, 1), colour


def draw_hand(subject: Hand, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `draw_shape`; skin is shaded by the depth's slope, and dark where a finger ends before another."""
    distance, depth = capsules(subject.joints(), subject.size, grid)
    inside = depth > -math.inf
    low = depth[inside].min() if inside.any() else depth.new_tensor(0.0)
    filled = torch.where(inside, depth, low)
    dx, dy = torch.zeros_like(filled), torch.zeros_like(filled)
    dx[:, 1:-1], dy[1:-1] = (filled[:, 2:] - filled[:, :-2]) / 2, (filled[2:] - filled[:-2]) / 2
    slope = (dx**2 + dy**2).sqrt()
    both = inside.float()
    within = -torch.nn.functional.max_pool2d(-both[None, None], 3, 1, 1)[0, 0]  # not at the silhouette
    fold = ((slope - 1.2) / 1.5).clamp(0, 1) * within
    light = (0.78 + 0.22 * (1 - dx * 0.5 - dy * 0.5) / (1 + slope**2).sqrt()).clamp(0.6, 1)
    colour = torch.tensor(COLOURS[subject.glove] if subject.glove else SKIN[subject.skin])
    coverage = (0.5 - distance).clamp(0, 1)
    span = (filled.max() - low).clamp_min(1.0)
    edges = torch.maximum((1.5 - distance.abs()).clamp(0, 1), fold)
    return coverage, coverage * (0.2 + 0.8 * (filled - low) / span), edges, \
        colour[:, None, None] * light * (1 - 0.45 * fold)


def draw(scene: Scene, height: int = SIZE, width: int = SIZE) -> Picture:
    grid = pixel_grid(height, width)
    image = torch.tensor(COLOURS[scene.background])[:, None, None].expand(3, height, width)
    depth = edges = torch.zeros(height, width)
    for subject in scene.subjects:
        paint = draw_shape if isinstance(subject, Shape) else draw_hand
        coverage, near, lines, colour = paint(subject, grid)
        image = image * (1 - coverage) + colour * coverage
        depth, edges = torch.maximum(depth, near), torch.maximum(edges, lines)
    return Picture(image.contiguous(), depth[None], edges[None])


def random_shape(random: Random, colour: str, where: str, radius: tuple[float, float],
                 shape: str | None = None) -> Shape:
    jitter = [random.uniform(-4, 4) for _ in "xy"]
    x, y = (SIZE * c + j for c, j in zip(PLACES[where], jitter, strict=True))
    return Shape(shape or random.choice(list(SHAPES)), colour, where, x, y, random.uniform(*radius),
                 random.uniform(-12, 12))


def one_shape(random: Random) -> Scene:
    colour, background = random.sample(list(COLOURS), 2)
    where = random.choice(list(PLACES))
    return Scene((random_shape(random, colour, where, (25, 33)),), background)


def two_shapes(random: Random, pairs: tuple[tuple[str, str], ...] = PAIRS) -> Scene:
    first, second, background = random.sample(list(COLOURS), 3)
    pair = random.choice(pairs)
    return Scene(tuple(random_shape(random, colour, where, (19, 24))
                       for colour, where in zip((first, second), pair, strict=True)), background)


def one_hand(random: Random, small: bool | None = None) -> Scene:
    small = random.random() < 0.4 if small is None else small
    glove, background = random.sample(list(COLOURS), 2)
    hand = Hand(
        pose=random.choice(list(POSES)), glove=glove if random.random() < 0.4 else None,
        skin=random.randrange(len(SKIN)),
        x=SIZE / 2 + random.uniform(-5, 5), y=SIZE / 2 + random.uniform(-5, 5),
        size=random.uniform(50, 62) if small else random.uniform(90, 106), angle=random.uniform(-15, 15),
        tilt=random.uniform(-18, 18), turn=random.uniform(-22, 22), side=random.choice((1, -1)),
        spread=random.uniform(0.85, 1.25), bend=random.uniform(0, 9))
    return Scene((hand,), background)


def random_scene(random: Random) -> Scene:
    """Half of the scenes hold one shape, a fifth two, the rest a hand."""
    return random.choices((one_shape, two_shapes, one_hand), (0.5, 0.2, 0.3))[0](random)
