"""The bytes of a pickle -> what it says, as plain data; nothing that it names is imported, made or called.

torch.save writes pickle protocol 2. The machine below knows the opcodes that it uses and no others, so there
is no unpickler: a name is a `Name`, a call or an object a `Made` that holds its arguments and state, a
storage a `Storage` that says where its bytes are. `load` raises WeightsError for every other opcode, for a
name that ALLOWED lacks and for more than OPCODES steps.
"""
from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

OPCODES = 500_000  # the largest released detector, YOLOv9e, takes 190 000
SHOWN = 5  # names in an error

ALLOWED = [(re.compile(module), re.compile(name)) for module, name in (
    (r"torch", r"B?[A-Z][a-z]+\d*Storage|Size|device|b?float\d+|u?int\d+|bool"),
    (r"torch\._utils", r"_rebuild_tensor_v2|_rebuild_parameter"),
    (r"torch\.nn\.modules(\.[a-z]+)?", r"[A-Z]\w*"),
    (r"ultralytics(\.\w+)+", r"[A-Z]\w*|v8\w*Loss"),
    (r"numpy", r"dtype|ndarray|float64|float32|int64"),
    (r"numpy\.dtypes", r"[A-Z]\w*DType"),
    (r"numpy\._?core\.multiarray", r"scalar"),
    (r"collections", r"OrderedDict|defaultdict"),
    (r"pathlib(\._local)?", r"(Pure)?(Posix|Windows)?Path"),
    (r"_codecs", r"encode"),  # how protocol 2 writes bytes
    (r"builtins|__builtin__", r"set|frozenset|getattr|slice"),
)]
FAMILIES = {  # first part of a foreign module's name -> what the file is
    "models": "it is a YOLOv5 or YOLOv7 file",
    "utils": "it is a YOLOv5 or YOLOv7 file",
    "dill": "it was saved with dill: save it again with a newer ultralytics",
}


class WeightsError(ValueError):
    """A weights file that won't be read, and why."""


def tame(text: object, most: int = 80) -> str:
    """A file's own text as it may stand in an error: ASCII and short."""
    return ascii(str(text))[1:-1][:most]


class Name(NamedTuple):
    """Something that the pickle asked to import."""

    module: str
    name: str


class Storage(NamedTuple):
    """A storage that a tensor of the pickle lies in: its torch name, its entry in the zip, its length."""

    kind: str
    key: str
    numel: int


class Made:
    """An object that the pickle asked to make, or a call's result: name, arguments, state."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: Name, args: tuple):
        self.name, self.args, self.state = name, args, None


def load(data: bytes) -> object:
    """What a pickle of protocol 2 says; WeightsError for what torch.save doesn't write or ALLOWED lacks."""
    machine = Machine(data)
    try:
        return machine.run()
    except WeightsError:
        if not machine.foreign:
            raise
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        if not machine.foreign:
            raise WeightsError(f"its pickle breaks at byte {machine.at} of {len(data)}; "
                               "the file is damaged, get it again") from error
    raise WeightsError(refusal(machine.foreign))


