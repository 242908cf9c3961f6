"""picture [3,H,W] in 0..1 -> hands with box, joints, side and mask, by two small nets that are shipped.

They were trained on drawn hands alone: see shipped/README.md for what they can't do.
"""
from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .found import Box, Hand
from .merge import clamp_box, first_of_each, overlaps
from .nets import CELL, CROP, MARGIN, Finder, Reader

SHIPPED = pathlib.Path(__file__).with_name("shipped")
FINEST, COARSEST = 1024, 128  # longer sides of what the finder sees: halved from one to the other
ENLARGED = 512  # up to here a picture is seen at twice its size first
PEAKS = 64  # hands at most on each of them
READ_AT_ONCE = 16
WITHIN = 0.8  # share of a hand's box in a surer one's: it is a part of that


def load(net: nn.Module, name: str, folder: pathlib.Path = SHIPPED) -> nn.Module:
    """The net with the weights of that name, float32; FileNotFoundError, or ValueError for other weights."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"Our hand detector: {path} is missing; install the pack again, as a whole")
    state = {key: value.float() for key, value in load_file(path).items()}
    wanted = {key: value.shape for key, value in net.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != wanted:
        raise ValueError(f"Our hand detector: {path} holds other weights; install the pack again, as a whole")
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def check(picture: Tensor) -> None:
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.is_floating_point():
        raise ValueError(f"Our hand detector: needs a float picture [3,H,W], got {picture.dtype} "
                         f"{list(picture.shape)}; give one picture in 0..1")


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes (height, width) at which the finder looks, the finest first."""
    long = max(height, width)
    scale, found = (2 if 2 * long <= ENLARGED else min(1.0, FINEST / long)), []
    while not found or long * scale >= 0.99 * COARSEST:
        found.append((max(1, round(height * scale)), max(1, round(width * scale))))
        scale /= 2
    return found


def peaks(out: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The finder's output [5,h,w] -> boxes [K,4] in its input's pixels, confidences [K], the best first."""
    heat = out[0].sigmoid()
    top = (functional.max_pool2d(heat[None], 3, 1, 1)[0] == heat) & (heat > least)
    rows, columns = top.nonzero(as_tuple=True)
    order = heat[rows, columns].argsort(descending=True)[:PEAKS]
    rows, columns = rows[order], columns[order]
    offset, extent = out[1:3, rows, columns].T, out[3:, rows, columns].T.clamp(-2, 4).exp()
    middle = torch.stack([columns, rows], 1) + 0.5 + offset
    return torch.cat([middle - extent / 2, middle + extent / 2], 1) * CELL, heat[rows, columns]


class Crop(NamedTuple):
    """A square of the picture around (x, y), `side` pixels long, turned by `turn` radians."""

    x: float
    y: float
    side: float
    turn: float = 0.0

    @classmethod
    def of(cls, box: Box, turn: float = 0.0) -> Crop:
        long = max(box[2] - box[0], box[3] - box[1])
        return cls((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, MARGIN * long, turn)

    def axes(self, like: Tensor) -> Tensor:
        """[2,2], orthonormal: the crop's right and down in the picture, as columns."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        return like.new_tensor([[c, -s], [s, c]])

    def outward(self, points: Tensor) -> Tensor:
        """Points [...,2] in 0..1 of the crop, in pixels of the picture."""
        return (points - 0.5) * self.side @ self.axes(points).T + points.new_tensor([self.x, self.y])

    def cut(self, picture: Tensor) -> Tensor:
        """[3,128,128]; pixels beyond the picture repeat its border, a large crop's are averaged."""
        finer = max(1, round(self.side / CROP))
        ticks = (torch.arange(finer * CROP, device=picture.device) + 0.5) / (finer * CROP)
        at = self.outward(torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1))
        at = at * 2 / at.new_tensor([picture.shape[2], picture.shape[1]]) - 1
        fine = functional.grid_sample(picture[None], at[None], padding_mode="border", align_corners=False)
        return functional.avg_pool2d(fine, finer)[0]

    def spread(self, logits: Tensor, height: int, width: int) -> Tensor:
        """A mask [m,m] of the crop as bool over the whole picture [H,W]."""
        mask = torch.zeros(height, width, dtype=torch.bool, device=logits.device)
        reach = 0.5 * self.side * (abs(math.cos(self.turn)) + abs(math.sin(self.turn)))
        x0, x1 = (min(max(round(self.x + r), 0), width) for r in (-reach, reach))
        y0, y1 = (min(max(round(self.y + r), 0), height) for r in (-reach, reach))
        if x0 == x1 or y0 == y1:
            return mask
        x, y = (torch.arange(*ends, device=logits.device) + 0.5 for ends in ((x0, x1), (y0, y1)))
        at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) - logits.new_tensor([self.x, self.y])
        at = at @ self.axes(logits) * 2 / self.side
        part = functional.grid_sample(logits[None, None], at[None], padding_mode="border",
                                      align_corners=False)
        mask[y0:y1, x0:x1] = (part[0, 0] > 0) & (at.abs() < 1).all(-1)
        return mask


