"""A detector exported to ONNX -> its bytes and what ultralytics' export says of it: task, class names, size.

Read from the file's outer fields (a protobuf: onnx.proto's ModelProto) by the few lines below; the net itself
goes unread to cv2.dnn.readNetFromONNX or onnxruntime. Weights outside the file are refused: their paths
are the file's to choose.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .pickles import WeightsError, tame
from .weights import check_file, naming
from .yolo import CLASSES, MODELS, check_names, points, whole

GRAPH, METADATA = 7, 14  # of ModelProto
INITIALIZER = 5  # of GraphProto
EXTERNAL, LOCATION = 13, 14  # of TensorProto
SAID = 200_000  # characters of a value


class Exported(NamedTuple):
    """data: the file. size: (height, width) of its input in pixels. stride: its coarsest, in pixels. end2end:
    its output [1,N,6+] is final, not to be thinned by NMS. names, task, kpt_shape: as in weights.Stored."""

    data: bytes
    size: tuple[int, int]
    stride: int
    end2end: bool
    names: tuple[str, ...]
    task: str
    kpt_shape: tuple[int, int] | None


def read_onnx(path: str | Path) -> Exported:
    """The detector in an .onnx that ultralytics exported; WeightsError for anything else."""
    path = Path(path)
    with naming(path):
        check_file(path, (".onnx",))
        data = path.read_bytes()
        said = {}
        graphs = 0
        for number, value in fields(memoryview(data)):
            if number == METADATA and type(value) is memoryview:
                pair = dict(fields(value))
                said[text(pair.get(1))] = text(pair.get(2))
            elif number == GRAPH and type(value) is memoryview:
                graphs += 1
                check_inside(value)
        if graphs != 1:
            raise WeightsError("it holds no ONNX graph; get the file again")
        return describe(data, said)


def check_inside(graph: memoryview) -> None:
    """WeightsError if a weight of the graph lies in another file."""
    for number, value in fields(graph):
        if number == INITIALIZER and type(value) is memoryview and any(
                field == EXTERNAL or (field == LOCATION and inner) for field, inner in fields(value)):
            raise WeightsError("its weights lie in another file; export it as one file")


def describe(data: bytes, said: dict[str, str]) -> Exported:
    """What ultralytics' export writes, checked."""
    if not {"task", "names", "imgsz", "stride"} <= said.keys() or said["task"] not in MODELS:
        raise WeightsError("it doesn't say task, names, imgsz and stride as ultralytics' export does for "
                           "detect, segment and pose; export it with `yolo export format=onnx`")
    names, size, stride = (literal(said[key]) for key in ("names", "imgsz", "stride"))
    shape = literal(said["kpt_shape"]) if said["task"] == "pose" and "kpt_shape" in said else None
    side = whole(32, 4096)
    if type(names) is not dict or not 0 < len(names) <= CLASSES or type(size) not in (list, tuple) or len(
            size) != 2 or not all(map(side, size)) or not whole(1, 128)(stride) or (
            said["task"] == "pose" and not points(shape)):
        raise WeightsError("its names, imgsz, stride or kpt_shape make no sense; export it again")
    return Exported(data, tuple(size), stride, said.get("end2end") == "True", check_names(names, len(names)),
                    said["task"], tuple(shape) if shape else None)


def literal(said: str) -> object:
    """A Python literal of plain data, as str() writes it."""
    try:
        if len(said) > SAID or said.count("[") + said.count("(") + said.count("{") > 20:
            raise ValueError("too long or deep")
        return ast.literal_eval(said)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise WeightsError(f"it says {tame(said, 40)} of itself; export it again") from error


def text(value: object) -> str:
    return bytes(value).decode("utf-8", "replace") if type(value) is memoryview and len(value) <= SAID else ""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, number or bytes) of a protobuf message in turn; WeightsError where it breaks."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind, length = key & 7, 0
        if kind == 0:
            value, at = varint(message, at)
        else:
            if kind == 2:
                length, at = varint(message, at)
            length = {1: 8, 2: length, 5: 4}.get(kind, len(message))
            value, at = message[at:at + length], at + length
        if at > len(message) or key < 8:
            raise WeightsError("its ONNX is damaged; get the file again")
        yield key >> 3, value


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """(number, next position)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise WeightsError("its ONNX is damaged; get the file again")
