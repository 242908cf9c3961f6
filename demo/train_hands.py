"""python -m tweedie_pack.demo.train_hands FOLDER [finder|reader]: our hand detector from nothing, resumable.

Each net is a process of one thread; without a name both are trained, one after the other. Seed 0 throughout.
"""
from __future__ import annotations

import argparse
import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..controls.hands.nets import CELL, CROP, HEAT, MARGIN, MASK, Finder, Reader, fold
from .hand_data import CHUNK, REDRAWN, Labelled, labelled
from .tiny.fit import Job, Plan, fit
from .world import SIZE

PICTURES = 24_000
PLANS = {"finder": Plan(2400, 48, 4e-3, ("stem.0", "head.1")),
         "reader": Plan(1800, 40, 4e-3, ("stem.0", "heat", "outline.1", "whole", "there"))}
SHIPPED = pathlib.Path(__file__).parents[1] / "controls" / "hands" / "shipped"
SMALLEST, LARGEST, HUGE = 14, 116, 150  # a hand's longer side: the finder's range; beyond HUGE none
MISSING = 5.0  # weight of a joint that is not there against one that is


class Window(NamedTuple):
    """Squares in pictures: middle [B,2] and side [B] in pixels, turn [B] in radians, flip [B], 1 or -1."""

    middle: Tensor
    side: Tensor
    turn: Tensor
    flip: Tensor

    def axes(self) -> Tensor:
        """[B,2,2]: from -1..1 in the window to pixels from its middle."""
        c, s = self.turn.cos(), self.turn.sin()
        turned = torch.stack([c * self.flip, -s, s * self.flip, c], -1).view(-1, 2, 2)
        return turned * self.side.view(-1, 1, 1) / 2

    def look(self, pictures: Tensor, size: int, mode: str = "bilinear") -> Tensor:
        """[B,C,size,size] of pictures [B,C,S,S]; what lies outside repeats the border."""
        ticks = (torch.arange(size) + 0.5) * 2 / size - 1
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        at = torch.stack([x, y], -1).view(1, -1, 2) @ self.axes().mT + self.middle[:, None]
        at = (at * 2 / SIZE - 1).view(-1, size, size, 2)
        return F.grid_sample(pictures, at, mode, padding_mode="border", align_corners=False)

    def inward(self, points: Tensor) -> Tensor:
        """Points [B,N,2] of the pictures in 0..1 of the window."""
        return (points - self.middle[:, None]) @ torch.linalg.inv(self.axes()).mT / 2 + 0.5


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def sign(generator: torch.Generator, count: int) -> Tensor:
    return 1 - 2.0 * torch.randint(2, (count,), generator=generator)


def recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Gains, shifts and exchanged channels; one in six blurred, one in six grainy. [B,3,S,S] in 0..1."""
    count = len(pictures)
    gain, shift = (uniform(generator, 3 * count, *ends).view(count, 3, 1, 1)
                   for ends in ((0.75, 1.2), (-0.1, 0.1)))
    order = torch.stack([torch.randperm(3, generator=generator) if k % 3 == 0 else torch.arange(3)
                         for k in range(count)])
    pictures = pictures.gather(1, order[:, :, None, None].expand_as(pictures)) * gain + shift
    part = count // 6
    small = F.interpolate(pictures[:part], scale_factor=0.5, mode="area")
    pictures[:part] = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    grainy = pictures[part:2 * part]
    grainy += 0.04 * torch.randn(grainy.shape, generator=generator)
    return pictures.clamp(0, 1)


def choose(count: int, rows: int, rare: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Numbers [count] below `rows`, `share` of them from `rare`."""
    among = torch.randint(rows, (count,), generator=generator)
    again = rare[torch.randint(len(rare), (count,), generator=generator)]
    return torch.where(torch.rand(count, generator=generator) < share, again, among)


