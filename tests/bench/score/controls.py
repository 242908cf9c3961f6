"""Row "ControlNets": is the subject where the control picture says?"""
from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import torch
from torch import Tensor
from tweedie_pack.demo.reader import ground, pixels, regions
from tweedie_pack.demo.sampling import sample
from tweedie_pack.demo.tiny.model import guide, load_control
from tweedie_pack.demo.world import Picture, Scene, Shape, draw, one_hand, one_shape, random_shape
from tweedie_pack.samplers.recommend import recommended

from .result import Result, Table
from .work import GUIDANCE, SAMPLER, STEPS, batches, model, noise, pictures, share

KINDS = {"one shape": one_shape, "hand": one_hand}
HINTS = {"edges": "edges", "depth": "depth", "off": None}
CHANCE, CEILING = "chance: another scene of that caption", "ceiling: the scene's clean picture"
ABOUT = (
    "The caption says what, the scene's edges or depth say where: IoU of the subject in the picture (what "
    "`demo/reader.py` tells from the background) and the scene's own silhouette. Off has the same caption "
    "and noise but no control; chance is the silhouette of another scene with the same caption. v, zero SNR, "
    f"{SAMPLER}, {STEPS} steps, recommended schedule, guidance {GUIDANCE:g}, control at full strength.")


def again(scene: Scene, random: Random) -> Scene:
    """Another scene of the same caption."""
    [one] = scene.subjects
    if isinstance(one, Shape):
        return replace(scene, subjects=(random_shape(random, one.colour, one.place, (25, 33), one.shape),))
    [other] = one_hand(random, one.small).subjects
    return replace(scene, subjects=(replace(other, pose=one.pose, glove=one.glove),))


def silhouette(picture: Picture) -> np.ndarray:
    """[S,S]: depth is 0 but for the subjects, whose covered half pixels have 0.1 and more."""
    return picture.depth[0].numpy() >= 0.1


def subject(image: Tensor) -> np.ndarray:
    """[S,S]: everything that the reader tells from the background."""
    picture = pixels(image)
    masks = [mask for mask, _ in regions(picture, ground(picture))]
    return np.any(masks, 0) if masks else np.zeros(picture.shape[:2], bool)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


control = cache(lambda hint: load_control(model("v"), hint))


def run(kind: str, line: str, seeds: range) -> list[float]:
    scenes = [KINDS[kind](Random(seed)) for seed in seeds]
    drawn = [draw(scene) for scene in scenes]
    if line == CHANCE:
        others = [again(scene, Random(f"again {seed}")) for scene, seed in zip(scenes, seeds, strict=True)]
        found = [silhouette(draw(other)) for other in others]
    elif line == CEILING:
        found = [subject(picture.image) for picture in drawn]
    else:
        tiny, hint = model("v"), HINTS[line]
        hints = torch.stack([getattr(picture, hint or "edges") for picture in drawn])
        sigmas = recommended(STEPS, tiny.table, "multistep")
        denoise = guide(tiny, [scene.caption for scene in scenes], GUIDANCE,
                        control=control(hint) if hint else None, hints=hints)
        found = [subject(image) for image in
                 pictures(tiny, sample(SAMPLER, denoise, sigmas[0] * noise(seeds), sigmas))]
    return [overlap(mask, silhouette(picture)) for mask, picture in zip(found, drawn, strict=True)]


def measure(seeds: int) -> Result:
    tasks = [(kind, line, part) for line in (*HINTS, CHANCE, CEILING) for kind in KINDS
             for part in batches(seeds)]
    cells: dict = {}
    for (kind, line, _), values in zip(tasks, share(run, tasks, "controls"), strict=True):
        cells.setdefault((line, kind), []).extend(values)
    pairs = (("edges", "off"), ("depth", "off"), ("edges", "depth"), ("off", CHANCE))
    compare = [((ours, kind), (baseline, kind)) for ours, baseline in pairs for kind in KINDS]
    return Result(ABOUT, [Table("Overlap with the scene's silhouette", "IoU", cells, better="higher",
                                compare=compare)])
