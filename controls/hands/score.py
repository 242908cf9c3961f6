"""(picture [3,h,w], hand) -> Evidence -> Score: how probably the hand is a good one, with five fingers.

Each row of SCORERS reads one kind of evidence as a part in 0..1, and `score` joins the parts that there are
by logistic regression. Five fingers means five digits of a jointed hand: those of a fist are hidden in the
rendered hand too, so that none is missed.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from ...plugin import Registry
from .found import Hand
from .pose import Fit, fit_hands
from .silhouette import colour_mask, digits, measure, view

SCORERS = Registry("evidence")  # Evidence -> part in 0..1, or None where it can't tell; counts if in WEIGHTS

FEWEST = 12  # found joints from which a hand is fitted
FOUND = 0.05  # how sure a joint must be to count as found
EXTRA, MISSING = 0.15, 0.12  # what halves a part: fingers' areas,
ENERGY, RESIDUAL = 0.025, 0.03  # a fit's energy, and its distance from the joints in boxes of the hand,
CROWDED = 0.2  # the share of their thickness by which two digits lie in each other,
CHANGED = 0.1  # and the change outside the mask
MISCOUNT = 0.5  # tips too many or too few that halve the part
STRAIGHT, LOOKS = 0.8, 0.5  # share of a finger's length, and finger's areas by which an outline may be off
WEIGHTS = {  # part: log-odds between its 0 and its 1, and the value that speaks neither for nor against;
    # fitted by tests/bench/hand_score.py to drawn hands, but for `outside`, which is set by hand
    "confidence": (0.67, 0.9), "plausibility": (2.93, 0.48), "silhouette": (4.79, 0.83), "tips": (2.66, 0.51),
    "outside": (2.0, 1.0)}
FINGERS = {"plausibility", "silhouette", "tips"}  # parts that know of fingers
ALONE = {"confidence": (4.0, 0.5)}  # set by hand: half sure is no evidence, a tenth more is a tenth better


class Evidence(NamedTuple):
    """What is known of a hand in a picture; what couldn't be measured is None.

    extra and missing are in areas of a finger, tips are digits that stand out of the outline. changed is the
    RMS change outside the mask, of values in 0..1.
    """

    hand: Hand
    fit: Fit | None = None
    extra: float | None = None
    missing: float | None = None
    tips: int | None = None
    changed: float | None = None


class Score(NamedTuple):
    """total: the probability, in 0..1, that the hand is good. parts: what each row of SCORERS gave."""

    total: float
    parts: dict[str, float]

    @property
    def counted(self) -> bool:
        """Whether anything was known of the fingers."""
        return bool(self.parts.keys() & FINGERS)

    @property
    def digits(self) -> float:
        """How right the count of digits is, 0..1; 1 where it isn't known."""
        return self.parts.get("tips", 1.0)


def half(value: float, at: float) -> float:
    """1 at 0 and below, 1/2 `at` the given value, falling towards 0 as a bell does."""
    return 2.0 ** -((max(value, 0.0) / at) ** 2)


@SCORERS.add("confidence", "Confidence")
def confidence(evidence: Evidence) -> float | None:
    """The detector's own; it says that this is a hand, and hardly counts fingers."""
    value = evidence.hand.confidence
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else None


@SCORERS.add("plausibility", "Plausibility")
def plausibility(evidence: Evidence) -> float | None:
    """How well a jointed hand explains the joints, times how sure the least sure of the five digits is.

    Digits that lie in each other count against it: a model that sees four fingers puts a fifth into them.
    """
    if evidence.fit is None:
        return None
    least = 1.0 if evidence.hand.sure is None else float(found(evidence.hand)[1:].view(5, 4).mean(1).min())
    energy, residual = float(evidence.fit.energy[0]), float(evidence.fit.residual[0])
    return least * half(energy, ENERGY) * half(residual, RESIDUAL) * half(1 - room(evidence.fit), CROWDED)


def room(fit: Fit) -> float:
    """How far apart the two closest digits are, in sums of their radii: 1 where they just touch."""
    digits, radii = fit.joints[0, 1:].view(5, 4, 3)[:, 1:], fit.radii[0, 1:].view(5, 4)[:, 1:]
    apart = [(torch.cdist(digits[a], digits[b]) / (radii[a][:, None] + radii[b])).amin(1).mean()
             for a, b in combinations(range(5), 2)]
    return float(torch.stack(apart).min())


@SCORERS.add("silhouette", "Silhouette")
def silhouette(evidence: Evidence) -> float | None:
    """How little of a finger the outline has too much, or too little."""
    if evidence.extra is None or evidence.missing is None:
        return None
    return half(evidence.extra, EXTRA) * half(evidence.missing, MISSING)


@SCORERS.add("tips", "Tips")
def tips(evidence: Evidence) -> float | None:
    """Whether five digits stand out of the outline; can't tell of a hand that is folded, and looks it."""
    if evidence.tips is None or evidence.fit is None:
        return None
    if folded(evidence.fit) and evidence.extra + evidence.missing < LOOKS:
        return None
    return half(abs(evidence.tips - 5), MISCOUNT)


def folded(fit: Fit) -> bool:
    """Whether a finger's tip is nearer to its knuckle than STRAIGHT of the finger's length."""
    fingers = fit.joints[0, 5:].view(4, 4, 3)
    reach = (fingers[:, 3] - fingers[:, 0]).norm(dim=-1)
    return bool((reach < STRAIGHT * fingers.diff(dim=1).norm(dim=-1).sum(-1)).any())


