"""What hand repair costs beside the sampling: python tests/bench/hand_cost.py, one CPU thread, medians.

Also what a batch of four tries takes beside four runs of one, by the embedded tiny model on the CPU.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from random import Random

import torch
from torch.nn.functional import interpolate
from tweedie_pack.controls.hands import crop, paste, render, score
from tweedie_pack.controls.hands.detectors import detect, open_detector
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.prepare import Crop, fits_of
from tweedie_pack.demo.drawn_hands import random_crowd
from tweedie_pack.demo.tiny.model import load
from tweedie_pack.demo.tiny.repaired import painter

REPEATS = 7
SIDE = 1024  # of the picture


def milliseconds(job: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median CPU time of a call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        job()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[1:])


def stages() -> dict[str, float]:
    small, [drawn, *_] = random_crowd(Random(3), (1, 1), size=(60, 70), angle=15)
    times = SIDE // small.shape[1]
    picture = interpolate(small[None], (SIDE, SIDE), mode="bilinear")[0]
    hand = Hand(tuple(times * value for value in drawn.box), joints=times * drawn.joints, side=drawn.side,
                mask=drawn.mask.repeat_interleave(times, 0).repeat_interleave(times, 1))
    [job] = crop.plan([hand], (SIDE, SIDE), limits=crop.LIMITS["sdxl"])
    [fit, *_] = fits_of(hand)
    inside = render.into_crop(fit, job.window, job.size)
    cut = crop.cut(picture, job)
    core = paste.cover([hand.mask], [hand.long], (SIDE, SIDE))
    alpha = paste.feather_out(core, 20, job.window)
    small_core, ring = crop.cut_mask(core, job) > 0.5, crop.cut_mask(alpha, job) == 0
    own = open_detector("own")
    return {
        f"detect, own net, {SIDE} x {SIDE}": milliseconds(lambda: detect(own, picture), 3),
        f"detect, own net, crop of {job.size[1]}": milliseconds(lambda: detect(own, cut, tile=False), 3),
        "plan": milliseconds(lambda: crop.plan([hand], (SIDE, SIDE))),
        "fit": milliseconds(lambda: fits_of(hand)),
        "depth": milliseconds(lambda: render.depth_map(render.surface(inside.joints[0], inside.radii[0],
                                                                      job.size))),
        "mask and feather": milliseconds(lambda: paste.feather_out(
            paste.cover([hand.mask], [hand.long], (SIDE, SIDE)), 20, job.window)),
        "score": milliseconds(lambda: score.score(score.gather(picture, hand))),
        "match colours": milliseconds(lambda: paste.match_ring(cut, cut * 0.95, small_core, ring)),
        "paste": milliseconds(lambda: paste.paste_back(picture, job, cut, alpha)),
    }


def batch_ratio() -> float:
    """Time of four tries in one batch over that of four batches of one."""
    picture, mask = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)), torch.ones(128, 128)
    draw = painter(load(), lambda crop: "an open hand, blue background", "DPM-Solver++ 2M", steps=4)
    tries = [Crop(picture, mask, None, seed, 0, 0, seed) for seed in range(4)]
    return milliseconds(lambda: draw(tries), 3) / milliseconds(lambda: [draw([one]) for one in tries], 3)


def main() -> None:
    torch.set_num_threads(1)
    print("| stage, a hand of 500 pixels | ms |\n|---|---|")
    for name, value in stages().items():
        print(f"| {name} | {value:.0f} |", flush=True)
    print(f"\nFour tries in one batch take {batch_ratio():.2f} of the time of four batches of one (CPU).")


if __name__ == "__main__":
    main()
