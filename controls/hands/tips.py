"""(mask [h,w], wrist) -> how many digits stand out of it: ends of the ways that lead away from the wrist.

A pixel's height is its way from the wrist through the mask. As the level falls, islands come up around the
tips and meet where digits do; a tip counts if it stood out by `PROMINENCE` when its island met a higher one.
"""
from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn.functional import interpolate

SIZE = 100  # pixels of the hand's length at which tips are counted
SMOOTH = 1.2  # pixels there, by which edges are smoothed
PROMINENCE = 6.0
STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 2**0.5), (1, -1, 2**0.5))


def ways(mask: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a mask's pixels: their ways [N] from the one numbered `start`, and pairs [2,E] of neighbours."""
    number = np.full(np.add(mask.shape, 2), -1)
    number[1:-1, 1:-1][mask] = np.arange(mask.sum())
    rows, columns = np.nonzero(number >= 0)
    pairs, lengths = [], []
    for down, right, length in STEPS:
        other = number[rows + down, columns + right]
        pairs.append(np.stack([number[rows, columns], other])[:, other >= 0])
        lengths.append(np.full(pairs[-1].shape[1], length))
    joined = np.concatenate(pairs, 1)
    graph = coo_array((np.concatenate(lengths), tuple(joined)), shape=(mask.sum(), mask.sum())).tocsr()
    return dijkstra(graph, directed=False, indices=start), joined


def count_peaks(height: np.ndarray, pairs: np.ndarray) -> int:
    """Peaks [N] that stand out by PROMINENCE; the highest always counts."""
    near: list[list[int]] = [[] for _ in height]
    for a, b in pairs.T.tolist():
        near[a].append(b)
        near[b].append(a)
    island = np.arange(len(height)).tolist()

    def owner(pixel: int) -> int:
        """The peak of the pixel's island."""
        while island[pixel] != pixel:
            island[pixel] = island[island[pixel]]
            pixel = island[pixel]
        return pixel

    found, dry = 1, [False] * len(height)
    levels = height.tolist()
    for pixel in np.argsort(-height, kind="stable").tolist():
        dry[pixel] = True
        for other in near[pixel]:
            if dry[other]:
                low, high = sorted((owner(pixel), owner(other)), key=lambda peak: (levels[peak], -peak))
                if low != high:
                    found += levels[low] - levels[pixel] >= PROMINENCE
                    island[low] = high
    return found


def count_tips(mask: Tensor, wrist: tuple[float, float], long: float) -> int:
    """Tips of the largest part of a mask [h,w], bool; `long` is the hand's length in pixels, wrist (x, y)."""
    scale = SIZE / long
    shape = tuple(max(round(side * scale), 1) for side in mask.shape)
    soft = interpolate(mask[None, None].float(), shape, mode="bilinear", antialias=True)[0, 0]
    parts, _ = ndimage.label(ndimage.gaussian_filter(soft.numpy(), SMOOTH) > 0.5)
    sizes = np.bincount(parts.ravel())[1:]
    if not len(sizes):
        return 0
    largest = parts == 1 + sizes.argmax()
    rows, columns = np.nonzero(largest)
    start = int(np.argmin((columns + 0.5 - wrist[0] * scale) ** 2 + (rows + 0.5 - wrist[1] * scale) ** 2))
    height, pairs = ways(largest, start)
    reached = np.isfinite(height)  # what hangs on by a corner alone is left out
    return count_peaks(np.where(reached, height, -1.0), pairs)
