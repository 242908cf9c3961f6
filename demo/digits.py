"""(random) -> the digits of a hand, well made or as bad as models draw them, and its body of capsules.

In the units of `hand.py`: lengths are fractions of the hand's size, palm to the viewer, fingers along +y.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from .hand import BONES, CURL, FAN, METACARPALS, PHALANGES, RADII, THUMB, chain, place

PALM = BONES[20:-1]
THUMB_RAISED, THUMB_FOLDED = ((44, 36, 32), (10, 10, 10)), ((30, -12, -62), (25, 28, 12))  # angles, lifts


@dataclass
class Digit:
    """A finger or a thumb: degrees, and lengths as fractions of the hand's size.

    `curl` goes from 0, raised, to 1, folded; `fan` is its direction when raised; a finger's `root` is the
    angle and the length of its metacarpal. `kink` bends each bone sideways.
    """

    slot: int
    fan: float
    root: tuple[float, float]
    lengths: tuple[float, ...]
    radii: tuple[float, ...]
    curl: float
    bend: float
    kink: tuple[float, ...] = (0.0, 0.0, 0.0)
    there: bool = True

    def joints(self) -> Tensor:
        """[4,3]: a finger's knuckle and the ends of its bones; for the thumb its base first."""
        c = self.curl
        if self.slot == 0:
            angles, lifts = ([(1 - c) * a + c * b for a, b in zip(raised, folded, strict=True)]
                             for raised, folded in zip(THUMB_RAISED, THUMB_FOLDED, strict=True))
            start = torch.tensor([-0.09, 0.09, 0.02])
            angles = [a + self.fan for a in angles]
            lifts[2] += self.bend
        else:
            [start] = chain(torch.zeros(3), [self.root[0]], [0.0], (self.root[1],))
            angles = [(1 - c) * self.fan + 0.3 * c * self.root[0]] * 3
            lifts = [c * sum(CURL[:k + 1]) + (1 - c) * (k + 1) * self.bend for k in range(3)]
        angles = [a + k for a, k in zip(angles, self.kink, strict=True)]
        return torch.stack([start, *chain(start, angles, lifts, self.lengths)])


def digits_of(random: Random, curls: list[float]) -> list[Digit]:
    """A right hand's five, proportions varied by a tenth."""
    spread, bend, thick = random.uniform(0.8, 1.3), random.uniform(0, 10), random.uniform(0.85, 1.12)
    digits = []
    for k, curl in enumerate(curls):
        radii = tuple(thick * random.uniform(0.95, 1.05) * r for r in RADII[4 * k + 1:4 * k + 5])
        scale, own = random.uniform(0.92, 1.08), bend + random.uniform(0, 6)
        if k == 0:
            digits.append(Digit(0, random.uniform(-8, 8) + 14 * (spread - 1), (0, 0),
                                tuple(scale * x for x in THUMB), radii, curl, own))
        else:
            digits.append(Digit(k, 1.25 * spread * FAN[k - 1] + random.uniform(-2, 2),
                                (FAN[k - 1], METACARPALS[k - 1]), tuple(scale * x for x in PHALANGES[k - 1]),
                                radii, curl, own))
    return digits


def pick(random: Random, digits: list[Digit], first: int = 0) -> int:
    """The index of a raised digit, if there is one, from `first` on."""
    raised = [k for k, d in enumerate(digits) if k >= first and d.curl < 0.5]
    return random.choice(raised or range(first, len(digits)))


def regular(random: Random, digits: list[Digit]) -> int:
    return len(digits)


def missing(random: Random, digits: list[Digit]) -> int:
    """One digit is gone, and its neighbours may lean into the gap."""
    gone = pick(random, digits)
    digits[gone].there = False
    lean = random.uniform(0, 0.35)
    for k in {gone - 1, gone + 1} & {1, 2, 3, 4}:
        digits[k].fan += lean * (digits[gone].fan - digits[k].fan) if gone else 0
    return 4


def extra(random: Random, digits: list[Digit]) -> int:
    """A sixth outside the little finger, between two fingers that make room, or a second thumb."""
    where = pick(random, digits)
    if where == 0:
        turn = random.choice((-1, 1)) * random.uniform(22, 38)
        digits.append(replace(digits[0], fan=digits[0].fan + turn, curl=min(digits[0].curl, 0.2)))
        return 6
    one, two = digits[where], digits[where + 1] if where < 4 else None
    if two:
        for k in range(1, 5):
            digits[k].fan += (5 if k <= where else -5) * random.uniform(0.8, 1.4)
        middle = [(a + b) / 2 for a, b in zip(one.root, two.root, strict=True)]
        digits.append(replace(one, fan=(one.fan + two.fan) / 2, root=tuple(middle)))
    else:
        share, (fan, length) = random.uniform(0.75, 1.0), one.root
        digits.append(replace(one, fan=one.fan - random.uniform(13, 24), root=(fan - 9, 0.95 * length),
                              lengths=tuple(share * x for x in one.lengths)))
    return 6


