"""The stages of one repair as a picture: python tests/bench/hand_stages.py -> docs/pictures/hand_stages.png

From the left: what the detector finds; the crop's window and the mask; the depth that the pasted try was
given, in the crop; the result; what changed, four times as strong. Below, as the node shows it: the original,
what is pasted, every try with its score.
"""
from __future__ import annotations

import argparse
import pathlib

import torch
from hand_gallery import wrong_hands
from score import hands as row
from torch import Tensor
from torch.nn.functional import interpolate, pad
from tweedie_pack.controls.hands.prepare import Crop, Settings
from tweedie_pack.controls.hands.repair import repair
from tweedie_pack.controls.hands.sketch import frame, sketch
from tweedie_pack.controls.hands.strip import strip
from tweedie_pack.demo.page import save_picture
from tweedie_pack.demo.tiny.repaired import LIMITS

TILE, GAP = 300, 9
OUT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pictures" / "hand_stages.png"


def fitted(picture: Tensor) -> Tensor:
    """[3,TILE,TILE] with white to its right."""
    square = interpolate(picture.expand(3, -1, -1)[None].float(), (TILE, TILE), mode="nearest")[0]
    return pad(square, (0, GAP), value=1.0)


def stages(seed: int) -> Tensor:
    """[3,H,W] of the first hand that is painted wrong from a seed on."""
    seed, scene, picture = next(wrong_hands(seed))
    way, find = row.WAYS[row.WHOLE], row.finder()
    hands, draw, crops = find(picture), row.drawer(way, [scene], [seed]), []

    def watched(asked: list[Crop]) -> list[Tensor]:
        crops.extend(asked)
        return draw(asked)
    done = repair(picture[None], [hands], watched, find, Settings(), LIMITS, depth=True)
    plan = torch.lerp(picture, torch.tensor([1.0, 0.3, 0.3])[:, None, None], 0.6 * done.changed[0])
    frame(plan, tuple(map(float, done.records[0].job.window)), (1.0, 0.8, 0.1))
    change = 4 * (done.pictures[0] - picture).abs()
    depth = crops[done.records[0].kept or 0].depth[None]
    tiles = [sketch(picture, hands), plan, depth, done.pictures[0], change.clamp(0, 1)]
    top = torch.cat([fitted(tile) for tile in tiles], 2)[:, :, :-GAP]
    below = strip(done.records)
    below = interpolate(below[None], (round(below.shape[1] * top.shape[2] / below.shape[2]), top.shape[2]),
                        mode="bilinear", antialias=True)[0]
    return torch.cat([pad(top, (0, 0, 0, GAP), value=1.0), below], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="from which on a wrong hand is looked for")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    save_picture(chosen.out, stages(chosen.seed).permute(1, 2, 0))
    print(chosen.out)


if __name__ == "__main__":
    main()
