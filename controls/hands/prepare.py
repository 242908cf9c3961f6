"""(picture [3,H,W], hands, find) -> Works: crops of hands that need drawing, with mask and fitted depth.

A crop is looked at as any of its tries will be, at the same size and by the same detector, so that their
scores are of one kind.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...plugin import Range
from . import crop, paste, render, score
from .crop import Job, Limits
from .found import Hand
from .merge import overlaps
from .pose import Fit, fit_hands
from .score import Score
from .template import open_hand, trusted

MOST = 64  # tries a hand: seeds of its tries are consecutive, and those of two hands of a picture never meet
OVERLAP = 0.15  # IoU from which a hand found in a crop is the one that was there
FEATHER = 0.05  # of the hand's size, and at least two latent cells: how far the mask fades outward

Find = Callable[[Tensor], "list[Hand]"]  # picture [3,h,w] -> its hands
Enlarge = Callable[[Tensor], Tensor]  # picture [3,h,w] -> the same picture, larger


class Settings(NamedTuple):
    """least: what a try must score to be pasted at all, by default as probably good as not."""

    candidates: Annotated[int, Range(
        1, MOST, 1, "Tries a hand; the best is kept if it beats the original.")] = 4
    cells_per_finger: Annotated[float, Range(
        1, 16, 0.5, "Latent cells, or transformer tokens, a finger: sets the crop's size.")] = 6.0
    context: Annotated[float, Range(1, 4, 0.05, "Side of the crop in sides of the hand's box.")] = 1.6
    gate: Annotated[float, Range(0, 1, 0.01, "Hands that score this or more are left alone.")] = 0.6
    margin: Annotated[float, Range(0, 1, 0.01, "By how much a try must beat the original.")] = 0.2
    least: float = 0.5


class Crop(NamedTuple):
    """One try: picture [3,h,w], mask [h,w] in 0..1, depth [h,w] of the fitted hand (near is 1) or None.

    image and hand are the numbers of the picture and of its hand. The seed is this try's own: it depends on
    no other hand, nor on how many tries there are.
    """

    picture: Tensor
    mask: Tensor
    depth: Tensor | None
    seed: int
    image: int
    hand: int
    candidate: int


class Seen(NamedTuple):
    """What a crop [3,h,w] shows before it is drawn: its hands' numbers, what they are there, their scores."""

    job: Job
    picture: Tensor
    numbers: tuple[int, ...]
    hands: tuple[Hand, ...]
    scores: tuple[Score, ...]

    def only(self, keep: Sequence[bool]) -> Seen:
        rows = (tuple(value for value, wanted in zip(values, keep, strict=True) if wanted)
                for values in self[2:])
        return Seen(self.job, self.picture, *rows)


class Work(NamedTuple):
    """A crop that needs drawing: start [3,h,w] is its picture, enlarged by a model if there is one.

    core [H,W] bool and alpha [H,W] are masks of the picture. depths [h,w] are what tries take in turn, of
    every hand that it may be meant to be; empty without joints.
    """

    image: int
    seen: Seen
    start: Tensor
    core: Tensor
    alpha: Tensor
    depths: tuple[Tensor, ...]

    def crops(self, candidates: int, seed: int) -> list[Crop]:
        mask, hand = crop.cut_mask(self.alpha, self.seen.job), self.seen.numbers[0]
        return [Crop(self.start, mask, self.depths[k % len(self.depths)] if self.depths else None,
                     seed + MOST * hand + k, self.image, hand, k) for k in range(candidates)]


