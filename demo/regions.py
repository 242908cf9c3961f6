"""(layout, seed) -> a scene of several subjects with a region for each, its captions, and what is seen there.

What the section "Regional prompting" of show.py, and the scoreboard's row, need beside painting. Pictures may
be larger than the 128 pixels that the model was taught, and hold more than it was taught.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from ..controls.preview import draw_layout
from ..controls.regions import MaskSet, Region, gather
from ..samplers.sheet import load_font
from .reader import Seen, ground, read
from .tiny.model import Denoise, Tiny, guide
from .tiny.regional import guide_attention, guide_latents
from .world import COLOURS, PAIRS, PLACES, SHAPES, SIZE, STRANGERS, Scene, Shape, article, pixel_grid

ACROSS, DOWN = PAIRS
SHOWN, WIDE = "three columns", 5  # the layout and the most pictures of the demo
TEXT = (
    "One caption for three subjects, and one for each region. The model was taught at most two, on 128 "
    "pixels; three stand on 192. The plain caption names them all with their places: left and right are "
    "heard, the third repeats one of them. Latent mode estimates the picture by each region's caption and "
    "blends by the regions. Attention mode runs once, as the plain prompt does: each token reads its own "
    "region's caption, which asks for its subject twice, as the model was taught rows of shapes so; the "
    "other falls to a neighbour. Under each picture stands what was read in its regions, left to right. "
    "docs/scoreboard.md has the figures over many seeds.")
RADIUS, JITTER, TURN = (19, 24), 4, 12  # of the world's pairs


class Spot(NamedTuple):
    """A subject's centre in pixels, its place in words, and the places at which its region asks for it."""

    x: float
    y: float
    place: str
    asked: tuple[str, ...]


class Layout(NamedTuple):
    """A picture of height x width pixels; the region of each spot is all that is nearest to it."""

    height: int
    width: int
    spots: tuple[Spot, ...]

    @property
    def latent(self) -> tuple[int, int, int]:
        return 4, self.height // 8, self.width // 8


def taught(place: str) -> tuple[str, ...]:
    """The pair of places, taught together, that this one is of."""
    return next(pair for pair in PAIRS if place in pair)


LAYOUTS = {
    "two columns": Layout(128, 128, (
        Spot(32, 64, "on the left", ACROSS), Spot(96, 64, "on the right", ACROSS))),
    "three columns": Layout(128, 192, (
        Spot(32, 64, "on the left", ACROSS), Spot(96, 64, "in the middle", ACROSS),
        Spot(160, 64, "on the right", ACROSS))),
    "three rows": Layout(192, 128, (
        Spot(64, 32, "at the top", DOWN), Spot(64, 96, "in the middle", DOWN),
        Spot(64, 160, "at the bottom", DOWN))),
    "four quarters": Layout(192, 128, (
        Spot(32, 48, "on the left", ACROSS), Spot(96, 48, "on the right", ACROSS),
        Spot(32, 144, "on the left", ACROSS), Spot(96, 144, "on the right", ACROSS))),
}
UNTAUGHT = tuple(Layout(SIZE, SIZE, tuple(  # but for the middle, where any other would lie under it
    Spot(SIZE * PLACES[place][0], SIZE * PLACES[place][1], place, taught(place)) for place in pair))
    for pair in STRANGERS if "in the middle" not in pair)


def draft(random: Random, layout: Layout) -> Scene:
    """A shape near each spot, as large as the world's pairs, and no colour twice."""
    *colours, background = random.sample(list(COLOURS), len(layout.spots) + 1)
    return Scene(tuple(
        Shape(random.choice(list(SHAPES)), colour, spot.place, spot.x + random.uniform(-JITTER, JITTER),
              spot.y + random.uniform(-JITTER, JITTER), random.uniform(*RADIUS), random.uniform(-TURN, TURN))
        for colour, spot in zip(colours, layout.spots, strict=True)), background)


def ask(scene: Scene, number: int, spot: Spot) -> str:
    """The caption of one region: its subject alone, at the places that give it its size and its place."""
    return replace(scene, subjects=tuple(replace(scene.subjects[number], place=place)
                                         for place in spot.asked)).caption


