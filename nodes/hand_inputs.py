"""(mask, boxes, poses as other nodes give them) -> hands of each picture; and a hand as BOUNDING_BOX."""
from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..controls.hands.found import Hand
from ..controls.hands.given import from_boxes, from_mask, from_pose_keypoints, pick


def box_of(hand: Hand) -> dict[str, int]:
    """BOUNDING_BOX: whole pixels that hold the hand."""
    x0, y0, x1, y1 = hand.box
    left, top = math.floor(x0), math.floor(y0)
    return {"x": left, "y": top, "width": math.ceil(x1) - left, "height": math.ceil(y1) - top}


def masked(mask: Tensor, size: tuple[int, int], index: int) -> list[Hand]:
    """Hands of the mask of that picture, of a MASK [B,H,W] or [H,W]."""
    if tuple(mask.shape[-2:]) != size:
        raise ValueError(f"Hand mask: it is {list(mask.shape[-2:])}, the picture {list(size)}; connect the "
                         "mask of this picture")
    return from_mask(pick(list(mask.reshape(-1, *size)), index, "Hand mask"))


def given_hands(mask: Tensor | None, boxes: Any, poses: Any, size: tuple[int, int], index: int) -> list[Hand]:
    """All hands of that picture that are connected; ValueError for what is no such input."""
    return [*([] if poses is None else from_pose_keypoints(poses, size, index)),
            *([] if boxes is None else from_boxes(boxes, size, index)),
            *([] if mask is None else masked(mask, size, index))]