def into(hand: Hand, job: Job) -> Hand:
    """The hand in the pixels of a job's crop."""
    x0, y0, x1, y1 = job.window
    h, w = job.size
    across, down = w / (x1 - x0), h / (y1 - y0)
    left, top, right, bottom = hand.box
    corners = (left - x0) * across, (top - y0) * down, (right - x0) * across, (bottom - y0) * down
    box = tuple(min(max(value, 0.0), float(most)) for value, most in zip(corners, (w, h, w, h), strict=True))
    joints = None
    if hand.joints is not None:
        joints = (hand.joints - hand.joints.new_tensor([x0, y0])) * hand.joints.new_tensor([across, down])
    mask = None if hand.mask is None else crop.cut_mask(hand.mask, job) > 0.5
    return hand._replace(box=box, joints=joints, mask=mask)


def again(found: Sequence[Hand], hand: Hand) -> Hand | None:
    """The hand among those found in a crop that is where `hand` was."""
    if not found:
        return None
    over, _ = overlaps(torch.tensor([hand.box]), torch.tensor([one.box for one in found]))
    best = int(over[0].argmax())
    return found[best] if float(over[0, best]) >= OVERLAP else None


def look(job: Job, picture: Tensor, hands: Sequence[Hand], find: Find) -> Seen:
    """The crop as it is; what isn't found again in it counts as it was found in the picture."""
    before = crop.cut(picture, job)
    found = find(before)
    here = tuple(again(found, one) or one for one in (into(hands[number], job) for number in job.hands))
    evidence = score.gather_all([before] * len(here), here)
    return Seen(job, before, job.hands, here, tuple(map(score.score, evidence)))


def fits_of(hand: Hand) -> tuple[Fit, ...]:
    """Five-finger hands that its joints suggest, of the known side, else of either; open ones, too, where the
    joints make no hand that covers it.
    """
    if hand.joints is None:
        return ()
    sides = torch.tensor([hand.side] if hand.side else [1, -1])
    both = fit_hands(*score.points_of([hand] * len(sides)), sides)
    fits = [Fit(*(value[i:i + 1] for value in both)) for i in range(len(sides))]
    if not any(trusted(one, hand) for one in fits):
        fits += [open_hand(hand, int(side)) for side in sides]
    return tuple(fits)


def draw_depths(fits: Sequence[tuple[Fit, ...]], job: Job, scene: Tensor | None) -> tuple[Tensor, ...]:
    """[h,w] of all the crop's hands, for each of their fits in turn, in the picture's own depth [H,W]."""
    background = None if scene is None else crop.cut_mask(scene, job)
    drawn = []
    for turn in range(max(map(len, fits))):
        here = [render.into_crop(sides[turn % len(sides)], job.window, job.size) for sides in fits]
        near = torch.stack([render.surface(fit.joints[0], fit.radii[0], job.size) for fit in here]).amax(0)
        drawn.append(render.depth_map(near, background))
    return tuple(drawn)


def prepare(image: int, picture: Tensor, hands: Sequence[Hand], seen: Seen, limits: Limits, depth: bool,
            scene: Tensor | None, enlarge: Enlarge | None) -> Work:
    """The mask covers the hands as they are, and as the fit would have them."""
    size, job = tuple(picture.shape[1:]), seen.job
    fits = [fits_of(hands[number]) for number in seen.numbers]
    shapes, longs = [], []
    for number, sides in zip(seen.numbers, fits, strict=True):
        hand = hands[number]
        shapes += [hand.box if hand.mask is None else hand.mask,
                   *(render.silhouette(fit.joints[0], fit.radii[0], size) for fit in sides)]
        longs += [hand.long] * (1 + len(sides))
    core = paste.cover(shapes, longs, size)
    x0, y0, x1, y1 = job.window
    width = max(2 * limits.token * (x1 - x0) / job.size[1], FEATHER * max(longs))
    start = seen.picture
    if enlarge is not None and job.size[1] > x1 - x0:
        large = enlarge(picture[:, y0:y1, x0:x1])
        start = crop.cut(large, job._replace(window=(0, 0, large.shape[2], large.shape[1])))
    return Work(image, seen, start, core, paste.feather_out(core, width, job.window),
                draw_depths(fits, job, scene) if depth and all(fits) else ())
