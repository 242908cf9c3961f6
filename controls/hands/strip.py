"""(records of a repair) -> one picture [3,h,w]: a row a crop, its original, the result, and every try.

The bar under a tile is its score: green for what was kept, grey for the original, red for the rest.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .repair import Record

SIDE, BAR = 256, 8
GREEN, GREY, RED = (0.15, 0.7, 0.25), (0.6, 0.6, 0.6), (0.85, 0.25, 0.2)


def tile(picture: Tensor, score: float, colour: tuple[float, float, float]) -> Tensor:
    """[3,SIDE+BAR,SIDE]: the picture, fitted in, over its bar."""
    scale = SIDE / max(picture.shape[1:])
    h, w = (max(round(side * scale), 1) for side in picture.shape[1:])
    out = torch.zeros(3, SIDE + BAR, SIDE)
    out[:, (SIDE - h) // 2:(SIDE - h) // 2 + h, (SIDE - w) // 2:(SIDE - w) // 2 + w] = functional.interpolate(
        picture.float().cpu()[None], (h, w), mode="bilinear", antialias=True)[0].clamp(0, 1)
    out[:, SIDE + 2:, :round(SIDE * min(max(score, 0), 1))] = torch.tensor(colour)[:, None, None]
    return out


def row(record: Record) -> list[Tensor]:
    kept = record.before if record.kept is None else record.tries[record.kept]
    tiles = [tile(record.before.picture, record.before.score, GREY),
             tile(kept.picture, kept.score, GREY if record.kept is None else GREEN)]
    return tiles + [tile(one.picture, one.score, GREEN if index == record.kept else RED)
                    for index, one in enumerate(record.tries)]


def strip(records: Sequence[Record]) -> Tensor:
    """[3,rows*264,columns*256]; one dark tile where there is nothing to show."""
    rows = [row(record) for record in records] or [[torch.zeros(3, SIDE + BAR, SIDE)] * 2]
    columns = max(map(len, rows))
    blank = torch.zeros(3, SIDE + BAR, SIDE)
    return torch.cat([torch.cat(tiles + [blank] * (columns - len(tiles)), 2) for tiles in rows], 1)
