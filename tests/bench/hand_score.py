"""How well scores tell good hands from wrong ones, and their constants: PYTHON tests/bench/hand_score.py

Hands are drawn by demo/drawn_hands.py, whose limits are those of all that is said here; none is a photograph.
They are read in three ways. A "dreamer" draws 21 joints with 1 to 2 % noise whatever there is, a finger that
is not there between its neighbours, as the usual models do; a "doubter" leaves it where it would be and is
not sure of it; both come with noisy masks. "own" is the shipped net, which sees nothing but the picture.

A folded finger too many or too few can't be counted by anybody, and a hand with one looks like a good one:
`excess` tells how much of it shows, and only hands that show at least `SHOWS` of a finger count as wrong.
"""
from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.own import OwnDetector
from tweedie_pack.controls.hands.score import SCORERS, Evidence, gather, gather_all, score
from tweedie_pack.controls.hands.silhouette import FINGER, length
from tweedie_pack.demo.clutter import backdrop, noise, wear
from tweedie_pack.demo.digits import KINDS, limbs
from tweedie_pack.demo.drawn_hands import Drawn, Placed, label, noisy_mask, paint, random_placed
from tweedie_pack.demo.hand import POSES
from tweedie_pack.demo.world import pixel_grid

FRAME = (128, 128)
SHOWS = 0.25  # of a finger's area
FITTED = ("confidence", "plausibility", "silhouette", "tips")  # what the generator knows something of
CHUNK = 50  # hands fitted together
Reader = Callable[[Drawn, Random], Hand | None]


class Case(NamedTuple):
    """A drawn hand, and how much of a finger shows of the digit that it has too many or too few."""

    drawn: Drawn
    excess: float

    @property
    def good(self) -> bool | None:
        """None for a hand whose count is wrong but doesn't show."""
        if self.drawn.kind in ("missing", "extra") and self.excess < SHOWS:
            return None
        return self.drawn.kind == "regular"


def gone(there: Tensor) -> list[int]:
    """Digits, 0 the thumb, of which no joint is there [21]."""
    return [digit for digit in range(5) if not bool(there[4 * digit + 2:4 * digit + 5].any())]


def excess(one: Placed, frame: tuple[int, int] = FRAME) -> float:
    """Area, in fingers, by which the outline changes for the digits that are too many or too few."""
    points, radii, _, bones = one.body[:4]
    missing = [bone for digit in gone(one.body.there)
               for bone in pairwise(range(4 * digit + 1, 4 * digit + 5))]
    regular = [bone for bone in bones if max(bone) < 22]
    more, fewer = (limbs(points, radii, some, pixel_grid(*frame))[0] < 0
                   for some in (bones + missing, regular))
    return float((more & ~fewer).sum()) / (FINGER * length(points)**2)


def case(random: Random, kind: str, pose: str | None = None) -> Case:
    """As drawn_hands.random_drawn draws them, worn, with nothing else in the picture."""
    centre = tuple(side / 2 + random.uniform(-5, 5) for side in reversed(FRAME))
    one = random_placed(random, kind, pose, random.uniform(50, 106), centre, random.uniform(-15, 15),
                        (18, 22))
    picture, mask = paint(random, backdrop(random, *FRAME, 0), one)
    return Case(label(wear(random, picture), mask, one), excess(one))


def lost(drawn: Drawn) -> list[int]:
    """The digit that a hand of kind "missing" lacks."""
    return gone(drawn.visible > 0) if drawn.kind == "missing" else []


def dreamt(drawn: Drawn) -> Tensor:
    """The joints [21,2], those of a missing finger between its neighbours, of a thumb along the palm."""
    joints = drawn.joints.clone()
    for digit in lost(drawn):
        beside = [other for other in (digit - 1, digit + 1) if 1 <= other <= 4]
        ends = torch.stack([joints[4 * other + 2:4 * other + 5] for other in beside]).mean(0)
        joints[4 * digit + 2:4 * digit + 5] = ends if digit else torch.lerp(
            joints[0], joints[5], torch.tensor([[0.6], [0.85], [1.0]]))
    return joints


def read(drawn: Drawn, random: Random, joints: Tensor, sure: Tensor | None) -> Hand:
    """The joints and the mask with noise, and a confidence that knows nothing of fingers."""
    long = max(drawn.box[2] - drawn.box[0], drawn.box[3] - drawn.box[1])
    moved = joints + random.uniform(0.01, 0.02) * long * noise(random, 21, 2)
    mask = noisy_mask(drawn.mask, random, random.uniform(0.2, 0.8))
    return Hand(drawn.box, random.uniform(0.5, 0.95), moved, sure, drawn.side, mask)


