"""picture [3,H,W] in 0..1 -> hands with 21 joints and a side, by MediaPipe where the user has installed it.

Both of its programming interfaces: up to 0.10.21 `mp.solutions.hands` with its models inside, from 0.10.30
on Tasks, which read a hand_landmarker.task that the user downloads. The older one names sides as a mirrored
picture shows them ("it determines handedness assuming the input image is mirrored"), so they are swapped
here; Tasks name "the subject's hands, not the viewer". Neither tells how sure it is of a hand or a joint:
the confidence asked for is applied within, and what is returned is that, or its certainty of the side where
this is higher. Errors of MediaPipe are raised, never taken for an empty picture.
"""
from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .found import Box, Hand
from .merge import box_around, clamp_box, overlaps

MOST = 16  # hands of one look
MARGIN = 0.1  # of the longer side: how far flesh reaches beyond the joints
THERE = 0.2  # overlap of a box with the one that was asked about
CONTEXT = 1.6  # a crop's side over the hand's, as these models are fed with
SOURCE = "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task"
SIDES = {"Right": 1, "Left": -1}

Read = tuple[Iterable[Any], str, float]  # 21 landmarks with x and y in 0..1, "Left" or "Right", its certainty
Opened = tuple[Callable[[np.ndarray], list[Read]], Callable[[], None]]  # reader of uint8 [H,W,3], its closing


def pixels(picture: Tensor) -> np.ndarray:
    """uint8 [H,W,3], contiguous."""
    return (picture.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy()


def open_solutions(mp: Any, confidence: float) -> Opened:
    """The interface up to 0.10.21, which holds its own models."""
    net = mp.solutions.hands.Hands(static_image_mode=True, max_num_hands=MOST, model_complexity=1,
                                   min_detection_confidence=confidence)
    swapped = {"Left": "Right", "Right": "Left"}

    def read(image: np.ndarray) -> list[Read]:
        seen = net.process(image)
        sides = [side.classification[0] for side in seen.multi_handedness or ()]
        return [(hand.landmark, swapped.get(side.label, ""), side.score)
                for hand, side in zip(seen.multi_hand_landmarks or (), sides, strict=True)]
    return read, net.close


def open_task(mp: Any, confidence: float, path: str) -> Opened:
    """The interface from 0.10.30 on, with a hand_landmarker.task."""
    vision = mp.tasks.vision
    options = vision.HandLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=path), num_hands=MOST,
        min_hand_detection_confidence=confidence, min_hand_presence_confidence=confidence)
    try:
        net = vision.HandLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"MediaPipe hands: '{path}' is no hand landmarker ({error}); "
                         f"download {SOURCE}") from error

    def read(image: np.ndarray) -> list[Read]:
        seen = net.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
        return [(hand, side[0].category_name, side[0].score)
                for hand, side in zip(seen.hand_landmarks, seen.handedness, strict=True)]
    return read, net.close


class MediaPipe:
    """MediaPipe's hands, kept loaded; ValueError where it or its model is missing.

    size: palms are looked for in a picture shrunk to 192 pixels.
    """

    size, names = 192, ("hand",)

    def __init__(self, path: str | pathlib.Path | None = None):
        try:
            import mediapipe
        except ImportError as error:
            raise ValueError(f"MediaPipe hands: mediapipe can't be imported ({error}); install it with "
                             "'pip install mediapipe', or choose another detector") from error
        self.mp, self.path = mediapipe, None if path is None else str(path)
        self.kind: Literal["solutions", "tasks"] = "solutions" if hasattr(mediapipe, "solutions") else "tasks"
        if self.kind == "tasks" and (path is None or not pathlib.Path(path).is_file()):
            raise ValueError(f"MediaPipe hands: its model is {self.path!r}; MediaPipe "
                             f"{mediapipe.__version__} brings none, so download {SOURCE} and give the file")
        self.confidence, self.read, self.close = None, None, lambda: None

    def free(self) -> None:
        """Let go of the nets; the next look opens them again."""
        self.close()
        self.confidence, self.read, self.close = None, None, lambda: None

    def __call__(self, picture: Tensor, confidence: float = 0.3) -> list[Hand]:
        if confidence != self.confidence:  # both interfaces take it once, when they open
            self.free()
            self.read, self.close = (open_solutions(self.mp, confidence) if self.kind == "solutions"
                                     else open_task(self.mp, confidence, self.path))
            self.confidence = confidence
        size = picture.shape[1], picture.shape[2]
        hands = []
        for landmarks, side, score in self.read(pixels(picture)):
            joints = torch.tensor([(mark.x * size[1], mark.y * size[0]) for mark in landmarks],
                                  dtype=torch.float32)
            box = clamp_box(box_around(joints, MARGIN), size)
            if box is not None:
                score = min(max(float(score), confidence), 1.0)
                hands.append(Hand(box, score, joints, torch.full((len(joints),), score), SIDES.get(side, 0)))
        return hands

    def inside(self, picture: Tensor, boxes: Sequence[Box]) -> list[Hand]:
        """One hand for each box: with joints and side where a look at the crop around it finds one there."""
        return [self.look_around(picture, box) for box in boxes]

    def look_around(self, picture: Tensor, box: Box) -> Hand:
        x0, y0, x1, y1 = box
        across, down, half = (x0 + x1) / 2, (y0 + y1) / 2, CONTEXT * max(x1 - x0, y1 - y0, 1) / 2
        window = clamp_box((across - half, down - half, across + half, down + half), tuple(picture.shape[1:]))
        if window is None:
            return Hand(box)
        left, top, right, bottom = (math.floor(edge) if early else math.ceil(edge)
                                    for early, edge in zip((True, True, False, False), window, strict=True))
        seen = self(picture[:, top:bottom, left:right], self.confidence or 0.3)
        if not seen:
            return Hand(box)
        shift = torch.tensor([left, top, left, top])
        match = overlaps(torch.tensor([hand.box for hand in seen]) + shift, torch.tensor([box]))[0][:, 0]
        best = seen[int(match.argmax())]
        if match.max() < THERE:
            return Hand(box)
        return Hand(box, best.confidence, best.joints + shift[:2], best.sure, best.side)
