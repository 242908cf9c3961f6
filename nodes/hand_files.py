"""(name in the menu) -> a hand detector: the pack's own, or a file in the host's model folders."""
from __future__ import annotations

import pathlib
import re

import comfy.model_management as management
import folder_paths

from ..controls.hands import detectors
from ..controls.hands.known import missing

OWN = "drawn hands (comes with Tweedie)"
CONVERTED = re.compile(r"\.[0-9a-f]{16}\.safetensors$")  # what reading a .pt leaves beside it
SUFFIXES = {".pt": "yolo", ".safetensors": "yolo", ".onnx": "yolo", ".task": "mediapipe"}


def folders() -> list[pathlib.Path]:
    """models/ultralytics and models/mediapipe, and where other packs registered such files."""
    models = pathlib.Path(folder_paths.models_dir)
    known = [pathlib.Path(path) for name in ("ultralytics", "ultralytics_bbox", "ultralytics_segm")
             if name in folder_paths.folder_names_and_paths for path in folder_paths.get_folder_paths(name)]
    return list(dict.fromkeys([models / "ultralytics", models / "mediapipe", *known]))


def paths() -> dict[str, pathlib.Path]:
    """Menu name -> file; what a conversion left beside a .pt is not listed."""
    found = {}
    for folder in folders():
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.suffix in SUFFIXES and not CONVERTED.search(path.name):
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def files() -> list[str]:
    return [OWN, *paths()]


def open_file(name: str) -> detectors.Detector:
    """The detector, on the host's device; ValueError names a missing file, its source and its folder."""
    if name == OWN:
        return detectors.open_detector("own")
    path = paths().get(name)
    if path is None:
        raise ValueError(missing(name, pathlib.Path(folder_paths.models_dir)))
    return detectors.open_detector(SUFFIXES[path.suffix], path, str(management.get_torch_device()))
