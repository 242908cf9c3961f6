"""(pictures, hands, draw, find) -> pictures with those hands that score better: cut, draw, score, paste.

A host brings two functions: `draw` re-diffuses crops, `find` looks for hands in one. Nothing is pasted before
all is drawn and scored, so a run that ends early leaves nothing half mended, and what scored no better than
the original is never pasted.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import crop, paste, score
from .crop import Job, Limits
from .found import Hand
from .prepare import Crop, Enlarge, Find, Settings, Work, again, look, prepare
from .score import Score

log = logging.getLogger("tweedie")

STRAY = 0.5  # of the largest hand of a crop: what is smaller may be a bit of it
Draw = Callable[[Sequence[Crop]], "list[Tensor]"]  # crops, of any sizes -> each drawn again [3,h,w], 0..1


class Try(NamedTuple):
    """A crop [3,h,w], its colours matched; score and digits are those of its worst hand, pasted."""

    picture: Tensor
    score: float
    digits: float = 1.0


class Record(NamedTuple):
    """What became of a crop. tries is empty where the hands were good; kept is the number of the try that was
    pasted, None for the original. counted: whether anything was known of all the hands' fingers.
    """

    image: int
    job: Job
    hands: tuple[int, ...]
    before: Try
    counted: bool
    tries: tuple[Try, ...] = ()
    kept: int | None = None

    @property
    def line(self) -> str:
        who = f"picture {self.image + 1}, hand {' and '.join(str(number + 1) for number in self.hands)}"
        if not self.counted:
            who += " (fingers not counted: the detector gives no joints)"
        if not self.tries:
            return f"{who}: {self.before.score:.2f}, good, not touched"
        (h, w), best = self.job.size, max(one.score for one in self.tries)
        cells = self.job.note or f"{self.job.cells:.1f} cells a finger"
        end = "the original stays" if self.kept is None else f"try {self.kept + 1} pasted"
        return (f"{who}: {w} x {h} pixels, {cells}; was {self.before.score:.2f}, best of {len(self.tries)} "
                f"is {best:.2f}: {end}")


class Outcome(NamedTuple):
    """pictures [B,3,H,W]; changed [B,H,W], 0 where a picture is what it was, bit for bit."""

    pictures: Tensor
    changed: Tensor
    records: tuple[Record, ...]

    @property
    def report(self) -> str:
        return "\n".join(record.line for record in self.records) or "no hands"


def batches(crops: Sequence[Crop], most: int) -> list[list[int]]:
    """Indices of crops that can be drawn at once: `most` of one size, all with depth or all without."""
    groups: dict[tuple, list[int]] = {}
    for index, one in enumerate(crops):
        groups.setdefault((tuple(one.picture.shape), one.depth is None), []).append(index)
    return [group[at:at + most] for group in groups.values() for at in range(0, len(group), most)]


def judge(work: Work, drawn: Sequence[Tensor], find: Find) -> tuple[Try, ...]:
    """Drawn crops [3,h,w] as they would be pasted; one that isn't finite scores 0."""
    before, job = work.seen.picture, work.seen.job
    core, alpha = crop.cut_mask(work.core, job) > 0.5, crop.cut_mask(work.alpha, job)
    sound = [bool(torch.isfinite(one).all()) for one in drawn]
    if not all(sound):
        log.warning("Hand repair: %d of %d tries hold NaN or infinity and are dropped; run the VAE in full "
                    "precision", sound.count(False), len(sound))
    matched = [paste.match_ring(one.clamp(0, 1), before, core, alpha == 0) if fine else before
               for one, fine in zip(drawn, sound, strict=True)]
    pasted = [before + alpha * (one - before) for one in matched]
    found = [find(one) if fine else [] for one, fine in zip(pasted, sound, strict=True)]
    return tuple(map(sum_up, matched, score_tries(work, pasted, found, before, alpha > 0)))


