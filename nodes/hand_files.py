"""(name in the menu) -> a hand detector: the pack's own, or a file in the host's model folders."""
from __future__ import annotations

import pathlib

import comfy.model_management as management
import folder_paths

from ..controls.hands import detectors
from ..controls.hands.files import KINDS, OWN, list_files, pick_file


def folders() -> list[pathlib.Path]:
    """models/ultralytics and models/mediapipe, and where other packs registered such files."""
    models = pathlib.Path(folder_paths.models_dir)
    known = [pathlib.Path(path) for name in ("ultralytics", "ultralytics_bbox", "ultralytics_segm")
             if name in folder_paths.folder_names_and_paths for path in folder_paths.get_folder_paths(name)]
    return list(dict.fromkeys([models / "ultralytics", models / "mediapipe", *known]))


def files() -> list[str]:
    return [OWN, *list_files(folders())]


def open_file(name: str) -> detectors.Detector:
    """The detector, on the host's device; ValueError for one that isn't there."""
    path = pick_file(name, folders(), pathlib.Path(folder_paths.models_dir))
    if path is None:
        return detectors.open_detector("own")  # small enough for the CPU
    return detectors.open_detector(KINDS[path.suffix], path, str(management.get_torch_device()))
