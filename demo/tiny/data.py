"""(count, seed) -> pictures [N,3,128,128] uint8 and captions, cached; or depth, or edges."""
from __future__ import annotations

import pathlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random

import torch
from torch import Tensor
from tqdm import tqdm

from ..world import draw, random_scene

CHUNK = 250


def paint_chunk(which: str, seed: int) -> tuple[Tensor, list[str]]:
    """CHUNK scenes: "image" [N,3,S,S], "depth" or "edges" [N,1,S,S], uint8, and their captions."""
    torch.set_num_threads(1)
    random = Random(seed)
    scenes = [random_scene(random) for _ in range(CHUNK)]
    pictures = torch.stack([getattr(draw(scene), which) for scene in scenes])
    return (255 * pictures).round().byte(), [scene.caption for scene in scenes]


def paint(folder: pathlib.Path, which: str, count: int, workers: int) -> tuple[Tensor, list[str]]:
    """The first `count` scenes of the world's endless list, a multiple of CHUNK."""
    path = folder / f"{which}_{count}.pt"
    if not path.exists():
        seeds = range(count // CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            chunks = list(tqdm(pool.map(partial(paint_chunk, which), seeds), f"paint {which}", len(seeds)))
        captions = [caption for _, part in chunks for caption in part]
        torch.save((torch.cat([pictures for pictures, _ in chunks]), captions), path)
    return torch.load(path, weights_only=True)
