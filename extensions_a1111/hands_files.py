"""(name in the menu) -> a hand detector, from the host's folders; and the ControlNets that read depth."""
from __future__ import annotations

import functools
import pathlib
from typing import Any

from modules import devices, paths, scripts, shared

from ..controls.hands import detectors
from ..controls.hands.known import missing
from .hands_panel import NONE, OWN, TITLE

SUFFIXES = {".pt": "yolo", ".safetensors": "yolo", ".onnx": "yolo", ".task": "mediapipe"}
FOLDERS = ("adetailer", "ultralytics", "mediapipe")
DEPTH = ("depth", "union")  # in the names of ControlNets that can read a depth map
CONTROLNET = "controlnet"


def detector_paths() -> dict[str, pathlib.Path]:
    """Menu name -> file; what a conversion left beside a .pt is not listed."""
    found = {}
    for folder in (pathlib.Path(paths.models_path) / name for name in FOLDERS):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.suffix in SUFFIXES and (path.suffix == ".pt" or not path.with_suffix(".pt").exists()):
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def detector_names() -> list[str]:
    return [OWN, *detector_paths()]


def check_detector(name: str) -> None:
    """ValueError names a missing file, its source and its folder."""
    if name != OWN and name not in detector_paths():
        raise ValueError(f"{TITLE}: detector is {name!r}; {missing(name, pathlib.Path(paths.models_path))}")


def open_file(name: str) -> detectors.Detector:
    """The detector, which stays loaded until another one is asked for."""
    check_detector(name)
    small = getattr(shared.cmd_opts, "lowvram", False) or getattr(shared.cmd_opts, "medvram", False)
    path = detector_paths().get(name)
    return opened(path, path and path.stat().st_mtime, "cpu" if small else str(devices.device))


@functools.lru_cache(maxsize=1)
def opened(path: pathlib.Path | None, changed: float | None, device: str) -> detectors.Detector:
    if path is None:
        return detectors.open_detector("own")  # small enough for the CPU
    return detectors.open_detector(SUFFIXES[path.suffix], path, device)


def find_controlnet(p: Any) -> Any | None:
    """The script of the ControlNet that is installed."""
    found = (script for script in p.scripts.alwayson_scripts if script.title().lower() == CONTROLNET)
    return next(found, None)


def controlnet_names() -> list[str]:
    """Of sd-webui-controlnet, or of the ControlNet that is built into Forge and its kin."""
    states = [getattr(data.module, "global_state", None) for data in scripts.scripts_data
              if pathlib.Path(data.path).name == f"{CONTROLNET}.py"]
    return [name for state in states if state is not None for name in (
        state.get_all_controlnet_names() if hasattr(state, "get_all_controlnet_names") else state.cn_models)]


def depth_names() -> list[str]:
    return [NONE, *(name for name in controlnet_names() if any(word in name.lower() for word in DEPTH))]


def check_depth(p: Any, name: str) -> None:
    """ValueError for a ControlNet that isn't there: the host would go on without it."""
    if name == NONE:
        return
    if find_controlnet(p) is None:
        raise ValueError(f"{TITLE}: depth_model is {name!r}, and no ControlNet is installed; install "
                         f"sd-webui-controlnet, or choose {NONE}")
    if name not in controlnet_names():
        raise ValueError(f"{TITLE}: depth_model is {name!r}; choose one of {', '.join(depth_names())}")
