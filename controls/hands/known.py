"""Hand models that others made: where they come from, what they must hash to, where they go.

Standard library only: install.py runs this file by itself. Each SHA-256 and size was found in two independent
public lists. `folder` is relative to a host's models folder.
"""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Known(NamedTuple):
    """task: detect, segment, pose, or landmarks (mediapipe). size: in bytes."""

    file: str
    task: str
    source: str
    sha256: str
    size: int
    licence: str
    folder: str


ADETAILER = "https://huggingface.co/Bingsu/adetailer/resolve/main/"
KNOWN = {model.file: model for model in (
    Known("hand_yolov8n.pt", "detect", ADETAILER + "hand_yolov8n.pt",
          "3991202eb69e9ddcb3b9ba80cdeb41e734ffaf844403d6c9f47d515cd88c6f29", 6_237_883,
          "Apache-2.0", "ultralytics/bbox"),
    Known("hand_yolov8s.pt", "detect", ADETAILER + "hand_yolov8s.pt",
          "5c4faf8d17286ace2c3d3346c6d0d4a0c8d62404955263a7ae95c1dd7eb877af", 22_507_707,
          "Apache-2.0", "ultralytics/bbox"),
    Known("hand_yolov9c.pt", "detect", ADETAILER + "hand_yolov9c.pt",
          "6f116f686ef5942fa0c1d08db481b3d7622047a97847eccfb2a264f9ce9777f2", 51_633_747,
          "Apache-2.0", "ultralytics/bbox"),
    Known("hand_landmarker.task", "landmarks",
          "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/"
          "hand_landmarker.task",
          "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1", 7_819_105,
          "Apache-2.0", "mediapipe"),
)}


def missing(name: str, folder: str | Path) -> str:
    """The error for a model that isn't in its folder."""
    if name in KNOWN:
        model = KNOWN[name]
        return (f"it isn't in {folder}; get it from {model.source} ({model.size / 1e6:.0f} MB, "
                f"{model.licence}, SHA-256 {model.sha256}), or run install.py --models")
    return f"it isn't in {folder}; put it there, or get one of {', '.join(KNOWN)} with install.py --models"
