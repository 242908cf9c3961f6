"""Our own hand nets, plain torch: `Finder`, picture -> centres and sizes; `Reader`, crop -> joints and mask.

Both are built with batch norm to be trained and without it to be used: `fold` turns one into the other.
Pictures come in 0..1.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

CELL = 8  # pixels of the finder's input to a cell of its output
CROP, HEAT, MASK = 128, 32, 64  # sides of the reader's input, of its heat maps, of its mask
MARGIN = 1.35  # side of the reader's crop to the longer side of the hand's box


def step(inner: int, outer: int, stride: int, norm: bool) -> nn.Sequential:
    """3x3 convolution, norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=not norm),
                         nn.BatchNorm2d(outer) if norm else nn.Identity(), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.one, self.two = step(width, width, 1, norm), step(width, width, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


def fold(net: nn.Module) -> nn.Module:
    """The net with each batch norm folded into the convolution before it, ready to be used."""
    net.eval()
    for module in net.modules():
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return net


def twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Finder(nn.Module):
    """[B,3,H,W], sides multiples of 32 -> [B,5,H/8,W/8]: logit that a hand's centre is in the cell, its
    offset from the cell's middle (x, y, in cells), and the logarithms of its width and height in cells. As
    CenterNet (Zhou et al. 2019), coarser.
    """

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(step(3, 16, 2, norm), step(16, 32, 2, norm), step(32, 40, 2, norm),
                                  Residual(40, norm), Residual(40, norm))
        self.middle = nn.Sequential(step(40, 64, 2, norm), Residual(64, norm))
        self.deep = nn.Sequential(step(64, 64, 2, norm), Residual(64, norm))
        self.rise = step(64, 64, 1, norm)
        self.back = nn.Conv2d(64, 40, 1)
        self.head = nn.Sequential(step(40, 40, 1, norm), nn.Conv2d(40, 5, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        fine = self.stem(pictures - 0.5)
        middle = self.middle(fine)
        middle = self.rise(middle + twice(self.deep(middle)))
        return self.head(fine + twice(self.back(middle)))


class Read(NamedTuple):
    """joints [B,21,2] in 0..1 of the crop, their heat [B,21,32,32]; logits: sure [B,21] that a joint is
    there, mask [B,64,64], side [B] (above 0 is right), hand [B] that there is a hand.
    """

    joints: Tensor
    heat: Tensor
    sure: Tensor
    mask: Tensor
    side: Tensor
    hand: Tensor


class Reader(nn.Module):
    """Crops [B,3,128,128] -> Read. A joint lies at the mean of its heat map (Sun et al. 2018)."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = step(3, 24, 2, norm)
        self.fine = nn.Sequential(step(24, 32, 2, norm), Residual(32, norm))
        self.middle = nn.Sequential(step(32, 64, 2, norm), Residual(64, norm))
        self.deep = nn.Sequential(step(64, 80, 2, norm), Residual(80, norm))
        self.back = nn.Conv2d(80, 64, 1)
        self.rise = step(64, 64, 1, norm)
        self.across, self.up = nn.Conv2d(64, 48, 1), nn.Conv2d(32, 48, 1)
        self.joint = Residual(48, norm)
        self.heat = nn.Conv2d(48, 21, 1)
        self.outline = nn.Sequential(step(48 + 24, 16, 1, norm), nn.Conv2d(16, 1, 1))
        self.whole = nn.Linear(80, 2)  # side, hand
        self.there, self.there_whole = nn.Parameter(torch.zeros(21, 48)), nn.Linear(80, 21)

    def forward(self, crops: Tensor) -> Read:
        stem = self.stem(crops - 0.5)
        fine = self.fine(stem)
        middle = self.middle(fine)
        deep = self.deep(middle)
        middle = self.rise(middle + twice(self.back(deep)))
        fine = self.joint(self.up(fine) + twice(self.across(middle)))
        heat = self.heat(fine)
        share = heat.flatten(2).softmax(-1)  # [B,21,1024]
        cells = (torch.arange(HEAT, device=heat.device, dtype=share.dtype) + 0.5) / HEAT
        maps = share.unflatten(-1, (HEAT, HEAT))
        joints = torch.stack([maps.sum(2) @ cells, maps.sum(3) @ cells], -1)
        at = share @ fine.flatten(2).mT  # [B,21,48]: what is seen where the joint is
        pooled = deep.mean((2, 3))
        sure = (at * self.there).sum(-1) + self.there_whole(pooled)
        side, hand = self.whole(pooled).unbind(-1)
        mask = self.outline(torch.cat([twice(fine), stem], 1))[:, 0]
        return Read(joints, heat, sure, mask, side, hand)