def fused(random: Random, digits: list[Digit]) -> int:
    """Two neighbours side by side in one skin."""
    k = random.choice((1, 2, 3))
    digits[k].curl = digits[k + 1].curl = min(digits[k].curl, digits[k + 1].curl)
    digits[k].bend = digits[k + 1].bend
    apart = 0.25 * (digits[k].root[0] - digits[k + 1].root[0])
    middle = (digits[k].fan + digits[k + 1].fan) / 2
    digits[k].fan, digits[k + 1].fan = middle - apart, middle + apart
    return 4


def stunted(random: Random, digits: list[Digit]) -> int:
    """Too short; a digit of less than half its length is not counted."""
    fingers = 5
    for k in {pick(random, digits), pick(random, digits)}:
        share = random.uniform(0.25, 0.65)
        digits[k].lengths = tuple(share * x for x in digits[k].lengths)
        digits[k].radii = tuple(random.uniform(1.0, 1.3) * r for r in digits[k].radii)
        fingers -= share < 0.5
    return fingers


def kinked(random: Random, digits: list[Digit]) -> int:
    """Bent double, sideways."""
    turn = random.choice((-1, 1)) * random.uniform(50, 110)
    start = random.uniform(0, 0.4) * turn
    digits[pick(random, digits)].kink = (start, turn, turn * random.uniform(1, 1.5))
    return 5


KINDS: dict[str, Callable[[Random, list[Digit]], int]] = {
    f.__name__: f for f in (regular, missing, extra, fused, stunted, kinked)}
OF_COUNT = {5: "regular", 4: "missing", 6: "extra"}


class Body(NamedTuple):
    """A placed hand in pixels: points [N,3], the first 21 its joints; radii [N]; bones of hand and forearm.

    `there` [21] bool is False for the joints of a digit that is missing, a finger's knuckle included.
    """

    points: Tensor
    radii: Tensor
    there: Tensor
    hand: list[tuple[int, int]]
    arm: list[tuple[int, int]]


def body(digits: list[Digit], size: float, centre: tuple[float, float], side: int, turned: Tensor,
         forearm: float) -> Body:
    """The points after the 21 joints are the forearm's end and the extra digits' joints."""
    points = [torch.zeros(1, 3), *(d.joints() for d in digits[:5]), torch.tensor([[0.0, -forearm, 0.0]])]
    radii = [RADII[0], *(r for d in digits[:5] for r in d.radii), 0.95 * RADII[0]]
    bones = [*PALM]
    for k, digit in enumerate(digits):
        first = 4 * k + 1 if k < 5 else 22 + 4 * (k - 5)
        if k >= 5:
            points.append(digit.joints())
            radii += digit.radii
        bones.append((0, first))
        bones += [(first + j, first + j + 1) for j in range(3)] if digit.there else []
    if not digits[0].there:
        bones = [b for b in bones if b not in ((2, 5), (2, 9))]
    there = torch.tensor([True, *(d.there for d in digits[:5] for _ in range(4))])
    placed = place(torch.cat(points), centre, size, side, turned)
    return Body(placed, size * torch.tensor(radii), there, bones, [(0, 21)])


def limbs(points: Tensor, radii: Tensor, bones: list[tuple[int, int]], grid: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [H,W] to the outline of capsules, negative inside, and their depth: see `hand.capsules`."""
    ends, r = points[torch.tensor(bones)], radii[torch.tensor(bones)]
    along = ends[:, 1] - ends[:, 0]
    relative = grid.reshape(-1, 1, 2) - ends[:, 0, :2]  # [P,N,2]
    flat = along[:, :2]
    u = ((relative * flat).sum(-1) / flat.square().sum(-1).clamp_min(1e-6)).clamp(0, 1)
    radius = r[:, 0] + (r[:, 1] - r[:, 0]) * u
    square = (relative - u[..., None] * flat).square().sum(-1)
    near = ends[:, 0, 2] + u * along[:, 2] + (radius**2 - square).clamp_min(0).sqrt()
    depth = near.masked_fill(square > radius**2, -math.inf).amax(1)
    return (square.sqrt() - radius).amin(1).view(grid.shape[:2]), depth.view(grid.shape[:2])