def upright(joints: Tensor) -> float:
    """By how much a crop must turn for the knuckles of joints [21,2] to lie above the wrist; radians."""
    x, y = (joints[[5, 9, 13, 17]].mean(0) - joints[0]).tolist()
    return math.atan2(x, -y)


def around(mask: Tensor, otherwise: Box) -> Box:
    """The box of a mask's pixels, unless they are none or a speck."""
    rows, columns = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
    if not rows:
        return otherwise
    box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    return box if 3 * Hand(box).long > Hand(otherwise).long else otherwise


def whole(hands: list[Hand]) -> list[Hand]:
    """The hands, the surest first, but those in the box of a surer one: a fingertip looks like a fist."""
    if not hands:
        return []
    boxes = torch.tensor([hand.box for hand in hands])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    inside = ((overlaps(boxes, boxes)[1] > WITHIN) & (area[:, None] <= area)).tril(-1).any(1)
    return [hand for hand, part in zip(hands, inside.tolist(), strict=True) if not part]


class OwnDetector:
    """The two nets, loaded once, in float32 on `device`; a detector as `detectors.py` wants it."""

    size, names = FINEST, ("hand",)

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.finder = load(Finder(), "finder").to(self.device)
        self.reader = load(Reader(), "reader").to(self.device)

    @torch.no_grad()
    def boxes(self, picture: Tensor, confidence: float = 0.3) -> list[Hand]:
        """Boxes alone, the surest first, from looks at halving sizes; each hand once."""
        check(picture)
        picture = picture.to(self.device, torch.float32)
        height, width = picture.shape[1:]
        hands = []
        for rows, columns in sizes(height, width):
            seen = picture[None]
            if (rows, columns) != (height, width):
                seen = functional.interpolate(seen, (rows, columns), mode="bilinear", antialias=True)
            padded = functional.pad(seen, (0, -columns % 32, 0, -rows % 32), mode="replicate")
            found, sure = peaks(self.finder(padded)[0], confidence)
            found = found * found.new_tensor([width / columns, height / rows]).repeat(2)
            for box, one in zip(found.tolist(), sure.tolist(), strict=True):
                cut = clamp_box(tuple(box), (height, width))
                hands += [Hand(cut, one)] if cut else []
        return [hands[k] for k in first_of_each(hands)]

    @torch.no_grad()
    def inside(self, picture: Tensor, boxes: Sequence[Box]) -> list[Hand]:
        """The hand in each box, in that order; `confidence` says how sure it is that there is one.

        A first look finds the mask and which way is up, a second one reads the hand upright. A hand's box is
        that of its mask, or the given one without a mask. Tensors are on the nets' device.
        """
        check(picture)
        picture = picture.to(self.device, torch.float32)
        first = self.read(picture, [Crop.of(box) for box in boxes], boxes)
        return self.read(picture, [Crop.of(hand.box, upright(hand.joints)) for hand in first], boxes)

    def read(self, picture: Tensor, crops: Sequence[Crop], boxes: Sequence[Box]) -> list[Hand]:
        hands = []
        for start in range(0, len(crops), READ_AT_ONCE):
            part = crops[start:start + READ_AT_ONCE]
            read = self.reader(torch.stack([crop.cut(picture) for crop in part]))
            for k, crop in enumerate(part):
                mask = crop.spread(read.mask[k], *picture.shape[1:])
                hands.append(Hand(around(mask, boxes[start + k]), float(read.hand[k].sigmoid()),
                                  crop.outward(read.joints[k]), read.sure[k].sigmoid(),
                                  1 if read.side[k] > 0 else -1, mask))
        return hands

    def __call__(self, picture: Tensor, confidence: float = 0.3) -> list[Hand]:
        """All hands, the surest first, by the product of both nets' confidences; ValueError as `check`."""
        found = self.boxes(picture, confidence)
        read = self.inside(picture, [hand.box for hand in found])
        both = [hand._replace(confidence=hand.confidence * one.confidence)
                for one, hand in zip(found, read, strict=True)]
        return whole([both[k] for k in first_of_each(both) if both[k].confidence >= confidence])