@SCORERS.add("outside", "Outside")
def outside(evidence: Evidence) -> float | None:
    """How little a try changed outside the mask; says nothing of the original."""
    return None if evidence.changed is None else half(evidence.changed, CHANGED)


def found(hand: Hand) -> Tensor:
    """How sure each joint is [21]; 0 for one that is NaN or infinite."""
    sure = torch.ones(21) if hand.sure is None else hand.sure.detach().cpu().float()
    finite = torch.isfinite(hand.joints.detach().cpu()).all(-1) & torch.isfinite(sure)
    return torch.where(finite, sure.clamp(0, 1), 0.0)


def points_of(hands: Sequence[Hand]) -> tuple[Tensor, Tensor]:
    """Joints [B,21,2] and how sure they are [B,21], of hands that have some, as `fit_hands` takes them."""
    points = torch.stack([hand.joints.detach().cpu().float().nan_to_num(0, 0, 0) for hand in hands])
    return points, torch.stack([found(hand) for hand in hands])


def fit_all(hands: Sequence[Hand | None]) -> list[Fit | None]:
    """The jointed hand that joints suggest, all fitted in one batch; None where too few are found."""
    fits: list[Fit | None] = [None] * len(hands)
    chosen = [k for k, hand in enumerate(hands) if hand is not None and hand.joints is not None
              and int((found(hand) > FOUND).sum()) >= FEWEST]
    if chosen:
        sides = torch.tensor([hands[k].side for k in chosen])
        batch = fit_hands(*points_of([hands[k] for k in chosen]), sides)
        for row, k in enumerate(chosen):
            fits[k] = Fit(*(value[row:row + 1] for value in batch))
    return fits


def outline(picture: Tensor, hand: Hand,
            fit: Fit | None) -> tuple[float, float, int] | tuple[None, None, None]:
    """(extra, missing, tips) of the hand's mask; without one, or if it is empty, of its colours'."""
    seen = None if fit is None else view(fit.joints[0], fit.radii[0], picture.shape[1:])
    if seen is None:
        return None, None, None
    if hand.mask is not None and bool(hand.mask.any()):
        mask = seen.cut(hand.mask[None].cpu())[0] > 0.5
    else:
        mask = colour_mask(seen.cut(picture), seen)
    return (None, None, None) if mask is None else (*measure(mask, seen), digits(mask, seen))


def check(picture: Tensor, hand: Hand | None) -> None:
    if picture.ndim != 3 or picture.shape[0] != 3 or not bool(torch.isfinite(picture).all()):
        raise ValueError(f"Hand score: the picture has shape {list(picture.shape)} and must be finite; give "
                         "a colour picture [3,h,w] with values from 0 to 1")
    if hand is not None and hand.mask is not None and hand.mask.shape != picture.shape[1:]:
        raise ValueError(f"Hand score: the hand's mask has shape {list(hand.mask.shape)}, the picture "
                         f"{list(picture.shape[1:])}; give the hand as it was found in this picture")


def change(picture: Tensor, before: Tensor | None, core: Tensor | None) -> float | None:
    """RMS difference of two pictures [3,h,w] outside the mask [h,w]; None if it covers all."""
    if before is None or core is None or bool(core.all()):
        return None
    return float((picture - before)[:, ~core.bool()].float().square().mean().sqrt())


def gather_all(pictures: Sequence[Tensor], hands: Sequence[Hand | None], before: Tensor | None = None,
               core: Tensor | None = None) -> list[Evidence | None]:
    """As `gather`, for a hand in each of several tries [3,h,w] of one crop, fitted together."""
    for picture, hand in zip(pictures, hands, strict=True):
        check(picture, hand)
    pictures = [picture.detach().cpu() for picture in pictures]
    before, core = (None if one is None else one.detach().cpu() for one in (before, core))
    return [None if hand is None else
            Evidence(hand, fit, *outline(picture, hand, fit), change(picture, before, core))
            for picture, hand, fit in zip(pictures, hands, fit_all(hands), strict=True)]


def gather(picture: Tensor, hand: Hand | None, before: Tensor | None = None,
           core: Tensor | None = None) -> Evidence | None:
    """What a hand in a picture [3,h,w] of 0..1 shows; None where no hand was found.

    before [3,h,w] and core [h,w] bool, the picture as it was and what was masked, give `changed`. Joints that
    are NaN count as not found; with fewer than `FEWEST` found there is no fit. ValueError for a picture that
    isn't finite, or a mask of another size.
    """
    return gather_all([picture], [hand], before, core)[0]


def score(evidence: Evidence | None) -> Score:
    """Probability of a good hand, were as many good as bad; 0 where none was found, 1/2 without any part.

    The log-odds are the sum over parts of weight (part - neutral value), so that a missing part adds nothing.
    More extra or missing area never raises them. Where fingers can't be judged at all, because the detector
    gives no joints, its confidence stands in, by `ALONE`.
    """
    if evidence is None:
        return Score(0.0, {})
    parts = {id: part for id, row in SCORERS.items() if (part := row(evidence)) is not None}
    weights = WEIGHTS if parts.keys() & FINGERS else WEIGHTS | ALONE
    odds = sum(weight * (parts[id] - neutral) for id, (weight, neutral) in weights.items() if id in parts)
    return Score(1 / (1 + math.exp(-odds)), parts)
