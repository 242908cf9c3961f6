"""Boxes [N,4] of x0, y0, x1, y1 and scores [N] -> which to keep; hands of several looks -> each once."""
from __future__ import annotations

import torch
from torch import Tensor

from .found import Box, Hand

SAME = 0.55  # overlap from which two boxes are one hand; two crossed hands of one size stay below
WITHIN, PART = 0.85, 0.25  # or one lies in the other by so much and is no smaller than this share of it


def overlaps(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Shared area of boxes [N,4] and [M,4] over that of both together, and over the smaller's: two [N,M]."""
    corner, end = torch.maximum(one[:, None, :2], other[:, :2]), torch.minimum(one[:, None, 2:], other[:, 2:])
    shared = (end - corner).clamp_min(0).prod(-1)
    first, second = ((boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1) for boxes in (one, other))
    return (shared / (first[:, None] + second - shared).clamp_min(1e-9),
            shared / torch.minimum(first[:, None], second).clamp_min(1e-9))


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float = 0.7) -> Tensor:
    """Indices of boxes [N,4] that no better one of their class overlaps by more than this, best first."""
    order = scores.argsort(descending=True, stable=True)
    boxes, classes = boxes[order].cpu(), classes[order].cpu()
    clash = (overlaps(boxes, boxes)[0] > overlap) & (classes[:, None] == classes)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for number in range(len(boxes)):
        if alive[number]:
            alive[number + 1:] &= ~clash[number, number + 1:]
    return order[alive.to(order.device)]


def first_of_each(hands: list[Hand]) -> list[int]:
    """Which hands stay, most certain first, when boxes of the same hand merge; ties go to the earlier one."""
    if not hands:
        return []
    boxes = torch.tensor([hand.box for hand in hands], dtype=torch.float64)
    over, inside = overlaps(boxes, boxes)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    ratio = torch.minimum(area[:, None], area) / torch.maximum(area[:, None], area).clamp_min(1e-9)
    same = (over > SAME) | ((inside > WITHIN) & (ratio > PART))
    kept: list[int] = []
    for number in sorted(range(len(hands)), key=lambda number: -hands[number].confidence):
        if not bool(same[number, kept].any()):
            kept.append(number)
    return kept


def clamp_box(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box that lies in a picture of (rows, columns); None if that is nothing."""
    x0, y0, x1, y1 = box
    x0, x1 = (min(max(x, 0.0), float(size[1])) for x in (x0, x1))
    y0, y1 = (min(max(y, 0.0), float(size[0])) for y in (y0, y1))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def box_around(joints: Tensor, margin: float) -> Box:
    """The box of joints [N,2] with this share of its longer side around: joints lie within flesh."""
    low, high = joints.amin(0), joints.amax(0)
    room = margin * float((high - low).max())
    (x0, y0), (x1, y1) = (low - room).tolist(), (high + room).tolist()
    return x0, y0, x1, y1
