"""(detector, picture [3,H,W] in 0..1) -> hands: sought in the whole and in tiles, merged, filtered, sorted.

A detector is an object that stays loaded: called with a picture and a confidence it returns hands in pixels
of that picture. It has `size`, the longer side at which its net sees (0: it chooses), and `names` of its
classes. Those that can read a hand within a box have `inside(picture, boxes)` -> as many hands.
"""
from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...plugin import Registry
from .found import Box, Hand
from .merge import first_of_each

Size = tuple[int, int]  # rows, columns
Window = tuple[int, int, int, int]  # x0, y0, x1, y1


class Detector(Protocol):
    size: int
    names: Sequence[str]

    def __call__(self, picture: Tensor, confidence: float) -> list[Hand]: ...


DETECTORS = Registry("path", "device")  # model file or None, torch device -> Detector

ENLARGED = 1.8  # by which tiles show a large picture closer than the look at the whole
OVERLAP = 0.2  # of a tile's side; smaller hands are whole in one of the tiles
ORDERS: dict[str, Callable[[Hand, Size], float]] = {  # -> sort key
    "left to right": lambda hand, size: hand.box[0] + hand.box[2],
    "area": lambda hand, size: -area(hand.box),
    "confidence": lambda hand, size: -hand.confidence,
    "centre": lambda hand, size: math.hypot(hand.box[0] + hand.box[2] - size[1],
                                            hand.box[1] + hand.box[3] - size[0]),
}


@DETECTORS.add("own", "Drawn hands (built in)")
def own(path: pathlib.Path | None, device: str) -> Detector:
    """The pack's own small net, for drawings: boxes, joints, sides and masks; needs no file."""
    from .own import OwnDetector
    return OwnDetector(device)


@DETECTORS.add("yolo", "YOLO v8, v9, 11 or 26 (.pt, .safetensors, .onnx)")
def yolo(path: pathlib.Path | None, device: str) -> Detector:
    """Boxes, and masks or joints where the model is of that kind; nothing in the file is ever executed."""
    from .yolo_detector import open_yolo
    if path is None:
        raise ValueError("YOLO detector: no model file was given; choose one")
    return open_yolo(path, device)


@DETECTORS.add("mediapipe", "MediaPipe hands")
def mediapipe(path: pathlib.Path | None, device: str) -> Detector:
    """Joints and sides, on the CPU; needs mediapipe, and from 0.10.30 on a hand_landmarker.task."""
    from .mediapipe_hands import MediaPipe
    return MediaPipe(path)


def open_detector(kind: str, path: str | pathlib.Path | None = None, device: str = "cpu") -> Detector:
    """Load a detector of DETECTORS; keep it. ValueError where its file or library is missing or unfit."""
    if kind not in DETECTORS:
        raise ValueError(f"Hand detector: {kind!r} is unknown; choose one of {', '.join(DETECTORS)}")
    path = None if path is None else pathlib.Path(path)
    if path is not None and not path.is_file():
        raise ValueError(f"{DETECTORS[kind].label}: there is no file '{path}'; check its name and folder")
    return DETECTORS[kind](path, device)


def detect(look: Detector, picture: Tensor, *, confidence: float = 0.3, tile: bool = True, classes: str = "",
           smallest: float = 0.0, largest: float = 1.0, most: int = 0,
           order: str = "left to right") -> list[Hand]:
    """The hands in a picture [3,H,W] of 0..1, each once, in this order.

    A picture larger than the detector's input is looked at a second time in overlapping tiles, one after
    another, so that hands are found which the first look shrinks too far. classes: parts of class names, by
    commas; "" takes all. smallest, largest: bounds of a box's share of the picture. most: so many of the
    largest, most certain or most central by `order` (of the most certain where that is left to right); 0
    takes all. Hands cut by the picture's edge are kept, boxes that only a tile's edge cuts are not.
    ValueError for values out of range.
    """
    check(picture, confidence, smallest, largest, most, order)
    wanted = wanted_classes(look, classes)
    size = picture.shape[1], picture.shape[2]
    seen = [(hand, (0, 0)) for hand in look(picture, confidence)]
    if tile and 0 < look.size < max(size):
        for window in tiles(size, look.size):
            x0, y0, x1, y1 = window
            seen += [(hand, (x0, y0)) for hand in look(picture[:, y0:y1, x0:x1], confidence)
                     if not is_cut(hand.box, window, size)]
    seen = [(move(hand, corner), corner) for hand, corner in seen
            if hand.confidence >= confidence and is_wanted(hand.label, wanted)]
    found = [spread_mask(*seen[number], size) for number in first_of_each([hand for hand, _ in seen])]
    found = [hand for hand in found if smallest <= area(hand.box) / (size[0] * size[1]) <= largest]
    if most:
        first = "confidence" if order == "left to right" else order
        found = sorted(found, key=lambda hand: ORDERS[first](hand, size))[:most]
    return sorted(found, key=lambda hand: ORDERS[order](hand, size))