def refusal(names: list[Name]) -> str:
    """The error for names outside ALLOWED."""
    shown = ", ".join(tame(f"{each.module}.{each.name}") for each in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    parts = {each.module.split(".")[0] for each in names}
    hint = next((f" ({hint})" for part, hint in FAMILIES.items() if part in parts), "")
    return (f"it asks for {shown}{more}, which no detector needs{hint}; nothing was run. "
            "Give an ultralytics detector (v8, v9, 11, 26) from a source that you trust")


class Machine:
    """One run over a pickle. `foreign` collects the names that ALLOWED lacks; `at` is the next byte."""

    def __init__(self, data: bytes):
        self.data, self.at, self.foreign = data, 0, []
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(OPCODES):
            code = self.take(1)[0]
            if code == STOP:
                if self.foreign or len(self.stack) != 1 or self.marks:
                    raise WeightsError("its pickle ends with things left over; get the file again")
                return self.stack[0]
            if code not in STEPS:
                known = pickletools.code2op.get(chr(code))
                raise WeightsError(f"its pickle holds opcode {known.name if known else hex(code)}, which "
                                   "torch.save doesn't write; nothing was run. Get the file from its source")
            STEPS[code](self)
        raise WeightsError(f"its pickle takes more than {OPCODES:,} steps, over twice those of the largest "
                           "detector; get the file from its source")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("the pickle is cut off")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.at, self.at + 256)
        text = self.data[self.at:end].decode("ascii")
        self.at = end + 1
        return text

    def pop(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("pop across a mark")
        return self.stack.pop()

    def pop_mark(self) -> list:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def find_name(self) -> None:
        found = Name(self.line(), self.line())
        if not any(module.fullmatch(found.module) and name.fullmatch(found.name) for module, name in ALLOWED):
            self.foreign.append(found)
        self.stack.append(found)

    def make(self) -> None:
        args, name = self.pop(), self.pop()
        if not isinstance(name, Name) or type(args) is not tuple:
            raise WeightsError("its pickle calls something that it made itself; nothing was run. "
                               "Get the file from its source")
        is_dict = name == ("collections", "OrderedDict") and not args
        self.stack.append({} if is_dict else Made(name, args))

    def set_state(self) -> None:
        state, thing = self.pop(), self.stack[-1]
        if isinstance(thing, Made):
            thing.state = state
        elif type(thing) is not dict:  # an OrderedDict's attributes are of no use
            raise ValueError("state for plain data")

    def set_items(self, pairs: list) -> None:
        thing = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int, float, type(None))):
                raise ValueError("a key that is no text or number")
            if type(thing) is dict:
                thing[key] = value
        if type(thing) is not dict and not isinstance(thing, Made):
            raise ValueError("items for what holds none")

    def append_all(self, values: list) -> None:
        thing = self.stack[-1]
        if type(thing) is list:
            thing.extend(values)
        elif not isinstance(thing, Made):
            raise ValueError("values for what holds none")

    def find_storage(self) -> None:
        kind, (tag, name, key, _, numel) = None, self.pop()
        if isinstance(name, Name) and name.module == "torch":
            kind = name.name
        if tag != "storage" or not kind or type(key) is not str or type(numel) is not int:
            raise WeightsError("its pickle refers to what is no storage; get the file from its source")
        self.stack.append(Storage(kind, key, numel))


def push(value: Callable[[Machine], object]) -> Callable[[Machine], None]:
    """A step that puts value(machine) on the stack."""
    return lambda machine: machine.stack.append(value(machine))


def text_of(machine: Machine) -> str:
    return machine.take(machine.number("<I")).decode("utf-8", "surrogatepass")


def remember(form: str) -> Callable[[Machine], None]:
    return lambda machine: machine.memo.__setitem__(machine.number(form), machine.stack[-1])


def check_protocol(machine: Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol != 2:
        raise WeightsError(f"its pickle has protocol {protocol}; torch.save writes 2. Nothing was run; get "
                           "the file from its source")


STOP = ord(".")
STEPS: dict[int, Callable[[Machine], None]] = {ord(code): step for code, step in {
    "\x80": check_protocol,
    "c": Machine.find_name, "R": Machine.make, "\x81": Machine.make, "b": Machine.set_state,
    "Q": Machine.find_storage,
    "}": push(lambda _: {}), "]": push(lambda _: []), ")": push(lambda _: ()),
    "N": push(lambda _: None), "\x88": push(lambda _: True), "\x89": push(lambda _: False),
    "K": push(lambda machine: machine.number("<B")), "M": push(lambda machine: machine.number("<H")),
    "J": push(lambda machine: machine.number("<i")), "G": push(lambda machine: machine.number(">d")),
    "\x8a": push(lambda machine: int.from_bytes(machine.take(machine.number("<B")), "little", signed=True)),
    "X": push(text_of),
    "(": lambda machine: machine.marks.append(len(machine.stack)),
    "t": lambda machine: machine.stack.append(tuple(machine.pop_mark())),
    "\x85": lambda machine: machine.push_tuple(1), "\x86": lambda machine: machine.push_tuple(2),
    "\x87": lambda machine: machine.push_tuple(3),
    "s": lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "u": lambda machine: machine.set_items(machine.pop_mark()),
    "a": lambda machine: machine.append_all([machine.pop()]),
    "e": lambda machine: machine.append_all(machine.pop_mark()),
    "q": remember("<B"), "r": remember("<I"),
    "h": push(lambda machine: machine.memo[machine.number("<B")]),
    "j": push(lambda machine: machine.memo[machine.number("<I")]),
    "0": lambda machine: machine.pop(),
}.items()}
