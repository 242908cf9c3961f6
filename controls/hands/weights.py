"""A detector's file -> Stored: weights, plan, class names, task. Nothing in the file is ever run.

`read_weights` takes what ultralytics saves (.pt) and .safetensors. A .pt is read once by archives.py and
pickles.py and kept as `<name>.<first 16 of its SHA-256>.safetensors` with a .json; later calls read these.
The .json says {"plan": ..., "names": [...], "source": SHA-256 of the .pt, "weights": of the .safetensors}.
Plan and names are needed; in another .safetensors they may stand in the metadata's "tweedie" instead.
`build` makes the net. An .onnx goes to exported.py. Every error is a WeightsError: file, what, what to do.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from . import archives, known, yolo
from .pickles import WeightsError, tame

log = logging.getLogger("tweedie")

HEADER = 4 << 20  # bytes of a safetensors header; a detector's has 200 000
SIDECAR = 1 << 20  # bytes of a .json
CONTENTS = (  # a file's content by its first bytes
    (lambda head: head[:4] == b"PK\x03\x04", ".pt"),
    (lambda head: head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40, ".safetensors"),
    (lambda head: head[:1] == b"\x08" and head[1:2] < b"\x20", ".onnx"),
    (lambda head: head[:1] == b"\x80" or b"ustar" in head, "an old torch file"),
)


class Stored(NamedTuple):
    """state: weights by name, as stored. config: the checked plan. names: one a class. task: detect, segment
    or pose. kpt_shape: (points, values a point) of a pose detector, else None."""

    state: dict[str, Tensor]
    config: dict
    names: tuple[str, ...]
    task: str
    kpt_shape: tuple[int, int] | None


def read_weights(path: str | Path, cache: Path | None = None) -> Stored:
    """The detector in a .pt or .safetensors file; `cache`: where a .pt is kept if not in its own folder.

    WeightsError says what is wrong with the file and what to do; where there is none, where to get it.
    """
    path = Path(path)
    with naming(path):
        if check_file(path) == ".safetensors":
            return read_safetensors(path)
        source = digest(path)
        name = f"{path.stem}.{source[:16]}.safetensors"
        folders = [path.parent, *([Path(cache)] if cache else [])]
        for folder in folders:
            if (found := read_kept(folder / name, source)) is not None:
                return found
        with archives.Archive(path) as archive:
            state, plan, names = yolo.unpack(archive)
        stored = check_stored(state, plan, names)
    if not any(keep(stored, folder / name, source) for folder in folders):
        log.warning("%s is converted at every start: it can't be kept in %s; make that writable",
                    path.name, " or ".join(map(str, folders)))
    return stored


def build(stored: Stored) -> nn.Module:
    """The ultralytics net of a detector, eval and float32; WeightsError where plan and weights don't fit."""
    return yolo.assemble(stored.config, stored.state)


@contextlib.contextmanager
def naming(path: Path):
    """Errors inside begin with the file."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{tame(path.name)}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{tame(path.name)}: it can't be read ({error.strerror}); check it") from error


def check_file(path: Path, wanted: tuple[str, ...] = (".pt", ".safetensors")) -> str:
    """What a file is by its content, if `wanted` has that and its name agrees; else WeightsError."""
    if not path.exists():
        raise WeightsError(known.missing(path.name, path.parent))
    if not path.is_file() or not 0 < path.stat().st_size <= archives.LARGEST:
        raise WeightsError(f"it is no file of 1 to {archives.LARGEST:,} bytes; give a detector's file")
    with path.open("rb") as file:
        head = file.read(512)
    content = next((name for check, name in CONTENTS if check(head)), "none of .pt, .safetensors, .onnx")
    suffix = ".pt" if path.suffix.lower() in (".pt", ".pth") else path.suffix.lower()
    if content == "an old torch file":
        raise WeightsError("it is a pickle or tar of a torch before 1.6, which can't be read safely; "
                           "load and save it with a newer torch where it came from")
    if content not in wanted or content != suffix:
        raise WeightsError(f"by its content it is {content}, not {suffix or 'a detector'}; "
                           f"give a {' or '.join(wanted)}, named as what it is")
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def check_stored(state: dict[str, Tensor], plan: object, names: object) -> Stored:
    config = yolo.check_config(plan)
    task = yolo.task_of(config)
    points = tuple(config["kpt_shape"]) if task == "pose" else None
    return Stored(state, config, yolo.check_names(names, config["nc"]), task, points)


def read_kept(path: Path, source: str) -> Stored | None:
    """What an earlier call kept of the .pt with this SHA-256; None unless both files are there and whole."""
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        return None
    try:
        said = read_json(sidecar)
        if said.get("source") == source and said.get("weights") == digest(path):
            return read_safetensors(path)
    except WeightsError:
        log.warning("%s was changed since it was converted; it is made again", path)
    return None


def keep(stored: Stored, path: Path, source: str) -> bool:
    """Write weights and .json, each whole or not at all; False where the folder can't be written."""
    from safetensors.torch import save
    weights = save(stored.state)
    said = {"plan": stored.config, "names": stored.names, "source": source,
            "weights": hashlib.sha256(weights).hexdigest()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, data in ((path, weights), (path.with_suffix(".json"), json.dumps(said).encode())):
            replace(target, data)
    except OSError:
        return False
    return True


def replace(target: Path, data: bytes) -> None:
    """Write a file under a passing name, then put it in its place at once."""
    handle, passing = tempfile.mkstemp(dir=target.parent, prefix=".tweedie-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(passing, target)
    except OSError:
        Path(passing).unlink(missing_ok=True)
        raise


def read_safetensors(path: Path) -> Stored:
    """Weights from a .safetensors, plan and names from its metadata or the .json beside it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER, path.stat().st_size - 8):
            raise WeightsError(f"its header claims {length:,} bytes; get the file from its source")
        header = parse(file.read(length))
    metadata = header.get("__metadata__")
    sidecar = path.with_suffix(".json")
    if type(metadata) is dict and type(metadata.get("tweedie")) is str:
        said = parse(metadata["tweedie"].encode())
    elif sidecar.is_file():
        said = read_json(sidecar)
    else:
        raise WeightsError(f"its plan isn't there: neither {tame(sidecar.name)} beside it nor its metadata "
                           "has it; give the .pt that it came from")
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"its tensors can't be read ({tame(error)}); get the file again") from error
    return check_stored(state, said.get("plan"), said.get("names"))


def read_json(path: Path) -> dict:
    with path.open("rb") as file:
        return parse(file.read(SIDECAR + 1))


def parse(data: bytes) -> dict:
    """The object in a small JSON text; numbers of more than 18 digits and constants like NaN are refused."""
    def number(text: str) -> int:
        if len(text) > 18:
            raise ValueError("a number of more than 18 digits")
        return int(text)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON")
    try:
        if len(data) > HEADER:
            raise ValueError("too long")
        found = json.loads(data, parse_int=number, parse_constant=constant)
        if type(found) is not dict:
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its JSON can't be read ({tame(error)}); get the file again") from error
    return found
