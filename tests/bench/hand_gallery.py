"""The README's picture of hand repair: python tests/bench/hand_gallery.py -> docs/pictures/hands.png

A column a hand: the first that are painted wrong, large and small in turn, seed by seed, none picked out, or
those that are named: --hands large:28 large:37 small:22 --out docs/pictures/hands_damaged.png.
From above: as painted; what the detector finds; the depth that the whole pass shows its first try, in its
crop, black where the hand is left alone; plain detailing at the same denoise; the whole pass.
"""
from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from score import hands as row
from torch import Tensor
from torch.nn.functional import interpolate, pad
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.prepare import Crop
from tweedie_pack.controls.hands.sketch import sketch
from tweedie_pack.demo.page import save_picture
from tweedie_pack.demo.reader import count_fingers
from tweedie_pack.demo.world import Scene

COLUMNS, TILE, GAP = 8, 192, 9  # tiles' sides, and pixels between them
OUT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pictures" / "hands.png"


def named_hand(name: str) -> tuple[int, Scene, Tensor]:
    """seed, scene and picture of a hand such as large:28."""
    size, seed = name.split(":")
    scene = row.draft(f"{size} hand", int(seed))
    [picture] = row.paint([scene], [int(seed)])
    return int(seed), scene, picture


def wrong_hands(first: int) -> Iterator[tuple[int, Scene, Tensor]]:
    """(seed, scene, picture) of hands that are painted wrong, from a seed on."""
    seed = first
    while True:
        for kind in row.KINDS:
            scene = row.draft(kind, seed)
            [picture] = row.paint([scene], [seed])
            if count_fingers(picture) != row.FINGERS:
                yield seed, scene, picture
        seed += 1


def mend(line: str, seed: int, scene: Scene, picture: Tensor, hands: Sequence[Hand]) -> tuple[Tensor, Tensor]:
    """The picture as a line mends it [3,128,128], and the depth of its first try [3,h,w]."""
    seen = [torch.zeros(picture.shape[1:])]
    draw = row.drawer(row.WAYS[line], [scene], [seed])

    def watch(crops: Sequence[Crop]) -> list[Tensor]:
        seen.extend(one.depth for one in crops[:1] if one.depth is not None)
        return draw(crops)
    [mended] = row.mend(row.WAYS[line], picture[None], [hands], watch)
    return mended, seen[-1].expand(3, -1, -1)


def columns(painted: Iterable[tuple[int, Scene, Tensor]]) -> Iterator[list[Tensor]]:
    """A column's tiles [3,h,w], from above."""
    for seed, scene, picture in painted:
        hands = row.finder()(picture)
        (plain, _), (whole, depth) = (mend(line, seed, scene, picture, hands)
                                      for line in (row.STRONG, row.WHOLE))
        yield [picture, sketch(picture, hands), depth, plain, whole]


def show(tile: Tensor) -> Tensor:
    """[3,TILE,TILE]"""
    return interpolate(tile[None], (TILE, TILE), mode="bicubic", antialias=True)[0].clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture")
    parser.add_argument("--hands", nargs="*", help="such as large:28; else the first that are wrong")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    painted = map(named_hand, chosen.hands) if chosen.hands else islice(wrong_hands(chosen.seed), COLUMNS)
    tiles = list(columns(painted))
    framed = torch.cat([torch.cat([pad(show(tile), (0, GAP, 0, GAP), value=1.0) for tile in column], 1)
                        for column in tiles], 2)[:, :-GAP, :-GAP]
    save_picture(chosen.out, framed.permute(1, 2, 0))
    print(chosen.out)


if __name__ == "__main__":
    main()
