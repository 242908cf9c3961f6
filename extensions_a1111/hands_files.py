"""(name in the menu) -> a hand detector, from the host's folders; and the ControlNets that read depth."""
from __future__ import annotations

import functools
import pathlib
from typing import Any

from modules import devices, paths, scripts, shared

from ..controls.hands import detectors
from ..controls.hands.files import KINDS, OWN, list_files, pick_file
from .hands_panel import NONE, TITLE

FOLDERS = ("adetailer", "ultralytics", "mediapipe")
DEPTH = ("depth", "union")  # in the names of ControlNets that can read a depth map
CONTROLNET = "controlnet"


def folders() -> list[pathlib.Path]:
    return [pathlib.Path(paths.models_path) / name for name in FOLDERS]


def detector_names() -> list[str]:
    return [OWN, *list_files(folders())]


def find_file(name: str) -> pathlib.Path | None:
    """The detector's file, None for the pack's own; ValueError for one that isn't there."""
    return pick_file(name, folders(), pathlib.Path(paths.models_path))


def open_file(name: str) -> detectors.Detector:
    """The detector, which stays loaded until another one is asked for."""
    path = find_file(name)
    small = getattr(shared.cmd_opts, "lowvram", False) or getattr(shared.cmd_opts, "medvram", False)
    return opened(path, path and path.stat().st_mtime, "cpu" if small else str(devices.device))


@functools.lru_cache(maxsize=1)
def opened(path: pathlib.Path | None, changed: float | None, device: str) -> detectors.Detector:
    if path is None:
        return detectors.open_detector("own")  # small enough for the CPU
    return detectors.open_detector(KINDS[path.suffix], path, device)


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
