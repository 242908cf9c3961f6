"""(hands, picture's size) -> Jobs: which window of the picture becomes a crop of which size; and the crop.

A finger is 0.095 of an open hand's longer side L wide, so a window of `context` x L needs a crop of

    T = cells * token * context / 0.095

pixels to give it `cells` of the latent cells (or transformer tokens) that a denoiser thinks in. Below about
two cells fingers can't even be told apart; joints and nails take three times that. Where T passes what the
model was trained for, the context shrinks first, then the cells, and the job's note says so.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from ..masks import bounds
from .found import Box, Hand
from .windows import SLACK, Size, Window, common, longer, meeting, missed, place, square, union, widen

FINGER = 0.095  # of the hand's length: an index of 18 mm on a hand of 190 mm
CURLED = 0.5  # of its length, the least that a curled or foreshortened hand is taken to show
CLOSEST, FEWEST = 1.35, 4.0  # context and cells below which repairs lose their surroundings or their fingers
REACH = 0.15  # of L, how far from its box a hand's mask may reach, feather and all
MIDDLE = [0, 9, 10, 11, 12]  # joints from the wrist to the tip of the longest finger


class Limits(NamedTuple):
    """Sides of crops that a model is good at, multiples of `multiple`; token: the side of a cell. Pixels."""

    low: int
    high: int
    multiple: int
    token: int


LIMITS = {  # by model family; dit: Flux, SD3 and others that read 2x2 patches of an eightfold latent
    "sd1": Limits(512, 768, 64, 8),
    "sdxl": Limits(768, 1344, 64, 8),
    "dit": Limits(768, 1536, 64, 16),
}


class Job(NamedTuple):
    """One crop: `hands` are indices into plan's list; cells, those across a finger of the smallest of them.

    context is the one used, before the picture's edge cuts the window. note says what was asked for and
    couldn't be had, and why; "" if all was.
    """

    window: Window
    size: Size
    hands: tuple[int, ...]
    cells: float
    context: float
    note: str


class Choice(NamedTuple):
    """A crop's size with its window; lost: square pixels of the hands that the window leaves out."""

    lost: int
    area: int
    size: Size
    window: Window

    @property
    def scale(self) -> float:
        """Pixels of the crop a pixel of the picture, along the axis that has fewer."""
        x0, y0, x1, y1 = self.window
        return min(self.size[1] / (x1 - x0), self.size[0] / (y1 - y0))


def plan(hands: Sequence[Hand], picture_size: Size, cells: float = 6.0, context: float = 1.6,
         limits: Limits = LIMITS["sdxl"]) -> list[Job]:
    """One job a hand, or one for all hands whose masks could meet. A crop's sides lie within the limits.

    Only where a window is narrower than low is to high, because the picture or a row of hands is, the crop's
    shorter side is below `low`. ValueError for boxes, cells or a context that mean nothing.
    """
    if not (0 < cells < math.inf and 1 <= context < math.inf):
        raise ValueError(f"Hands: {cells:g} cells a finger in a context of {context:g}; give cells above 0 "
                         "and a context of at least 1")
    for hand in hands:
        if not all(map(math.isfinite, hand.box)):
            raise ValueError(f"Hands: a box is {hand.box}; give its corners x0, y0, x1, y1 in finite pixels")
    inner = [widen(extent(hand), REACH * longer(hand.box), picture_size) for hand in hands]
    jobs = []
    for group in meeting(inner):
        job = settle([hands[index] for index in group], union([inner[index] for index in group]),
                     picture_size, cells, context, limits)
        jobs.append(job._replace(hands=group))
    return jobs