def finder_targets(boxes: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of boxes [B,K,4] in pixels: heat and weight [B,h,w], values [B,4,h,w] and their weight [B,h,w].

    What is hardly in the window, or as good as too large, is no mistake either way.
    """
    side = CROP // CELL
    low, high = boxes[..., :2], boxes[..., 2:]
    inside = (high.clamp(0, CROP) - low.clamp(0, CROP)).prod(-1) / (high - low).prod(-1).clamp_min(1)
    long = (high - low).amax(-1)
    right = there & (inside > 0.6) & (long > SMALLEST) & (long < LARGEST)
    vague = there & ~right & (inside > 0.1) & (long < HUGE)
    low, high = low.clamp(0, CROP) / CELL, high.clamp(0, CROP) / CELL
    middle, extent = (low + high) / 2, (high - low).clamp_min(0.5)
    ticks = torch.arange(side) + 0.5
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    cells = torch.stack([x, y], -1).view(1, 1, side, side, 2)
    offset = middle[:, :, None, None] - cells
    sigma = 0.45 + 0.05 * extent.amax(-1)[..., None, None]
    bump = torch.exp(-offset.square().sum(-1) / (2 * sigma**2)) * right[..., None, None]
    bump = bump.masked_fill((offset.abs().amax(-1) <= 0.5) & right[..., None, None], 1.0)
    heat, which = bump.max(1)
    within = ((cells > low[:, :, None, None]) & (cells < high[:, :, None, None])).all(-1)
    unsaid = (within & vague[..., None, None]).any(1)
    pick = which[..., None, None].movedim(1, -1)  # [B,h,w,1,1]
    values = torch.cat([offset, extent.log()[:, :, None, None].expand_as(offset)], -1)  # [B,K,h,w,4]
    chosen = values.permute(0, 2, 3, 1, 4).gather(3, pick.view(*which.shape, 1, 1).expand(-1, -1, -1, 1, 4))
    weight = (~unsaid | (heat > 0.9)).float()
    return heat, weight, chosen[..., 0, :].permute(0, 3, 1, 2), heat * (heat > 0.4)


def finder_loss(data: Labelled, net: nn.Module) -> Callable[[int, torch.Generator], Tensor]:
    """CenterNet's focal loss, and absolute errors of offset and size."""
    count = PLANS["finder"].batch
    hands = torch.full((len(data.pictures), 4), -1)
    hands[data.of, data.index] = torch.arange(len(data.of))
    redrawn = (torch.arange(len(data.pictures)) % CHUNK < REDRAWN).nonzero()[:, 0]

    def loss(_: int, generator: torch.Generator) -> Tensor:
        chosen = choose(count, len(data.pictures), redrawn, 1 / 7, generator)
        side = SIZE * torch.exp(uniform(generator, count, math.log(0.4), math.log(1.3)))
        room = (SIZE - side).clamp_min(0)[:, None] / 2 + 8
        middle = SIZE / 2 + room * uniform(generator, 2 * count, -1, 1).view(count, 2)
        quarters = torch.randint(4, (count,), generator=generator) * math.pi / 2
        view = Window(middle, side, quarters, sign(generator, count))
        pictures = recolour(view.look(data.pictures[chosen].float() / 255, CROP), generator)
        index = hands[chosen]  # [B,4]
        corners = view.inward(data.box[index.clamp_min(0)].view(count, -1, 2)).view(count, -1, 2, 2) * CROP
        boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
        heat, weight, values, near = finder_targets(boxes, index >= 0)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(pictures.to(memory_format=torch.channels_last)).float()
        p = out[:, 0].sigmoid().clamp(1e-4, 1 - 1e-4)
        focal = torch.where(heat == 1, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log())
        found = (heat == 1).sum().clamp_min(1)
        amiss = ((out[:, 1:] - values).abs().sum(1) * near).sum() / near.sum().clamp_min(1)
        return -(focal * weight).sum() / found + amiss

    return loss


def reader_batch(data: Labelled, rare: Tensor, empty: Tensor,
                 generator: torch.Generator) -> tuple[Tensor, ...]:
    """Crops [B,3,S,S], joints [B,21,2] in 0..1, visible [B,21], mask [B,m,m], side [B]; hand [B]: 1, or 0."""
    count = PLANS["reader"].batch
    row = choose(count, len(data.of), rare, 1 / 4, generator)
    hand = (torch.arange(count) >= count // 8).float()
    of = torch.where(hand > 0, data.of[row], empty[torch.randint(len(empty), (count,), generator=generator)])
    box = data.box[row]
    long = (box[:, 2:] - box[:, :2]).amax(-1)
    shift = 0.1 * uniform(generator, 2 * count, -1, 1).view(count, 2) * long[:, None]
    view = Window((box[:, :2] + box[:, 2:]) / 2 + shift, MARGIN * long * uniform(generator, count, 0.88, 1.2),
                  uniform(generator, count, -0.45, 0.45), sign(generator, count))
    crops = recolour(view.look(data.pictures[of].float() / 255, CROP), generator)
    own = (data.ids[of] == (data.index[row] + 1)[:, None, None]) & (hand > 0)[:, None, None]
    mask = F.avg_pool2d(view.look(own.float()[:, None], 2 * MASK), 2)[:, 0]
    return crops, view.inward(data.joints[row]), data.visible[row], mask, data.side[row] * view.flip, hand


def reader_loss(data: Labelled, net: nn.Module) -> Callable[[int, torch.Generator], Tensor]:
    """Joints by absolute error and by their heat's cross entropy; the rest by binary cross entropy."""
    full = torch.zeros(len(data.pictures), dtype=torch.bool)
    full[data.of] = True
    empty = (~full).nonzero()[:, 0]
    gone = (data.visible[:, 1:].unflatten(1, (5, 4)).sum(-1) == 0).any(1)
    rare = torch.cat([(data.of % CHUNK < REDRAWN).nonzero()[:, 0], gone.nonzero()[:, 0]])
    ticks = (torch.arange(HEAT) + 0.5) / HEAT

    def loss(_: int, generator: torch.Generator) -> Tensor:
        crops, joints, visible, mask, side, hand = reader_batch(data, rare, empty, generator)
        with torch.autocast("cpu", torch.bfloat16):
            read = net(crops.to(memory_format=torch.channels_last))
        inside = ((joints > 0) & (joints < 1)).all(-1) & (hand > 0)[:, None]
        weight = inside * (0.3 + 0.7 * visible)
        total = weight.sum()
        x, y = (torch.softmax(-0.5 * ((ticks - joints[..., k:k + 1]) * HEAT / 1.1) ** 2, -1) for k in (0, 1))
        goal = (y[..., :, None] * x[..., None, :]).flatten(2)
        share = read.heat.float().flatten(2)
        cross = -(goal * share.log_softmax(-1)).sum(-1)
        maps = share.softmax(-1).unflatten(-1, (HEAT, HEAT))  # again in float32
        at = torch.stack([maps.sum(2) @ ticks, maps.sum(3) @ ticks], -1)
        amiss = (at - joints).abs().sum(-1)
        each = F.binary_cross_entropy_with_logits
        seen = each(read.sure.float(), visible, hand[:, None] * (visible + MISSING * (1 - visible)))
        turned = each(read.side.float(), (side > 0).float(), hand)
        return ((12 * amiss + 0.25 * cross) * weight).sum() / total + 0.7 * seen + 0.4 * turned \
            + 2 * each(read.mask.float(), mask) + 0.4 * each(read.hand.float(), hand)

    return loss


@torch.no_grad()
def settle(net: nn.Module, loss: Callable[[int, torch.Generator], Tensor]) -> None:
    """Statistics of the norms anew, for the averaged weights."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    net.train()
    for step in range(40):
        loss(step, torch.Generator().manual_seed(10**6 + step))


def train(name: str, folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = labelled(folder, PICTURES, os.cpu_count() or 1)
    net = {"finder": Finder, "reader": Reader}[name](norm=True).to(memory_format=torch.channels_last)
    if name == "finder":
        nn.init.constant_(net.head[1].bias[:1], -4.0)  # hands are rare
    loss = {"finder": finder_loss, "reader": reader_loss}[name](data, net)
    fit(Job(folder, "cpu", 0, 1), name, PLANS[name], net, loss)
    settle(net, loss)
    SHIPPED.mkdir(exist_ok=True)
    path = SHIPPED / f"{name}.safetensors"
    save_file({key: value.half().contiguous() for key, value in fold(net).state_dict().items()}, path)
    path.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="for pictures and checkpoints to resume from, 3 GB")
    parser.add_argument("net", nargs="?", choices=PLANS)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in [chosen.net] if chosen.net else PLANS:
        train(name, chosen.folder)


if __name__ == "__main__":
    main()
