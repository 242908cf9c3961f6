"""(recipe, strength) -> the change that spectral guidance makes to plain guidance; hands, and who is right.

What the section "Spectral guidance" of show.py needs beside painting. Nothing here knows a page or a console.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers.power import calibrate
from ..samplers.recipe import PRESETS
from ..samplers.spectral import BANDS, Recipe, Window, reweight
from ..samplers.spectrum import draw_energy, draw_gains, octave_energy
from ..samplers.table import to_edm
from .reader import count_fingers
from .tiny.model import Change, Tiny
from .tiny.nets import SCALE
from .world import Scene, draw, one_hand, random_scene

SHOWN = 3  # presets
CLEAN = 32  # drawn scenes whose latents give the model's power
TEXT = (
    "Guidance adds the difference that a caption makes, times a factor: {scale:g} here, alike for all "
    "frequencies and places. A preset weighs some of them more than others, and scales the whole back until "
    "it leads as far in the plain direction as before, so every row has the same strength of guidance. All "
    "hands are open, as five fingers leave the most room for mistakes; under each picture stands how many "
    "were read from it. So few pictures do not rank the presets: the scoreboard, docs/scoreboard.md, has the "
    "figures over many seeds.")


class Record(NamedTuple):
    """A run, step by step: e = sigma/alpha, and octave_energy [6] of the difference before and after."""

    e: list[float]
    before: list[Tensor]
    after: list[Tensor]


def weigh(recipe: Recipe, window: Window, scale: float, seed: int, record: Record | None = None) -> Change:
    """What puts a recipe into one run at guidance `scale`; maps draw anew at each step, by `seed`."""
    seeds = itertools.count(seed)

    def change(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
        delta = cond - uncond
        more = reweight(delta, recipe, window, sigma, guided, uncond, next(seeds))
        if record is not None:
            record.e.append(float(to_edm(sigma, window.flow)[0]))
            record.before.append(octave_energy(delta))
            record.after.append(octave_energy(delta + more))
        return guided + scale * more
    return change


@torch.no_grad()
def measure_power(model: Tiny, seed: int) -> tuple[float, ...]:
    """P at power.RADII of the latents of drawn scenes."""
    random = Random(seed)
    pictures = torch.stack([draw(random_scene(random)).image for _ in range(CLEAN)])
    return calibrate(SCALE * model.vae.encode(2 * pictures - 1).latent_dist.mean)


def choose() -> list[str]:
    """The first SHOWN presets, those with bands and those with a map alone in turn."""
    bands = [name for name, given in PRESETS.items() if "bands" in given]
    maps = [name for name in PRESETS if name not in bands]
    turns = itertools.chain.from_iterable(itertools.zip_longest(bands, maps))
    return [name for name in turns if name is not None][:SHOWN]


def gains() -> dict[str, Callable[[Tensor], Tensor]]:
    """Gain over radius of every preset that has bands."""
    return {name: partial(BANDS[given["bands"]], **given.get("band_knobs", {}))
            for name, given in PRESETS.items() if "bands" in given}


def illustrate(name: str, record: Record) -> dict[str, Tensor]:
    """Title -> drawing [H,W,3]: the presets' gains, and the energy of the run that was recorded."""
    curves = gains()
    drawings = {"Presets that weigh frequencies": draw_gains(curves)} if curves else {}
    energy = draw_energy(record.e, torch.stack(record.before), torch.stack(record.after))
    return drawings | {f"Energy over a run: {name}, mean over its row": energy}


def open_hands(seed: int, count: int) -> list[Scene]:
    """Scenes with one open hand, large or small."""
    random = Random(seed)
    scenes = (one_hand(random) for _ in itertools.count())
    return list(itertools.islice((scene for scene in scenes if scene.subjects[0].pose == "open"), count))


def judge_fingers(scenes: Sequence[Scene], pictures: Tensor) -> tuple[list[str], str]:
    """Notes on pictures [B,3,128,128] of hands: fingers read, fingers asked; and how many are right."""
    asked = [scene.subjects[0].fingers for scene in scenes]
    seen = [count_fingers(picture) for picture in pictures]
    notes = [f"{'no hand' if found < 0 else found}, asked {goal}"
             for found, goal in zip(seen, asked, strict=True)]
    right = sum(found == goal for found, goal in zip(seen, asked, strict=True))
    return notes, f"{right} of {len(asked)} right"
