"""What rows share: the models, noise by seed, pictures of latents, and work for every core."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import torch
from torch import Tensor
from tqdm import tqdm
from tweedie_pack.demo.tiny.model import Tiny, decode, load

BATCH, DECODED = 32, 8  # pictures at once in the UNet, and in the decoder
SAMPLER, STEPS, GUIDANCE = "DPM-Solver++ 2M", 20, 5.0  # of every row that does not say otherwise

model = cache(load)  # "v" or "epsilon" -> Tiny


def batches(count: int) -> list[range]:
    """Seeds 0..count-1, always cut in the same places, so that the cores at hand change nothing."""
    return [range(i, min(i + BATCH, count)) for i in range(0, count, BATCH)]


def noise(seeds: Sequence[int]) -> Tensor:
    """[N,4,16,16], each of its own seed."""
    return torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed))
                        for seed in seeds])


def pictures(tiny: Tiny, latents: Tensor) -> Tensor:
    """[N,3,128,128] in 0..1."""
    return torch.cat([decode(tiny, part) for part in latents.split(DECODED)])


def share(job: Callable, tasks: Iterable[tuple], what: str) -> list:
    """job(*task) of every task, in order, a process of one thread for every core."""
    tasks = list(tasks)
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(job, *task) for task in tasks]
        return [one.result() for one in tqdm(waiting, what)]
