"""What is known of a hand in a picture [3,H,W]: box, confidence, joints, side, mask."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the picture, within it


class Hand(NamedTuple):
    """joints [21,2] are pixels (x, y): the wrist, then four a digit from the thumb on, as MediaPipe's; `sure`
    [21] in 0..1 says how certain each is. `mask` [H,W] is a bool over the whole picture. `side` is 1 for a
    right hand, -1 for a left one, 0 if unknown. `label` is the detector's class. What can't be told is None.
    """

    box: Box
    confidence: float = 1.0
    joints: Tensor | None = None
    sure: Tensor | None = None
    side: int = 0
    mask: Tensor | None = None
    label: str = "hand"

    @property
    def long(self) -> float:
        """The longer side of the box in pixels: what the hand's size means everywhere."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)
