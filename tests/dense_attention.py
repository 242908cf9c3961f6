"""Attention by the definition, in float64, and sets of regions to route it by: (q, k, v, bias) -> output."""
import math

import torch
from torch.nn.functional import scaled_dot_product_attention
from tweedie_pack.controls.attention import TINY
from tweedie_pack.controls.masks import box_mask
from tweedie_pack.controls.regions import Region, gather

SIZE, GRID = (7, 11), (4, 6)  # of the latent, of its tokens
CPU = torch.device("cpu")
HEADS = 2
LEFT, RIGHT = (0, 0, 6 / 11, 1), (6 / 11, 0, 1, 1)  # three columns of tokens each


def regions(*boxes, soft=0.0, ratio=0.0):
    """Regions of weight 1, 2, .."""
    return gather([Region(box_mask(box, SIZE), 1 + number, ratio) for number, box in enumerate(boxes)], SIZE,
                  [soft] * len(boxes))


SETS = {
    "disjoint": regions(LEFT, RIGHT), "soft": regions(LEFT, RIGHT, soft=0.6),
    "overlapping": regions((0, 0, 0.7, 1), (0.3, 0.2, 1, 1)), "base ratio": regions(LEFT, RIGHT, ratio=0.3),
    "open": regions((0, 0, 0.4, 0.6)), "one": regions((0, 0, 1, 1)),
    "both everywhere": regions((0, 0, 1, 1), (0, 0, 1, 1)),
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def owners(masks, active):
    """Shares [1+A,N] of the base and of the regions that act, as far as they count, in float64."""
    shares = masks.on(GRID, SIZE, active, CPU).flatten(1)[[0, *(1 + number for number in active)]].double()
    shares = shares.where(shares >= TINY, torch.zeros_like(shares))
    return shares / shares.sum(0)


def softmax(q, k, v, bias=0.0):
    """[B,H,N,D] by the definition; bias [..,Q,K] is added to the scores."""
    return ((q @ k.mT) / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v


def to_heads(x):
    """[B,N,C] or [B,N,H,D] -> [B,H,N,D]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2) if x.ndim == 3 else x.transpose(1, 2)


def attend_heads(q, k, v, mask=None):
    """A host's kernel on [B,H,N,D]."""
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_tokens(q, k, v, mask=None):
    """A host's kernel on [B,N,C], or v [B,N,H,D]: -> [B,N,C]."""
    return attend_heads(*map(to_heads, (q, k, v)), mask).transpose(1, 2).flatten(2)


def same(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
