"""(masks at full resolution [R,H,W], grid) -> their shares of each token [R,h,w]; masks drawn, checked.

Area filtering keeps what a nearest-neighbour mask loses: a region never vanishes, its area is kept exactly,
and its border becomes soft instead of jagged.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

SIDE = 16384  # no mask is larger


def check_mask(mask: Tensor, name: str) -> Tensor:
    """The mask as float32 [H,W] in 0..1; ValueError for another shape, NaN, infinity or an absurd size."""
    mask = torch.as_tensor(mask)
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or not all(0 < side <= SIDE for side in mask.shape):
        raise ValueError(f"{name}: the mask has shape {list(mask.shape)}; give one mask of rows and columns, "
                         f"at most {SIDE} a side")
    mask = mask.detach().float()
    if not bool(torch.isfinite(mask).all()):
        raise ValueError(f"{name}: the mask holds NaN or infinity; give values from 0 to 1")
    return mask.clamp(0, 1)


def box_mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """A box x0, y0, x1, y1 in fractions as coverage [H,W]: a pixel that it cuts is covered in part."""
    def along(low: float, high: float, count: int) -> Tensor:
        edges = torch.arange(count + 1, dtype=torch.float64) / count
        inside = edges.clamp(low, high)
        return inside.diff() * count
    x0, y0, x1, y1 = box
    return torch.outer(along(y0, y1, size[0]), along(x0, x1, size[1])).float()


def bounds(mask: Tensor) -> tuple[int, int, int, int] | None:
    """top, left, bottom, right (exclusive) of what lies above half of its highest value; None if empty."""
    rows, columns = ((mask > mask.max() / 2).any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def slide(values: Tensor, width: int) -> Tensor:
    """Mean over an odd `width` of neighbours along the last axis; the picture's edge goes on as it is."""
    before = width // 2
    padded = torch.cat([values[..., :1].expand(*values.shape[:-1], before + 1), values,
                        values[..., -1:].expand(*values.shape[:-1], before)], -1)
    sums = padded.double().cumsum(-1)
    return ((sums[..., width:] - sums[..., :-width]) / width).to(values)


def feather(mask: Tensor, fraction: float) -> Tensor:
    """The mask [H,W] with edges that ramp over this fraction of its own box, half inside and half outside.

    Where it meets the picture's edge it stays whole.
    """
    box = bounds(mask) if fraction > 0 else None
    if box is None:
        return mask
    top, left, bottom, right = box
    for side in (right - left, bottom - top):
        width = round(fraction * side) | 1  # odd, so that nothing moves
        mask = (slide(mask, width) if width > 1 else mask).mT
    return mask.clamp(0, 1)


def cover(size: int, cells: int, extent: float = 1.0) -> Tensor:
    """[cells, size]: how much of each cell each pixel is; rows add up to 1.

    The cells together span `extent` of the picture: above 1 where the last one hangs over its edge.
    """
    edges = torch.arange(size + 1, dtype=torch.float64) / size
    ends = (torch.arange(cells + 1, dtype=torch.float64) * (extent / cells)).clamp(max=1)
    low, high = ends[:-1, None], ends[1:, None]
    share = (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp_min(0)
    share[share.sum(1) == 0, -1] = 1  # a cell beyond the edge goes by the last pixel
    return share / share.sum(1, keepdim=True)


def extent(full: int, cells: int) -> float:
    """How far `cells` tokens reach over `full` latent positions: hosts round up."""
    step = 2 ** math.ceil(math.log2(max(full / cells, 1)))
    return cells * step / full if math.ceil(full / step) == cells else 1.0


def shrink(masks: Tensor, grid: tuple[int, int], full: tuple[int, int]) -> Tensor:
    """Area-filter masks [R,H,W] to a token grid (h, w) of a latent with `full` rows and columns."""
    rows, columns = (cover(masks.shape[axis - 2], grid[axis], extent(full[axis], grid[axis])).to(masks)
                     for axis in (0, 1))
    return rows @ masks @ columns.mT


def fit(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask [H,W] at another full resolution: by area along sides that shrink, else linearly."""
    if tuple(mask.shape) == size:
        return mask
    small = min(mask.shape[0], size[0]), min(mask.shape[1], size[1])
    mask = shrink(mask[None], small, small)[None]
    return torch.nn.functional.interpolate(mask, size, mode="bilinear", align_corners=False)[0, 0]
