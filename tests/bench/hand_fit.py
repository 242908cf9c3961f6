"""Error, order in depth and time of fitted hands: PYTHON tests/bench/hand_fit.py > table.md

Hands are random states of the skeleton itself, so that their bones are easier to fit than those of people.
"""
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401
from random_hands import random_hands
from test_hand_pose import demo_hands, fit, miss, noisy, right_order
from tweedie_pack.controls.hands.pose import fit_hands
from tweedie_pack.controls.hands.render import surface


def row(name, true, points, side, noise):
    begun = time.process_time()
    result, joints = fit(noisy(points, noise), side)
    spent = 1000 * (time.process_time() - begun) / len(points)
    other = right_order(true, fit(noisy(points, noise), -side)[1])
    guess = fit(noisy(points, noise), torch.zeros_like(side))[0]
    print(f"| {name} | {100 * noise:g} % | {100 * float(miss(joints, points).mean()):.2f} % "
          f"| {100 * float(result.residual.mean()):.2f} % | {right_order(true, joints):.2f} | {other:.2f} "
          f"| {float((guess.side == side).float().mean()):.2f} | {spent:.0f} ms |")


if __name__ == "__main__":
    print("| hands | noise | from the truth | from the points | depth's order | of the wrong side "
          "| side guessed | CPU a hand, batch |\n|---|---|---|---|---|---|---|---|")
    joints, sides = demo_hands()
    for noise in (0.0, 0.01, 0.02):
        row("skeleton's", *random_hands(128, 1), noise)
        row("skeleton's, well bent", *random_hands(128, 2, flexion=1.4), noise)
        row("demo's, drawn", joints, joints[..., :2], sides, noise)
    _, points, side = random_hands(1, 3)
    for size in (512, 768, 1024):
        begun = time.process_time()
        for _ in range(5):
            one = fit_hands(points * 0.8 * size + size / 2, torch.ones(1, 21), side)
        fitted = time.process_time()
        for _ in range(5):
            surface(one.joints[0], one.radii[0], (size, size))
        print(f"\nOne hand at {size}: fit {200 * (fitted - begun):.0f} ms, "
              f"surface {200 * (time.process_time() - fitted):.0f} ms of CPU.")
