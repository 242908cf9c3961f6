"""Detectors' files written by hand, opcode by opcode, so that they may say what no honest pickler would.

PAYLOAD and CANARY are what would run: a shell command and a module, each of which leaves the file `fired` in
the current folder.
"""
import io
import json
import pickle
import struct
import tarfile
import zipfile
from typing import NamedTuple

PAYLOAD = "touch fired"
CANARY = "tweedie_canary"
PLAN = {"nc": 1, "scale": "n", "scales": {"n": [0.33, 0.25, 1024]},
        "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]]],
        "head": [[-1, 1, "Conv", [256, 3, 2]], [[0, 1, 2], 1, "Detect", ["nc"]]]}


class Call(NamedTuple):
    """A call in a pickle: its callable's module and name, arguments, state; `code` \\x81 is __new__."""

    module: str
    name: str
    args: tuple = ()
    state: object = None
    code: bytes = b"R"


class Raw(NamedTuple):
    """Opcodes that leave one value."""

    code: bytes


def emit(value) -> bytes:
    """Protocol 2 opcodes for plain data, Call and Raw."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Call):
        state = b"" if value.state is None else emit(value.state) + b"b"
        return f"c{value.module}\n{value.name}\n".encode() + emit(tuple(value.args)) + value.code + state
    if isinstance(value, dict):
        return b"}(" + b"".join(emit(key) + emit(each) for key, each in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(emit, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(emit, value)) + b"t"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return pickle.dumps(value, 2)[2:-1]


def archive(code: bytes, root: str = "a", compress: int = zipfile.ZIP_STORED, entries=()) -> bytes:
    """A zip as torch.save writes it, with these (name, data) more."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as out:
        out.writestr(f"{root}/data.pkl", code)
        out.writestr(f"{root}/version", b"3\n")
        out.writestr(f"{root}/data/0", struct.pack("<4f", 1, 2, 3, 4))
        for name, data in entries:
            out.writestr(name, data)
    return file.getvalue()


def saved(value, *entries: tuple[str, bytes]) -> bytes:
    return archive(b"\x80\x02" + emit(value) + b".", entries=entries)


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4, tag: str = "storage") -> Raw:
    return Raw(emit((tag, Raw(f"ctorch\n{kind}\n".encode()), key, "cpu", numel)) + b"Q")


def tensor(size=(4,), stride=(1,), offset=0, held=None) -> Call:
    return Call("torch._utils", "_rebuild_tensor_v2", (held or storage(), offset, size, stride, False, {}))


def detector(plan=PLAN, names=None, weight=None, modules=None, entries=(), **extra) -> bytes:
    """A file with a net of one weight, harmless but for what is given."""
    model = Call("ultralytics.nn.tasks", "DetectionModel", (), {
        "yaml": plan, "names": {0: "hand"} if names is None else names,
        "_modules": modules or {}, "_buffers": {},
        "_parameters": {"weight": tensor() if weight is None else weight}}, b"\x81")
    return saved({**extra, "model": model, "ema": None}, *entries)


def layer(row) -> bytes:
    return detector({**PLAN, "backbone": [row, *PLAN["backbone"]]})


def planned(**changed) -> bytes:
    return detector({**PLAN, **changed})


def module(**held) -> Call:
    return Call("torch.nn.modules.container", "Sequential", (), held, b"\x81")


def chain(depth: int) -> Raw:
    """Modules that hold each other, `depth` deep."""
    opening = b"}X\x01\x00\x00\x000ctorch.nn.modules.container\nSequential\n)\x81}X\x08\x00\x00\x00_modules"
    return Raw(opening * depth + b"}" + b"sbs" * depth)


def laughs(levels: int) -> Raw:
    """Modules that hold the one before twice: 2^levels in all, a few lines of pickle."""
    twice = emit(module(_modules={"0": Raw(b"h\x00"), "1": Raw(b"h\x00")})) + b"q\x00"
    return Raw(b"}" + emit("0") + emit(module()) + b"q\x00" + (b"0" + twice) * levels + b"s")


def evil(*call) -> bytes:
    """A good detector with one more entry, the call."""
    return detector(extra=Call(*call))


def opcodes(code: bytes, protocol: int = 2) -> bytes:
    return archive(bytes([0x80, protocol]) + code)


def reduced(protocol: int) -> bytes:
    """os.system as a pickler of Python writes it."""
    import os

    class Evil:
        def __reduce__(self):
            return os.system, (PAYLOAD,)
    return archive(pickle.dumps({"model": Evil()}, protocol))


def packed(tensors: bytes, header: dict | bytes, length: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as out:
        out.addfile(tarfile.TarInfo("../../storages"))
    return file.getvalue()


def renamed(there: bytes, then: bytes, data: bytes = b"x") -> bytes:
    """A good detector with one more entry, whose name is then overwritten by one as long."""
    return detector(entries=[(there.decode(), data)]).replace(there, then)


def crowded(count: int) -> bytes:
    """A zip of very many empty entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for index in range(count):
            out.writestr(f"a/data/{index:060}", b"")
    return file.getvalue()


def overlapping() -> bytes:
    """A zip whose directory says of every entry that it is the whole file's size."""
    data = bytearray(detector())
    size = struct.pack("<I", len(data))
    at = data.index(b"PK\x01\x02")
    data[at + 20:at + 28] = size + size
    return bytes(data)
