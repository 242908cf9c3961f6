"""Row routing: attention where each token reads its own texts, (attend, q, parts with their k, v) -> output.

The output is sum_r w_r attend(q, K_r, V_r), region r's keys being its text and, in joint attention, the
picture. Only rows with w_r > 0 are computed, so disjoint regions cost what one text costs, overlaps are
exact, and no mask is made: any kernel of the host's will do. Tensors are [B,N,C] or [B,H,N,D].
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Attend = Callable[..., Tensor]  # (q, k, v, mask) -> output, by whatever kernel the host has
TINY = 1e-4  # a share below this is nobody's


class Part(NamedTuple):
    """Who reads one text: rows [n] of the queries (None for all), and its weight in each (None for 1)."""

    rows: Tensor | None
    weight: Tensor | None


def divide(shares: Tensor) -> list[Part | None]:
    """Shares [T,N] that add up to 1 -> a part for each text; None where it has no rows.

    Waits for the device, so it is done once for each grid.
    """
    shares = torch.where(shares < TINY, 0, shares)
    shares = shares / shares.sum(0)
    parts: list[Part | None] = []
    for share in shares:
        rows = share.nonzero().flatten()
        weight = share[rows]
        whole = len(rows) == len(share)
        parts.append(None if not len(rows) else Part(None if whole else rows,
                                                     None if bool((weight > 1 - TINY).all()) else weight))
    return parts


def along(weight: Tensor, out: Tensor, dim: int) -> Tensor:
    """The weights [n] in the output's type, shaped to stand at its axis `dim`."""
    return weight.to(out).reshape([-1 if axis == dim else 1 for axis in range(out.ndim)])


def cut(mask: Tensor | None, rows: Tensor | None, keys: Tensor | None) -> Tensor | None:
    """An additive mask [..,Q|1,K|1] for some rows and keys."""
    if mask is None:
        return None
    if rows is not None and mask.shape[-2] > 1:
        mask = mask.index_select(-2, rows)
    return mask if keys is None or mask.shape[-1] == 1 else mask.index_select(-1, keys)


def route(attend: Attend, q: Tensor, lanes: Iterable[tuple[Part, Tensor, Tensor, Tensor | None]], dim: int,
          out_dim: int) -> Tensor:
    """Blend over lanes (part, k, v, mask); rows that no lane holds come out as 0.

    dim: where N stands in q; out_dim: where it stands in what `attend` returns.
    """
    out, count = None, q.shape[dim]
    for part, k, v, mask in lanes:
        rows = q if part.rows is None else q.index_select(dim, part.rows)
        read = attend(rows, k, v, cut(mask, part.rows, None))
        if part.weight is not None:
            read = read * along(part.weight, read, out_dim)
        if part.rows is None:
            out = read if out is None else out.add_(read)
            continue
        if out is None:
            out = read.new_zeros([count if axis == out_dim else side for axis, side in enumerate(read.shape)])
        out.index_add_(out_dim, part.rows, read)
    return out
