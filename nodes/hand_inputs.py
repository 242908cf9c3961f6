"""(mask, boxes, poses as other nodes give them) -> hands of each picture; and a hand as BOUNDING_BOX."""
from __future__ import annotations

from typing import Any

from torch import Tensor

from ..controls.hands.found import Hand
from ..controls.hands.given import from_boxes, from_mask, from_pose_keypoints, pick
from ..controls.hands.windows import widen


def box_of(hand: Hand, size: tuple[int, int]) -> dict[str, int]:
    """BOUNDING_BOX: whole pixels of a picture of that size that hold the hand."""
    left, top, right, bottom = widen(hand.box, 0, size)
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


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