def ask_all(scene: Scene) -> str:
    """One caption for the whole scene; the model reads the middle best where it comes last."""
    subjects = sorted(scene.subjects, key=lambda subject: subject.place == "in the middle")
    return replace(scene, subjects=tuple(subjects)).caption


def captions(layout: Layout, scenes: Sequence[Scene]) -> list[list[str]]:
    """[1+R][B]: of the whole scene, then of each region."""
    return [[ask_all(scene) for scene in scenes],
            *([ask(scene, number, spot) for scene in scenes] for number, spot in enumerate(layout.spots))]


def distances(layout: Layout, points: Tensor) -> Tensor:
    """[..,R] from points [..,2], x first, to each spot."""
    return (points[..., None, :] - torch.tensor([[spot.x, spot.y] for spot in layout.spots])).norm(dim=-1)


def masks(layout: Layout, base_ratio: float = 0.0, soft: float = 0.0) -> MaskSet:
    """A region for each spot; `soft` is their feather."""
    nearest = distances(layout, pixel_grid(layout.height, layout.width)).argmin(-1)
    return gather([Region((nearest == number).float(), base_ratio=base_ratio)
                   for number in range(len(layout.spots))], nearest.shape, [soft] * len(layout.spots))


def look(layout: Layout, picture: Tensor) -> list[list[Seen]]:
    """What has its centre in each region of a picture [3,H,W]; the reader looks around each spot in turn."""
    back = torch.from_numpy(ground(picture.permute(1, 2, 0).numpy()))[:, None, None]
    wide = torch.nn.functional.pad(picture - back, [SIZE // 2] * 4) + back
    found = []
    for number, spot in enumerate(layout.spots):
        left, top = round(spot.x), round(spot.y)
        seen = read(wide[:, top:top + SIZE, left:left + SIZE].clamp(0, 1)).subjects
        centres = torch.tensor([[one.x + left, one.y + top] for one in seen]).view(-1, 2) - SIZE / 2
        owners = distances(layout, centres).argmin(-1).tolist()
        found.append([one for one, owner in zip(seen, owners, strict=True) if owner == number])
    return found


class Verdict(NamedTuple):
    """Of a region: does it hold its subject and nothing else; a colour of another; what it holds."""

    right: bool
    leaks: bool
    words: str


def judge(layout: Layout, scene: Scene, picture: Tensor) -> list[Verdict]:
    verdicts = []
    for subject, seen in zip(scene.subjects, look(layout, picture), strict=True):
        others = {other.colour for other in scene.subjects} - {subject.colour}
        named = [(one.colour, one.shape) for one in seen]
        verdicts.append(Verdict(named == [(subject.colour, subject.shape)],
                                any(colour in others for colour, _ in named),
                                " and ".join(" ".join(words) for words in named) or "nothing"))
    return verdicts


def draft_row(seed: int, count: int) -> list[Scene]:
    """The demo's scenes."""
    random = Random(seed)
    return [draft(random, LAYOUTS[SHOWN]) for _ in range(min(count, WIDE))]


def ways(model: Tiny, layout: Layout, scenes: Sequence[Scene], scale: float) -> dict[str, Denoise]:
    """The plain prompt, then both modes."""
    texts, regions = captions(layout, scenes), masks(layout)
    return {"plain prompt": guide(model, texts[0], scale),
            "latent mode": guide_latents(model, texts, regions, scale),
            "attention mode": guide_attention(model, texts, regions, scale)}


def judge_all(layout: Layout, scenes: Sequence[Scene], pictures: Tensor) -> tuple[list[str], str]:
    """What the regions of each picture of [B,3,H,W] hold; and how many subjects are right."""
    found = [judge(layout, *pair) for pair in zip(scenes, pictures, strict=True)]
    notes = [", ".join(verdict.words for verdict in verdicts) for verdicts in found]
    right = [verdict.right for verdicts in found for verdict in verdicts]
    return notes, f"{sum(right)} of {len(right)} right"


def illustrate(layout: Layout, scene: Scene) -> dict[str, Tensor]:
    """Title -> drawing [H,W,3] of the regions."""
    names = [f"{article(subject.colour)} {subject.shape}" for subject in scene.subjects]
    shares = masks(layout).shares(tuple(range(len(names))))
    return {"Regions, and whose they are in the first picture": draw_layout(shares, names, load_font)}
