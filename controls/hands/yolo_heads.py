"""picture [3,H,W] -> a YOLO net's input, and the net's answer -> rows of boxes, scores, classes; masks.

Answers of two shapes are read, as a module in eval mode or an exported file gives them: [1, 4 + classes +
extra, N] with centres and sizes, of which overlapping boxes are still to be thinned out, and [1, N, 6 +
extra] with corners, score and class of a one-to-one head (26). `extra` is a segment head's coefficients of
the prototypes [1,32,h,w], or a pose head's keypoints.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .found import Box
from .merge import suppress

GREY = 114 / 255  # what these nets saw around their pictures in training
MOST = 1000  # candidates above the threshold, and
KEPT = 100  # hands of one look
STRIDE = 32

Size = tuple[int, int]  # rows, columns


class Frame(NamedTuple):
    """Where a picture lies in the net's input: x of the input = x of the picture * gain[0] + start[0]."""

    gain: tuple[float, float]
    start: tuple[int, int]
    size: Size  # of the picture

    def back(self, points: Tensor) -> Tensor:
        """Input pixels [...,2] in pixels of the picture."""
        return (points - points.new_tensor(self.start)) / points.new_tensor(self.gain)


def letterbox(picture: Tensor, side: int, shape: Size | None = None) -> tuple[Tensor, Frame]:
    """The picture [3,H,W] in the middle of grey [1,3,h,w], and where.

    Its longer side is `side` and h and w are multiples of 32, or it fills `shape` as far as it fits.
    """
    height, width = picture.shape[1:]
    gain = min(shape[0] / height, shape[1] / width) if shape else side / max(height, width)
    rows, columns = max(round(height * gain), 1), max(round(width * gain), 1)
    small = F.interpolate(picture[None].float(), (rows, columns), mode="bilinear", antialias=gain < 1)
    right, below = (shape[1] - columns, shape[0] - rows) if shape else (-columns % STRIDE, -rows % STRIDE)
    left, top = round(right / 2 - 0.1), round(below / 2 - 0.1)
    frame = Frame((columns / width, rows / height), (left, top), (height, width))
    return F.pad(small.clamp(0, 1), (left, right - left, top, below - top), value=GREY), frame


def part(answer: Any) -> tuple[Tensor, Tensor | None]:
    """(predictions [1,..], prototypes [1,32,h,w] or None) of what a net answers, in any release."""
    if isinstance(answer, Tensor):
        return answer, None
    first, *rest = answer
    if not isinstance(first, Tensor):
        return part(first)
    for value in rest:
        if isinstance(value, (list, tuple)) and value:  # ultralytics before 8.4: (.., prototypes)
            value = value[-1]
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == 32:
            return first, value
    return first, None


class Rows(NamedTuple):
    boxes: Tensor  # [N,4] corners in pixels of the input
    scores: Tensor  # [N]
    classes: Tensor  # [N]
    extra: Tensor  # [N,E]

    def at(self, which: Tensor | int) -> Rows:
        return Rows(*(column[which] for column in self))


def best(rows: Rows, confidence: float, most: int) -> Rows:
    rows = rows.at(rows.scores > confidence)
    return rows.at(rows.scores.argsort(descending=True, stable=True)[:most])


def decode(answer: Tensor, classes: int, extra: int, confidence: float) -> Rows:
    """Rows above the confidence, best first, each hand once, of predictions [1,..]; ValueError for others."""
    found = answer[0].float()
    if found.ndim == 2 and found.shape[0] == 4 + classes + extra:
        boxes, scores, others = found.mT.split((4, classes, extra), 1)
        scores, which = scores.max(1)
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        rows = Rows(torch.cat([centre - half, centre + half], 1), scores, which, others)
        rows = best(rows, confidence, MOST)
        return rows.at(suppress(rows.boxes, rows.scores, rows.classes)[:KEPT])
    if found.ndim == 2 and found.shape[1] == 6 + extra:
        return best(Rows(found[:, :4], found[:, 4], found[:, 5].long(), found[:, 6:]), confidence, KEPT)
    raise ValueError(f"YOLO detector: the net answers in the shape {list(answer.shape)}, not, for {classes} "
                     f"classes, [1, {4 + classes + extra}, N] or [1, N, {6 + extra}]; give a detect, segment "
                     "or pose model of YOLO v8, v9, 11 or 26")


def draw_mask(coefficients: Tensor, prototypes: Tensor, box: Box, frame: Frame, step: float) -> Tensor:
    """Bool [H,W] over the picture: where the prototypes [32,h,w] add up to more than 0 within the box.

    step: pixels of the input to one of the prototypes. Each pixel's centre is looked up where it lies in
    the input, so that the letterbox's edges never enter; only the box is ever computed.
    """
    field = torch.einsum("c,chw->hw", coefficients, prototypes)
    x0, y0, x1, y1 = (round(edge) for edge in box)
    mask = torch.zeros(frame.size, dtype=torch.bool)
    if x1 == x0 or y1 == y0:
        return mask
    along = []
    for axis, (low, high) in enumerate(((x0, x1), (y0, y1))):
        centres = torch.arange(low, high, device=field.device) + 0.5
        at = (centres * frame.gain[axis] + frame.start[axis]) / step
        along.append(at / field.shape[1 - axis] * 2 - 1)
    grid = torch.stack(torch.meshgrid(*along, indexing="xy"), -1)[None]
    drawn = F.grid_sample(field[None, None], grid, padding_mode="border", align_corners=False)
    mask[y0:y1, x0:x1] = (drawn[0, 0] > 0).cpu()
    return mask
