"""A YOLO file -> the detector in it, kept loaded: picture [3,H,W] in 0..1 -> hands.

Nothing of a file is executed. ultralytics is used as an nn.Module alone, and for .onnx not at all: letterbox,
decoding and thinning out are ours.
"""
from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .found import Hand
from .merge import clamp_box
from .yolo_heads import Frame, Rows, Size, decode, draw_mask, letterbox, part

SIDES = (("left", -1), ("right", 1))


class Yolo:
    """Called with a picture [3,H,W] in 0..1 it returns the hands above the confidence, each once.

    net: input [1,3,h,w] -> its answer (see yolo_heads). names: of its classes, in order. keypoints: (count,
    2 or 3) of a pose head; 21 are joints, taken to be in MediaPipe's order, other counts are left out. size:
    the longer side of its input. shape: the one shape that an exported file takes.
    """

    def __init__(self, net: Callable[[Tensor], Any], names: Sequence[str],
                 keypoints: tuple[int, int] | None = None, size: int = 640, shape: Size | None = None):
        self.net, self.names, self.keypoints = net, tuple(names), keypoints
        self.size, self.shape, self.device = size, shape, "cpu"

    def to(self, device: str) -> Yolo:
        """Move the net; an exported file stays on the CPU."""
        if isinstance(self.net, nn.Module):
            self.net.to(device)
            self.device = device
        return self

    @torch.no_grad()
    def __call__(self, picture: Tensor, confidence: float = 0.3) -> list[Hand]:
        batch, frame = letterbox(picture, self.size, self.shape)
        answer, prototypes = part(self.net(batch.to(self.device)))
        extra = 0 if prototypes is None else prototypes.shape[1]
        if self.keypoints:
            extra = self.keypoints[0] * self.keypoints[1]
        rows = decode(answer, len(self.names), extra, confidence)
        hands = [self.hand(rows.at(number), prototypes, frame, batch.shape[2])
                 for number in range(len(rows.scores))]
        return [hand for hand in hands if hand is not None]

    def hand(self, row: Rows, prototypes: Tensor | None, frame: Frame, height: int) -> Hand | None:
        """One row in pixels of the picture; None where its box lies in the letterbox's grey alone."""
        box = clamp_box(tuple(frame.back(row.boxes.reshape(2, 2)).flatten().tolist()), frame.size)
        if box is None:
            return None
        which = int(row.classes)
        label = self.names[which] if 0 <= which < len(self.names) else str(which)
        hand = Hand(box, min(float(row.scores), 1.0), side=side_of(label), label=label)
        if prototypes is not None:
            step = height / prototypes.shape[2]
            return hand._replace(mask=draw_mask(row.extra, prototypes[0].float(), box, frame, step))
        if self.keypoints and self.keypoints[0] == 21:
            read = row.extra.reshape(self.keypoints).cpu()
            sure = read[:, 2].clamp(0, 1) if self.keypoints[1] == 3 else torch.ones(21)
            return hand._replace(joints=frame.back(read[:, :2]), sure=sure)
        return hand


def side_of(label: str) -> int:
    words = re.split(r"[^a-z]+", label.lower())
    return next((side for word, side in SIDES if word in words), 0)


def open_yolo(path: pathlib.Path, device: str = "cpu") -> Yolo:
    """The detector in a .pt, .safetensors or .onnx file; ValueError says what is wrong with it."""
    if path.suffix.lower() == ".onnx":
        return open_onnx(path)
    from .weights import build, read_weights
    stored = read_weights(path)
    return Yolo(build(stored), stored.names, stored.kpt_shape).to(device)


def open_onnx(path: pathlib.Path) -> Yolo:
    """An exported file on the CPU, by onnxruntime where the user has it, else by OpenCV."""
    from .exported import read_onnx
    made = read_onnx(path)
    try:
        import onnxruntime
    except ImportError:
        net = read_by_opencv(made.data, path)
    else:
        onnxruntime.disable_telemetry_events()
        session = onnxruntime.InferenceSession(made.data, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name

        def net(batch: Tensor) -> list[Tensor]:
            return arrange(session.run(None, {given: batch.numpy()}))
    return Yolo(net, made.names, made.kpt_shape, max(made.size), made.size)


def read_by_opencv(data: bytes, path: pathlib.Path) -> Callable[[Tensor], list[Tensor]]:
    try:
        import cv2
    except ImportError as error:
        raise ValueError(f"YOLO detector: '{path}' needs OpenCV or onnxruntime, and neither can be imported "
                         f"({error}); install one with 'pip install opencv-python'") from error
    try:
        loaded = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    except cv2.error as error:
        raise ValueError(f"YOLO detector: OpenCV can't read '{path}' ({error}); "
                         "'pip install onnxruntime', which can") from error

    def net(batch: Tensor) -> list[Tensor]:
        loaded.setInput(batch.numpy())
        return arrange(loaded.forward(loaded.getUnconnectedOutLayersNames()))
    return net


def arrange(answers: Sequence[np.ndarray]) -> list[Tensor]:
    """Predictions [1,..] first, prototypes [1,32,h,w] after them."""
    return sorted((torch.from_numpy(np.ascontiguousarray(answer)) for answer in answers), key=Tensor.dim)