def dreamer(drawn: Drawn, random: Random) -> Hand | None:
    return read(drawn, random, dreamt(drawn), None)


def doubter(drawn: Drawn, random: Random) -> Hand | None:
    return read(drawn, random, drawn.joints, 0.1 + 0.8 * drawn.visible)


def own() -> Reader:
    detector = OwnDetector()

    def look(drawn: Drawn, random: Random) -> Hand | None:
        hands = detector(drawn.picture)
        return max(hands, key=lambda hand: hand.confidence, default=None)
    return look


READERS = {"dreamer": lambda: dreamer, "doubter": lambda: doubter, "own": own}


def gathered(cases: Sequence[Case], reader: Reader, random: Random) -> list[Evidence | None]:
    found = []
    for start in range(0, len(cases), CHUNK):
        some = [one.drawn for one in cases[start:start + CHUNK]]
        found += gather_all([one.picture for one in some], [reader(one, random) for one in some])
    return found


def auc(bad: Sequence[float], good: Sequence[float]) -> float:
    """Chance that one of the bad lies above one of the good; ties count half."""
    high, low = torch.tensor(bad)[:, None], torch.tensor(good)
    return float((high > low).float().mean() + 0.5 * (high == low).float().mean())


SIGNALS: dict[str, Callable[[Evidence], float | None]] = {  # higher is worse
    "extra area": lambda seen: seen.extra,
    "missing area": lambda seen: seen.missing,
    "energy": lambda seen: None if seen.fit is None else float(seen.fit.energy[0]),
    "plausibility": lambda seen: opposite(SCORERS["plausibility"](seen)),
    "silhouette": lambda seen: opposite(SCORERS["silhouette"](seen)),
    "tips": lambda seen: opposite(SCORERS["tips"](seen)),
    "score": lambda seen: -score(seen).total,
}
GROUPS: dict[str, Callable[[Case], bool]] = {
    "extra": lambda one: one.drawn.kind == "extra" and one.good is False,
    "missing finger": lambda one: one.good is False and 0 not in lost(one.drawn) and bool(lost(one.drawn)),
    "missing thumb": lambda one: one.good is False and 0 in lost(one.drawn),
    **{kind: lambda one, kind=kind: one.drawn.kind == kind for kind in ("fused", "stunted", "kinked")},
}


def opposite(part: float | None) -> float | None:
    return None if part is None else -part


def rates(cases: Sequence[Case], found: Sequence[Evidence | None]) -> dict[str, dict[str, float]]:
    """AUC of each signal for each group against good hands; hands that weren't found are left out."""
    table: dict[str, dict[str, float]] = {}
    for name, signal in SIGNALS.items():
        values = [None if seen is None else signal(seen) for seen in found]
        good = [v for one, v in zip(cases, values, strict=True) if one.good and v is not None]
        table[name] = {}
        for group, chosen in GROUPS.items():
            bad = [v for one, v in zip(cases, values, strict=True) if chosen(one) and v is not None]
            if bad and good:
                table[name][group] = auc(bad, good)
    return table


