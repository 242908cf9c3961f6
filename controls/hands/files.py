"""(folders) -> the detector files in them, by menu name; and which kind of detector reads which."""
from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable

from .known import missing

OWN = "drawn hands (comes with Tweedie)"  # in every menu
KINDS = {".pt": "yolo", ".safetensors": "yolo", ".onnx": "yolo", ".task": "mediapipe"}  # suffix -> DETECTORS
CONVERTED = re.compile(r"\.[0-9a-f]{16}\.safetensors$")  # what reading a .pt leaves beside it


def list_files(folders: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Name within its folder -> file; of equal names the first. What a conversion left is not listed."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.suffix in KINDS and not CONVERTED.search(path.name):
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def pick_file(name: str, folders: Iterable[pathlib.Path], models: pathlib.Path) -> pathlib.Path | None:
    """The file of that name, None for OWN; ValueError names a missing one, its source and its folder."""
    if name == OWN:
        return None
    path = list_files(folders).get(name)
    if path is None:
        raise ValueError(f"Hand detector: {name!r} can't be opened: {missing(name, models)}")
    return path