def settle(hands: Sequence[Hand], hold: Window, picture: Size, cells: float, context: float,
           limits: Limits) -> Job:
    """The widest context, from the one asked for down to CLOSEST, that gives the smallest hand its cells.

    A hand that the picture shows larger than that keeps its pixels, if the model can draw so many.
    """
    smallest = min(map(finger, hands))
    needed = cells * limits.token / smallest
    for used in descend(context, min(context, CLOSEST)):
        ideal = union([square(extent(hand), used, picture) for hand in hands])
        hold = common(hold, ideal)
        fitting = [[one for one in choices(ideal, hold, picture, least, limits)
                    if one.scale >= least * (1 - SLACK)] for least in (max(needed, 1.0), needed)]
        if any(fitting):
            best = min(fitting[0] or fitting[1])
            break
    else:
        most = limits.high / max(ideal[2] - ideal[0], ideal[3] - ideal[1])
        best = min(choices(ideal, hold, picture, most, limits), key=lambda one: (one.lost, -one.scale))
    reached = smallest * best.scale / limits.token
    notes = []
    if reached < cells * (1 - SLACK):
        few = f", below the {FEWEST:g} that fingers need" if reached < FEWEST <= cells else ""
        notes.append(f"{reached:.1f} cells a finger instead of {cells:g}{few}")
    if used < context:
        notes.append(f"context {used:.2f} instead of {context:g}")
    if notes:
        notes.append(f"the model takes crops of up to {limits.high} pixels")
    if best.lost:
        notes.append("no crop has this picture's shape, so some of the hand's surroundings are left out")
    return Job(best.window, best.size, (), reached, used, "; ".join(notes))


def descend(context: float, floor: float) -> Iterator[float]:
    """context, then every hundredth below it down to the floor."""
    yield context
    for step in range(math.ceil(100 * context - SLACK) - 1, math.floor(100 * floor - SLACK), -1):
        yield max(step / 100, floor)


def choices(ideal: Window, hold: Window, picture: Size, needed: float, limits: Limits) -> list[Choice]:
    """Crops of about the ideal window's shape and, but for rounding, `needed` pixels a pixel or more.

    They are enlarged until the shorter side is `low`, as far as `high` allows.
    """
    wide, tall, step = ideal[2] - ideal[0], ideal[3] - ideal[1], limits.multiple
    scale = max(needed, min(limits.low / min(wide, tall), limits.high / max(wide, tall)))
    least = [max(math.floor(scale * length / step + SLACK), 1) * step for length in (tall, wide)]
    low = min(limits.low, *least)
    rows, columns = (range(max(side, low), limits.high + 1, step) for side in least)
    found = []
    for size in ((h, w) for h in rows for w in columns if abs(w * tall - h * wide) <= step * max(wide, tall)):
        window = place(ideal, hold, size, picture)
        found.append(Choice(missed(window, hold), size[0] * size[1], size, window))
    return found


def finger(hand: Hand) -> float:
    """A finger's width in pixels: FINGER of the box's longer side, or more.

    A fist, or a hand that points at the viewer, has a box shorter than the hand, and its fingers fill more of
    it. Joints tell: their way from the wrist to the middle finger's tip is no longer than the hand. A narrow
    box does not: a flat hand seen from the side has one, too, and its fingers are no wider for it.
    """
    length = longer(hand.box)
    if hand.joints is not None and (hand.sure is None or float(hand.sure[MIDDLE].min()) >= 0.5):
        chain = float(hand.joints[MIDDLE].double().diff(dim=0).norm(dim=1).sum())
        length = min(max(length, chain), length / CURLED)
    return FINGER * length


def extent(hand: Hand) -> Box:
    """The hand's box, and all of its mask."""
    found = None if hand.mask is None else bounds(hand.mask)
    if found is None:
        return hand.box
    top, left, bottom, right = found
    return union([hand.box, (left, top, right, bottom)])


def resample(picture: Tensor, size: Size, mode: str = "bicubic") -> Tensor:
    """[C,*size] in float32; the same values where that is the size already.

    Keys' cubic (a = -1/2), antialiased: it enlarges sharply and, where it shrinks, weighs all pixels evenly,
    which an area filter does only if the sizes divide. What overshoots is held within 0..1.
    """
    picture = picture.float()
    if tuple(picture.shape[1:]) == tuple(size):
        return picture.clone()
    return interpolate(picture[None], size, mode=mode, align_corners=False, antialias=True)[0].clamp(0, 1)


def cut(picture: Tensor, job: Job) -> Tensor:
    """The job's crop [C,h,w] in float32 of a picture [C,H,W] in 0..1."""
    x0, y0, x1, y1 = job.window
    return resample(picture[:, y0:y1, x0:x1], job.size)


def cut_mask(mask: Tensor, job: Job) -> Tensor:
    """The same of a mask [H,W], bool or 0..1, by a filter that never overshoots: [h,w] in 0..1."""
    x0, y0, x1, y1 = job.window
    return resample(mask[None, y0:y1, x0:x1], job.size, "bilinear")[0]