def draw_cases(random: Random, count: int, poses: Sequence[str | None] = tuple(POSES)) -> list[Case]:
    """As many good hands as wrong ones, a third of these with one digit more, a third with one less.

    A pose of None bends each digit at random.
    """
    share = {"regular": count // 2, "extra": count // 6, "missing": count // 6}
    return [case(random, kind, random.choice(poses)) for kind in KINDS
            for _ in range(share.get(kind, count // 18))]


class Table(NamedTuple):
    """parts [N,K] of hands, NaN where there is none, and which hands are good [N]."""

    parts: Tensor
    good: Tensor


def table(cases: Sequence[Case], found: Sequence[Evidence | None]) -> Table:
    rows = [(score(seen).parts, one.good) for one, seen in zip(cases, found, strict=True)
            if seen is not None and one.good is not None]
    parts = torch.tensor([[parts.get(name, torch.nan) for name in FITTED] for parts, _ in rows])
    return Table(parts, torch.tensor([float(good) for _, good in rows]))


def fit(seen: Table, random: Random) -> dict[str, tuple[float, float]]:
    """Each part's weight, at least 0, and neutral value, by logistic regression; good and bad count alike.

    Parts are left out at random in copies of the table, so that what is left of them is calibrated as well.
    """
    copies = [seen.parts, *(seen.parts.masked_fill(noise(random, *seen.parts.shape) > 0.5, torch.nan)
                            for _ in range(4))]
    parts, good = torch.cat(copies), seen.good.repeat(len(copies))
    balance = torch.where(good > 0, 0.5 / good.mean(), 0.5 / (1 - good.mean()))
    logs, neutral = (torch.full((len(FITTED),), value, requires_grad=True) for value in (0.0, 0.5))
    optimiser = torch.optim.LBFGS([logs, neutral], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        odds = (logs.exp() * torch.where(parts.isnan(), 0, parts.nan_to_num() - neutral)).sum(1)
        value = functional.binary_cross_entropy_with_logits(odds, good, balance) + 1e-4 * logs.square().sum()
        value.backward()
        return value
    optimiser.step(loss)
    return {name: (round(weight, 2), round(middle, 2)) for name, weight, middle in
            zip(FITTED, logs.detach().exp().tolist(), neutral.tolist(), strict=True)}


def reliability(cases: Sequence[Case], found: Sequence[Evidence | None]) -> list[tuple[float, float, int]]:
    """(mean score, share of good hands, hands) of those whose scores fall into each fifth of 0..1."""
    known = [(score(seen).total, one.good) for one, seen in zip(cases, found, strict=True)
             if one.good is not None and seen is not None]
    rows = []
    for fifth in range(5):
        inside = [pair for pair in known if min(int(5 * pair[0]), 4) == fifth]
        if inside:
            total, good = torch.tensor(inside, dtype=torch.float64).mean(0).tolist()
            rows.append((total, good, len(inside)))
    return rows


def report(title: str, cases: Sequence[Case], found: Sequence[Evidence | None]) -> None:
    print(f"\n### {title}: AUC against {sum(one.good is True for one in cases)} good hands\n\n"
          f"Not found: {sum(seen is None for seen in found)} of {len(cases)}.\n\n"
          f"| signal | {' | '.join(GROUPS)} |\n|---|{'---|' * len(GROUPS)}")
    for name, row in rates(cases, found).items():
        print(f"| {name} | {' | '.join(f'{row[group]:.3f}' if group in row else '' for group in GROUPS)} |")
    print("\n| mean score | share of good hands | hands |\n|---|---|---|")
    for mean, share, count in reliability(cases, found):
        print(f"| {mean:.2f} | {share:.2f} | {count} |")
    good, wrong = (torch.tensor([score(seen).total for one, seen in zip(cases, found, strict=True)
                                 if one.good is wanted]) for wanted in (True, False))
    print("\n| gate | good hands left alone | wrong hands left alone |\n|---|---|---|")
    for gate in (0.4, 0.5, 0.6, 0.7, 0.8):
        print(f"| {gate} | {(good >= gate).float().mean():.2f} | {(wrong >= gate).float().mean():.2f} |",
              flush=True)


def cost(cases: Sequence[Case]) -> None:
    """Of one hand alone, with a mask and by its colours, in a crop of 512 pixels."""
    random, times = Random(9), {True: [], False: []}
    for one in cases[:12]:
        hand = dreamer(one.drawn, random)
        picture, mask = (functional.interpolate(plane[None].float(), scale_factor=4)[0]
                         for plane in (one.drawn.picture, hand.mask[None]))
        for masked in times:
            large = hand._replace(joints=4 * hand.joints, mask=mask[0] > 0.5 if masked else None)
            start = time.process_time()
            score(gather(picture, large))
            times[masked].append(1000 * (time.process_time() - start))
    print(f"\nA hand of a 512-pixel crop takes {statistics.median(times[True]):.0f} ms with a mask and "
          f"{statistics.median(times[False]):.0f} ms by its colours, the fit included (one CPU thread).")


def main(count: int = 450) -> None:
    """Fits to one half of the hands; reports, of the other, what the constants in score.py make of it."""
    torch.set_num_threads(1)
    random = Random(1)
    halves = [draw_cases(random, count) for _ in range(2)]
    print(f"Hands of which less than {SHOWS} of a finger shows to be wrong are left out: "
          f"{sum(one.good is None for half in halves for one in half)} of {2 * count}.")
    tables = []
    for name, make in READERS.items():
        reader = make()
        learnt, tested = (gathered(half, reader, random) for half in halves)
        tables.append(table(halves[0], learnt))
        report(f"{name}, {', '.join(POSES)}", halves[1], tested)
        for title, pose in (("open hands", "open"), ("digits bent at random", None)):
            some = draw_cases(random, count // 3, (pose,))
            report(f"{name}, {title}", some, gathered(some, reader, random))
    tables.append(Table(*map(torch.cat, zip(*tables, strict=True))))
    for name, part in zip((*READERS, "all"), tables, strict=True):
        print(f"\nFitted to {name}: WEIGHTS = {fit(part, random)}")
    cost(halves[1])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