def score_tries(work: Work, pasted: Sequence[Tensor], found: Sequence[list[Hand]], before: Tensor,
                core: Tensor) -> list[list[Score]]:
    """Of each try its hands'. What is small beside a hand, and in no try a hand again, was a bit of it."""
    rows = [[again(hands, hand) for hands in found] for hand in work.seen.hands]
    largest = max(hand.long for hand in work.seen.hands)
    rows = [row for row, hand in zip(rows, work.seen.hands, strict=True)
            if any(row) or hand.long > STRAY * largest]
    scores = [map(score.score, score.gather_all(pasted, row, before, core)) for row in rows]
    return [list(column) for column in zip(*scores, strict=True)]


def sum_up(picture: Tensor, scores: Sequence[Score]) -> Try:
    return Try(picture, min(one.total for one in scores), min(one.digits for one in scores))


def choose(before: Try, tries: Sequence[Try], settings: Settings) -> int | None:
    """The best try, the first of equals, if it is good enough and beats the original by the margin.

    One with a worse count of digits is none: that is told more surely than all else.
    """
    fair = [index for index, one in enumerate(tries) if one.digits >= before.digits]
    best = max(fair, key=lambda index: tries[index].score, default=None)
    if best is None or tries[best].score <= max(before.score + settings.margin, settings.least):
        return None
    return best


def check(pictures: Tensor, hands: Sequence[Sequence[Hand]]) -> None:
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not bool(torch.isfinite(pictures).all()):
        raise ValueError(f"Hand repair: the pictures have shape {list(pictures.shape)} and must be finite; "
                         "give colour pictures [B,3,H,W] with values from 0 to 1")
    if len(hands) != len(pictures):
        raise ValueError(f"Hand repair: it has hands of {len(hands)} pictures for {len(pictures)}; detect "
                         "them in these pictures")


def repair(pictures: Tensor, hands: Sequence[Sequence[Hand]], draw: Draw, find: Find, settings: Settings,
           limits: Limits, seed: int = 0, depth: bool = False, scenes: Sequence[Tensor | None] = (),
           enlarge: Enlarge | None = None) -> Outcome:
    """Mend hands of pictures [B,3,H,W] in 0..1; `hands` lists those of each.

    All tries of all crops are drawn in one call. With `depth` they carry the fitted hand's, set into the
    pictures' own depths `scenes` [H,W] if given; where its side is unknown, or the fit can't be believed,
    tries take turns. `enlarge` is a model for crops that grow. ValueError for pictures that aren't finite, or
    hands of others.
    """
    check(pictures, hands)
    records: list[Record] = []
    todo: list[Work] = []
    for image, picture in enumerate(pictures):
        if not hands[image]:
            log.info("Hand repair: no hands in picture %d, it stays as it is", image + 1)
        for job in crop.plan(hands[image], tuple(picture.shape[1:]), settings.cells_per_finger,
                             settings.context, limits):
            seen = look(job, picture, hands[image], find)
            bad = [one.total < settings.gate for one in seen.scores]
            if any(bad):
                todo.append(prepare(image, picture, hands[image], seen.only(bad), limits, depth,
                                    scenes[image] if scenes else None, enlarge))
            else:
                records.append(Record(image, job, job.hands, sum_up(seen.picture, seen.scores),
                                      all(one.counted for one in seen.scores)))
    drawn = draw([one for work in todo for one in work.crops(settings.candidates, seed)]) if todo else []
    out, changed = pictures.clone(), pictures.new_zeros(len(pictures), *pictures.shape[2:])
    for at, work in enumerate(todo):
        tries = judge(work, drawn[at * settings.candidates:(at + 1) * settings.candidates], find)
        seen, image, job = work.seen, work.image, work.seen.job
        before = sum_up(seen.picture, seen.scores)
        kept = choose(before, tries, settings)
        counted = all(one.counted for one in seen.scores)
        records.append(Record(image, job, seen.numbers, before, counted, tries, kept))
        if kept is not None:
            out[image] = paste.paste_back(out[image], job, tries[kept].picture, work.alpha)
            changed[image] = changed[image].maximum(work.alpha)
    records.sort(key=lambda record: (record.image, record.hands))
    for record in records:
        log.info("Hand repair: %s", record.line)
    return Outcome(out, changed, tuple(records))
