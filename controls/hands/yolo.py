"""What an ultralytics detector (v8, v9, 11, 26; detect, segment, pose) is made of, checked, and its net.

ultralytics builds a net from a dict, its plan: it evaluates text in it, looks modules up by name and
allocates whatever sizes it reads. So `check_config` lets through only the layers, kinds of arguments and
ranges below, and `assemble` compares every shape with the weights on the meta device before anything is
allocated. ultralytics is imported only there.
"""
from __future__ import annotations

import atexit
import contextlib
import copy
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .archives import Archive
from .pickles import Made, WeightsError, tame

CLASSES = 2000
LAYERS = 64  # YOLOv9e has 43
REPEATS = 100  # of all layers together; YOLOv8-p6 has 58
PARTS = 50_000  # modules, parameters and buffers: YOLOv9e has 6000
DEPTH = 32
PLAIN = re.compile(r"\w{1,64}")
HEADS = {"Detect": "detect", "Segment": "segment", "Segment26": "segment", "Pose": "pose", "Pose26": "pose"}
MODELS = {"detect": "DetectionModel", "segment": "SegmentationModel", "pose": "PoseModel"}
ARGUMENTS = {  # layer -> the kind of each argument in turn; the last ones may be left out
    "Conv": "channels small small", "C2": "channels flag", "C2f": "channels flag", "C2PSA": "channels",
    "C3k2": "channels flag ratio flag", "SPPF": "channels small small flag", "SPPELAN": "channels channels",
    "RepNCSPELAN4": "channels channels channels small", "ELAN1": "channels channels channels",
    "ADown": "channels", "AConv": "channels", "CBLinear": "all_channels", "CBFuse": "all_small",
    "Concat": "small", "nn.Identity": "", "nn.Upsample": "none small nearest",
    "Detect": "classes", "Segment": "classes channels channels",
    "Segment26": "classes channels channels", "Pose": "classes points", "Pose26": "classes points",
}


def whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def ratio(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= 2


def flag(value: object) -> bool:
    return type(value) is bool


def points(value: object) -> bool:
    pair = type(value) in (list, tuple) and len(value) == 2
    return pair and whole(1, 200)(value[0]) and whole(2, 3)(value[1])


def every(check: Callable[[object], bool], most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is list and 0 < len(value) <= most and all(map(check, value))


def scales(value: object) -> bool:
    return type(value) is dict and len(value) <= 16 and all(
        type(name) is str and PLAIN.fullmatch(name) and type(row) is list and len(row) == 3
        and ratio(row[0]) and ratio(row[1]) and whole(1, 4096)(row[2]) for name, row in value.items())


def said(value: object, *words: object) -> bool:
    return type(value) in (str, type(None)) and value in words


REPEATED = ("C2", "C2f", "C2PSA", "C3k2")
CHANNELS, SMALL = whole(1, 4096), whole(0, 5)
KINDS: dict[str, Callable[[object], bool]] = {
    "channels": CHANNELS, "small": SMALL, "flag": flag, "ratio": ratio, "all_channels": every(CHANNELS, 8),
    "all_small": every(SMALL, 8), "none": lambda value: said(value, "None", None),
    "nearest": lambda value: said(value, "nearest"),
    "classes": lambda value: said(value, "nc") or whole(1, CLASSES)(value),
    "points": lambda value: said(value, "kpt_shape") or points(value),
}
KEYS: dict[str, Callable[[object], bool]] = {
    "nc": whole(1, CLASSES), "reg_max": whole(1, 64), "end2end": flag, "kpt_shape": points, "scales": scales,
    "scale": lambda value: type(value) is str and len(value) <= 64,
    "depth_multiple": ratio, "width_multiple": ratio,
}


def check_config(config: object) -> dict:
    """A copy of a net's dict with nothing but layers of ARGUMENTS and values of KEYS; or WeightsError."""
    if type(config) is not dict or not all(type(config.get(part)) is list for part in ("backbone", "head")):
        raise WeightsError("its plan (yaml) has no backbone and head; "
                           "give an ultralytics detector (v8, v9, 11, 26)")
    if config.get("channels", config.get("ch", 3)) != 3:
        raise WeightsError("its plan (yaml) isn't for 3 channels; give a detector for RGB pictures")
    if config.get("activation"):
        raise WeightsError("its plan (yaml) sets 'activation', which would be run as code; nothing was run. "
                           "Give a detector with the usual activation")
    checked: dict = {}
    for key, check in KEYS.items():
        if config.get(key) is not None:
            if not check(config[key]):
                raise WeightsError(f"its plan (yaml) has {key} {shown(config[key])}; get the file from its "
                                   "source")
            checked[key] = copy.deepcopy(config[key])
    if "nc" not in checked or checked.get("scale", "") not in {"", *checked.get("scales", {})}:
        raise WeightsError("its plan (yaml) lacks nc or its scale; get the file from its source")
    layers = [*config["backbone"], *config["head"]]
    if not 2 <= len(layers) <= LAYERS:
        raise WeightsError(f"its plan (yaml) has {len(layers)} layers; give a detector with 2 to {LAYERS}")
    rows = [check_layer(layer, index, index == len(layers) - 1) for index, layer in enumerate(layers)]
    if sum(row[1] for row in rows) > REPEATS:
        raise WeightsError(f"its plan (yaml) repeats layers over {REPEATS} times; get it from its source")
    if HEADS[rows[-1][2]] == "pose" and "kpt_shape" not in checked:
        raise WeightsError("its plan (yaml) has a pose head but no kpt_shape; get the file from its source")
    cut = len(config["backbone"])
    return {**checked, "backbone": rows[:cut], "head": rows[cut:]}


def check_layer(layer: object, index: int, last: bool) -> list:
    """A copy of one row [from, repeats, layer, arguments] of a plan."""
    sound = type(layer) is list and len(layer) == 4 and type(layer[2]) is str and layer[2] in ARGUMENTS
    if sound:
        came, repeats, name, args = layer
        kinds = ARGUMENTS[name].split()
        reach = whole(-max(index, 1), max(index - 1, -1))
        known = every(reach, 8) if name in ("Concat", "CBFuse", *HEADS) else reach
        sound = (known(came) and whole(1, 9 if name in REPEATED else 1)(repeats) and (name in HEADS) == last
                 and type(args) is list and min(len(kinds), 1) <= len(args) <= len(kinds)
                 and all(KINDS[kind](value) for kind, value in zip(kinds, args, strict=False)))
    if not sound:
        raise WeightsError(f"its plan (yaml) has the layer {shown(layer)}, which is none of a v8, v9, 11 or "
                           "26 detector; nothing was run. Get the file from its source")
    return copy.deepcopy(layer)


def shown(value: object, depth: int = 2) -> str:
    """A short ASCII rendering of plain data, whatever it holds."""
    if type(value) in (list, tuple) and depth:
        inside = ", ".join(shown(each, depth - 1) for each in value[:4])
        return f"[{inside}{', ...' if len(value) > 4 else ''}]"[:120]
    return ascii(value)[:60] if type(value) in (str, int, float, bool, type(None)) else type(value).__name__


def task_of(config: dict) -> str:
    """detect, segment or pose, as the head of a checked plan says."""
    return HEADS[config["head"][-1][2]]


def check_names(names: object, count: int) -> tuple[str, ...]:
    """The classes' names in order, from a dict or list, for `count` classes; else WeightsError."""
    if type(names) is dict and set(names) == set(range(count)):
        names = [names[index] for index in range(count)]
    if type(names) not in (list, tuple) or len(names) != count or not all(
            type(name) is str and 0 < len(name) <= 100 and name.isprintable() for name in names):
        raise WeightsError(f"its class names aren't {count} printable texts of at most 100 characters; "
                           "get the file from its source")
    return tuple(names)


def unpack(archive: Archive) -> tuple[dict[str, Tensor], object, object]:
    """(weights by name, plan, class names) of a file that ultralytics saved; plan and names are unchecked."""
    top = archive.read_pickle()
    model = (top.get("ema") or top.get("model")) if type(top) is dict else None
    held = attributes(model)
    if "yaml" not in held or "_modules" not in held:
        raise WeightsError("it holds no ultralytics net; give a detector, not a checkpoint or a LoRA")
    weights: dict[str, Tensor] = {}
    left, waiting = PARTS, [("", model, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        held = attributes(module)
        left -= 1 + sum(len(part(held, name)) for name in ("_parameters", "_buffers", "_modules"))
        if depth > DEPTH or left < 0:
            raise WeightsError(f"its net has over {PARTS:,} parts or is over {DEPTH} deep; "
                               "get the file from its source")
        for name, value in tensors(held):
            weights[prefix + name] = archive.read_tensor(value)
        waiting += [(f"{prefix}{plain(name)}.", child, depth + 1)
                    for name, child in part(held, "_modules").items() if child is not None]
    return weights, attributes(model)["yaml"], attributes(model).get("names")


def attributes(made: object) -> dict:
    """The state of an object, {} where it has none."""
    state = made.state if isinstance(made, Made) else None
    state = state[0] if type(state) is tuple and state else state
    return state if type(state) is dict else {}


def part(held: dict, name: str) -> dict:
    value = held.get(name)
    return value if type(value) is dict else {}


def tensors(held: dict) -> Iterator[tuple[str, object]]:
    """Parameters and buffers of a module as its state_dict would name them."""
    passing = held.get("_non_persistent_buffers_set")
    listed = passing.args[0] if isinstance(passing, Made) and passing.args else None
    skipped = listed[:16] if type(listed) is list else []
    for name, value in [*part(held, "_parameters").items(), *part(held, "_buffers").items()]:
        if value is not None and name not in skipped:
            yield plain(name), value


def plain(name: object) -> str:
    if type(name) is not str or not PLAIN.fullmatch(name):
        raise WeightsError(f"its net has a part named {shown(name)}; get the file from its source")
    return name


def assemble(config: Mapping, state: Mapping[str, Tensor]) -> nn.Module:
    """The net of a plan with these weights, eval and float32; WeightsError where the two don't fit."""
    config = check_config(config)
    tasks = import_tasks()
    try:
        with torch.device("meta"):
            layers, _ = tasks.parse_model(copy.deepcopy(config), 3, verbose=False)
        expected = {f"model.{name}": value.shape for name, value in layers.state_dict().items()}
        given = {name: value.shape for name, value in state.items()}
        names = expected.keys() | given.keys()
        if odd := sorted(name for name in names if expected.get(name) != given.get(name)):
            raise WeightsError(f"{len(odd)} of its {len(given)} weights don't fit its plan (yaml), first "
                               f"{shown(odd[0])}; get the file from its source, or update ultralytics")
        with torch.random.fork_rng(devices=[]):  # a picture's seed is none of its business
            net = getattr(tasks, MODELS[task_of(config)])(config, ch=3, verbose=False)
        net.load_state_dict(dict(state), strict=True)
    except WeightsError:
        raise
    except (RuntimeError, TypeError, LookupError, AttributeError, ValueError, AssertionError) as error:
        raise WeightsError(f"ultralytics can't build its plan (yaml): {tame(error, 120)}; "
                           "get the file from its source, or update ultralytics") from error
    return net.float().eval()


def import_tasks():
    """ultralytics.nn.tasks, imported without network, installing or touching the user's settings."""
    if "ultralytics" not in sys.modules:
        import_quietly()
    try:
        tasks = importlib.import_module("ultralytics.nn.tasks")
        dict.__setitem__(importlib.import_module("ultralytics.utils").SETTINGS, "sync", False)  # not saved
    except ImportError as error:
        raise WeightsError(f"a YOLO detector needs ultralytics, which isn't there ({error}); add it to "
                           f"{sys.executable}'s environment: pip install ultralytics") from error
    return tasks


def import_quietly() -> None:
    """First import of ultralytics. It changes the environment, torch.save and OpenCV's threads for everyone;
    all three come back. Unless YOLO_CONFIG_DIR is set, its settings go to a folder deleted at exit."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        return  # ultralytics needs it: import_tasks says so
    before, save, threads = dict(os.environ), torch.save, cv2.getNumThreads()
    if "YOLO_CONFIG_DIR" not in before:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="tweedie-ultralytics-")
        atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    try:
        with contextlib.suppress(ImportError):  # import_tasks says it
            importlib.import_module("ultralytics.nn.tasks")
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.save = save
        cv2.setNumThreads(threads)
