"""(captions) -> ids [B,77] of CLIP's byte-pair vocabulary; only the words of the world are known."""
from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

LENGTH, START, END = 77, 49406, 49407  # Stable Diffusion 1.x fills up with the end token
IDS = {
    ",": 267, "a": 320, "an": 550, "and": 537, "at": 536, "background": 5994, "black": 1449, "blue": 1746,
    "bottom": 5931, "circle": 7117, "cross": 3417, "fist": 17085, "glove": 16078, "green": 1901, "hand": 2463,
    "in": 530, "left": 1823, "middle": 3694, "on": 525, "open": 1488, "orange": 4287, "pointing": 19233,
    "purple": 5496, "red": 736, "right": 1155, "ring": 2540, "small": 2442, "square": 3999, "star": 1565,
    "the": 518, "top": 1253, "triangle": 14615, "victory": 4127, "white": 1579, "yellow": 4481,
}


def tokenize(captions: Sequence[str]) -> Tensor:
    """Ids [B,77], int64; ValueError for a word that the world does not have and for too long a caption."""
    rows = []
    for caption in captions:
        words = re.findall(r",|[^\s,]+", caption.lower())
        unknown = sorted(set(words) - set(IDS))
        if unknown:
            raise ValueError(f"Caption: {', '.join(unknown)} in {caption!r} is not among this world's words; "
                             f"use {', '.join(sorted(IDS))}.")
        if len(words) > LENGTH - 2:
            raise ValueError(f"Caption: {len(words)} words, at most {LENGTH - 2} fit; shorten it.")
        rows.append([START, *(IDS[word] for word in words)])
    return torch.tensor([row + [END] * (LENGTH - len(row)) for row in rows]).reshape(-1, LENGTH)