def check(picture: Tensor, confidence: float, smallest: float, largest: float, most: int, order: str) -> None:
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        got = list(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
        raise ValueError(f"Detect hands: the picture is {got}; give a tensor [3,H,W] in 0..1")
    if not picture.is_floating_point() or not all(math.isfinite(value) for value in picture.aminmax()):
        raise ValueError(f"Detect hands: the picture is {picture.dtype} or holds NaN or infinity; "
                         "give floats in 0..1")
    for name, value in (("confidence", confidence), ("smallest", smallest), ("largest", largest)):
        if not 0 <= value <= 1:
            raise ValueError(f"Detect hands: {name} is {value!r}; give a number from 0 to 1")
    if smallest > largest:
        raise ValueError(f"Detect hands: smallest is {smallest:g}, above largest {largest:g}; swap them")
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise ValueError(f"Detect hands: most is {most!r}; give a whole number, 0 for all")
    if order not in ORDERS:
        raise ValueError(f"Detect hands: order is {order!r}; choose one of {', '.join(ORDERS)}")


def wanted_classes(look: Detector, classes: str) -> list[str]:
    wanted = [part.strip().lower() for part in classes.split(",") if part.strip()]
    if look.names and not any(is_wanted(name, wanted) for name in look.names):
        raise ValueError(f"Detect hands: classes is '{classes}'; this detector knows "
                         f"{', '.join(look.names)[:400]}: name some of them, or none")
    return wanted


def is_wanted(label: str, wanted: list[str]) -> bool:
    return not wanted or any(part in label.lower() for part in wanted)


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def tiles(size: Size, side: int) -> list[Window]:
    """Square windows that cover the picture and overlap, no smaller than the net's input."""
    side = max(side, math.ceil(max(size) / ENLARGED))

    def starts(length: int) -> list[int]:
        steps = max(math.ceil((length - side) / (side - OVERLAP * side)), 0)
        return [round(number * (length - side) / max(steps, 1)) for number in range(steps + 1)]
    return [(x, y, min(x + side, size[1]), min(y + side, size[0])) for y in starts(size[0])
            for x in starts(size[1])]


def is_cut(box: Box, window: Window, size: Size) -> bool:
    """Whether a box, in the window's pixels, ends at an edge of the window that is none of the picture's."""
    x0, y0, x1, y1 = window
    near = 0.01 * max(x1 - x0, y1 - y0)
    return ((x0 > 0 and box[0] < near) or (y0 > 0 and box[1] < near)
            or (x1 < size[1] and box[2] > x1 - x0 - near) or (y1 < size[0] and box[3] > y1 - y0 - near))


def move(hand: Hand, corner: tuple[int, int]) -> Hand:
    """A hand of a window in the picture's pixels; its mask stays the window's; all on the CPU."""
    across, down = corner
    x0, y0, x1, y1 = hand.box
    joints, sure, mask = (known if known is None else known.cpu()
                          for known in (hand.joints, hand.sure, hand.mask))
    if joints is not None:
        joints = joints + joints.new_tensor(corner)
    return hand._replace(box=(x0 + across, y0 + down, x1 + across, y1 + down), joints=joints, sure=sure,
                         mask=mask)


def spread_mask(hand: Hand, corner: tuple[int, int], size: Size) -> Hand:
    """A hand with its window's mask over the whole picture."""
    if hand.mask is None or tuple(hand.mask.shape) == size:
        return hand
    across, down = corner
    whole = torch.zeros(size, dtype=torch.bool)
    whole[down:down + hand.mask.shape[0], across:across + hand.mask.shape[1]] = hand.mask
    return hand._replace(mask=whole)


def with_joints(hands: Sequence[Hand], reader: Any, picture: Tensor) -> list[Hand]:
    """The hands, those without joints read by a detector that can look inside boxes; else as they were."""
    blank = [number for number, hand in enumerate(hands) if hand.joints is None]
    if not blank or not hasattr(reader, "inside"):
        return list(hands)
    full, found = list(hands), reader.inside(picture, [hands[number].box for number in blank])
    for number, read in zip(blank, found, strict=True):
        hand, read = hands[number], move(read, (0, 0))
        full[number] = hand._replace(joints=read.joints, sure=read.sure, side=hand.side or read.side,
                                     mask=read.mask if hand.mask is None else hand.mask)
    return full
