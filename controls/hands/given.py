"""A mask, boxes or OpenPose's keypoints of a picture -> its hands; one ValueError for anything else.

The forms are ComfyUI's: MASK, BOUNDING_BOX (x, y, width, height in pixels) and POSE_KEYPOINT, which is
OpenPose's JSON, a frame a picture.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import check_mask
from .found import Hand
from .merge import box_around, clamp_box

Size = tuple[int, int]  # rows, columns of the picture

MOST = 100  # hands of one picture
FAR = 1e6  # pixels; no picture is as large
SPECK = 16  # pixels; smaller pieces of a mask are no hand
SEEN = 4  # joints, fewer are no hand
MARGIN = 0.1  # of the longer side: how far flesh reaches beyond the joints
SIDES = (("hand_left_keypoints_2d", -1, "left hand"), ("hand_right_keypoints_2d", 1, "right hand"))


def from_mask(mask: Tensor) -> list[Hand]:
    """A hand for each connected piece of a mask [H,W] above a half; pieces that meet at a corner are one."""
    import numpy as np
    from scipy import ndimage
    drawn = check_mask(mask, "Hand mask").cpu().numpy() > 0.5
    pieces, count = ndimage.label(drawn, np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    kept = [number for number in range(1, count + 1) if areas[number] >= SPECK]
    if len(kept) > MOST:
        raise ValueError(f"Hand mask: it falls into {len(kept)} pieces; draw one a hand, at most {MOST}")
    spots = ndimage.find_objects(pieces)
    hands = []
    for number in kept:
        rows, columns = spots[number - 1]
        whole = np.zeros(drawn.shape, dtype=bool)
        whole[rows, columns] = pieces[rows, columns] == number
        box = float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)
        hands.append(Hand(box, mask=torch.from_numpy(whole)))
    return hands


def pick(frames: Sequence, frame: int, what: str) -> Any:
    """That frame; where there is but one, it serves every picture."""
    if len(frames) == 1:
        return frames[0]
    if not 0 <= frame < len(frames):
        raise ValueError(f"{what}: there are {len(frames)} frames, and none for picture {frame + 1}; give "
                         "one for each picture, or one for all")
    return frames[frame]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < FAR


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def from_boxes(boxes: Any, size: Size, frame: int = 0) -> list[Hand]:
    """A hand for each box of a picture: dicts of x, y, width and height, or (x0, y0, x1, y1), in pixels.

    One dict, a list, or a list of lists (one a picture, of which `frame` is taken); a tensor or array
    [N,4]. A dict's score and label are kept. Boxes are cut at the picture's edges.
    """
    if hasattr(boxes, "tolist"):
        boxes = boxes.tolist()
    if isinstance(boxes, Mapping):
        boxes = [boxes]
    if not is_list(boxes):
        raise ValueError(f"Hand boxes: got {type(boxes).__name__}; give a list of boxes")
    if len(boxes) and all(is_list(each) and not (len(each) and is_number(each[0])) for each in boxes):
        boxes = pick(boxes, frame, "Hand boxes")
    if len(boxes) > MOST:
        raise ValueError(f"Hand boxes: there are {len(boxes)} for one picture; give at most {MOST}")
    return [read_box(box, number, size) for number, box in enumerate(boxes, 1)]


def read_box(box: Any, number: int, size: Size) -> Hand:
    form = "x, y, width and height, or x0, y0, x1, y1, as finite numbers of pixels"
    named = isinstance(box, Mapping)
    edges = [box.get(key) for key in ("x", "y", "width", "height")] if named else box
    if not is_list(edges) or len(edges) != 4 or not all(is_number(edge) for edge in edges):
        raise ValueError(f"Hand boxes: box {number} is {ascii(box)[:80]}; give {form}")
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    if named:
        x1, y1 = x0 + x1, y0 + y1
    within = clamp_box((x0, y0, x1, y1), size)
    if within is None:
        raise ValueError(f"Hand boxes: box {number} goes from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}), which "
                         f"holds nothing of the picture of {size[1]}x{size[0]}; give {form}")
    score, label = (box.get("score"), box.get("label")) if named else (None, None)
    return Hand(within, min(max(float(score), 0.0), 1.0) if is_number(score) else 1.0,
                label=label[:80] if isinstance(label, str) and label else "hand")


def from_pose_keypoints(keypoints: Any, size: Size, frame: int = 0) -> list[Hand]:
    """The hands with joints and sides of one of OpenPose's frames, in pixels of a picture of (rows,
    columns).

    Coordinates are pixels of the frame's canvas, or 0..1 of it where none of the frame's goes beyond 2.
    Hands of fewer than four joints, and those outside the picture, are left out; a joint at (0, 0) or of
    confidence 0 was not seen.
    """
    frames = [keypoints] if isinstance(keypoints, Mapping) else keypoints
    if not is_list(frames) or not frames:
        raise ValueError(f"Pose keypoints: got {ascii(keypoints)[:60]}; give a list of OpenPose's frames")
    canvas = pick(frames, frame, "Pose keypoints")
    people = canvas.get("people") if isinstance(canvas, Mapping) else None
    if not is_list(people) or not all(isinstance(person, Mapping) for person in people):
        raise ValueError(f"Pose keypoints: the frame is {ascii(canvas)[:60]}; give canvas_width, "
                         "canvas_height and a list of people")
    if len(people) > MOST:
        raise ValueError(f"Pose keypoints: there are {len(people)} people; give at most {MOST}")
    read = [(read_joints(person.get(key), name, number), side) for number, person in enumerate(people, 1)
            for key, side, name in SIDES]
    seen = [(joints, side) for joints, side in read if joints is not None]
    if not seen:
        return []
    furthest = max(float(joints[:, :2][joints[:, 2] > 0].abs().max()) for joints, _ in seen)
    sides = [1.0, 1.0] if furthest <= 2 else [canvas.get("canvas_width"), canvas.get("canvas_height")]
    if not all(is_number(side) and side > 0 for side in sides):
        raise ValueError(f"Pose keypoints: the canvas is {ascii(sides[0])[:40]} by {ascii(sides[1])[:40]}; "
                         "give its width and height in pixels")
    scale = torch.tensor([size[1] / sides[0], size[0] / sides[1]])
    hands = (place(joints, side, scale, size) for joints, side in seen)
    return [hand for hand in hands if hand is not None]


def read_joints(values: Any, name: str, number: int) -> Tensor | None:
    """[21,3] of x, y and confidence, 0 where a joint was not seen; None for too few."""
    if values is None or (hasattr(values, "__len__") and len(values) == 0):
        return None
    flat = values.tolist() if hasattr(values, "tolist") else values
    if not is_list(flat) or len(flat) != 63 or not all(is_number(value) for value in flat):
        raise ValueError(f"Pose keypoints: the {name} of person {number} is {ascii(flat)[:60]}; give 63 "
                         "finite numbers, x, y and confidence of 21 joints, or nothing")
    joints = torch.tensor(flat, dtype=torch.float32).reshape(21, 3)
    joints[:, 2].clamp_(0, 1)
    joints[(joints[:, :2] == 0).all(1), 2] = 0
    return joints if int((joints[:, 2] > 0).sum()) >= SEEN else None


def place(joints: Tensor, side: int, scale: Tensor, size: Size) -> Hand | None:
    """The hand in the picture's pixels, unseen joints amid the others; None where it lies outside."""
    sure, points = joints[:, 2], joints[:, :2] * scale
    points[sure == 0] = points[sure > 0].mean(0)
    box = clamp_box(box_around(points, MARGIN), size)
    return None if box is None else Hand(box, float(sure[sure > 0].mean()), points, sure, side)
