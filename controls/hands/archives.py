"""A file that torch.save wrote -> its pickle's data, and tensors on demand; checked before it is believed.

torch.save stores its entries uncompressed in a zip. `Archive` refuses anything else, names that point
outside or come twice and entries that overlap, so no more is read than the file holds. Nothing is extracted.
"""
from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .pickles import Made, Name, Storage, WeightsError, load, tame

LARGEST = 1 << 30  # bytes of a file: the largest released detectors have 140 MB, with optimizer state 800 MB
DIRECTORY = 2 << 20  # bytes of a zip's directory, and with it the number of entries
PICKLE = 16 << 20  # bytes of the pickle in it: YOLOv9e's has 450 000
DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
          "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
          "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
          "BoolStorage": torch.bool}
PARAMETER, TENSOR = Name("torch._utils", "_rebuild_parameter"), Name("torch._utils", "_rebuild_tensor_v2")
OUTSIDE = re.compile(r"^/|[\\:]|(^|/)\.\.(/|$)")
BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError, OSError, ValueError)


class Guarded(io.FileIO):
    """A file that refuses reads of more than `most` bytes: zipfile reads a whole directory at once."""

    most = DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.most + 1 if size is None or size < 0 else size
        if wanted > self.most + 1 or len(data := super().read(wanted)) > self.most:
            raise WeightsError(f"its zip directory has over {self.most:,} bytes; get it from its source")
        return data


class Archive:
    """An open file of torch.save. Use it in a `with`; every error is a WeightsError."""

    def __init__(self, path: Path):
        self.bytes = self.left = path.stat().st_size
        self.file = Guarded(path)
        try:
            self.zip = zipfile.ZipFile(self.file)
            self.root = self.check_entries()
        except WeightsError:
            self.file.close()
            raise
        except BROKEN as error:
            self.file.close()
            raise WeightsError(f"its zip can't be read ({tame(error)}); get the file again") from error
        self.file.most = LARGEST

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def check_entries(self) -> str:
        """The folder in the zip that holds data.pkl."""
        entries = self.zip.infolist()
        names = [entry.filename for entry in entries]
        if odd := [name for name in names if OUTSIDE.search(name) or not name.isprintable()]:
            raise WeightsError(f"its zip holds {tame(odd[0])}, which points outside; get it from its source")
        if len(set(names)) < len(names):
            raise WeightsError("its zip holds a name twice; get it from its source")
        if any(entry.compress_type or entry.flag_bits & 1 or entry.compress_size != entry.file_size
               for entry in entries) or sum(entry.file_size for entry in entries) > self.bytes:
            raise WeightsError("its zip is compressed, encrypted or overlaps, which torch.save never does; "
                               "get it from its source")
        roots = [name.split("/")[0] for name in names if re.fullmatch("[^/]+/data.pkl", name)]
        if len(roots) != 1:
            raise WeightsError("it is a zip without the data.pkl of torch.save; give a detector's file")
        if f"{roots[0]}/constants.pkl" in names:
            raise WeightsError("it is TorchScript; give the .pt that it was exported from, or an .onnx")
        if f"{roots[0]}/byteorder" in names and self.read_entry(f"{roots[0]}/byteorder", 16) != b"little":
            raise WeightsError("it was saved on a big-endian machine; save it again on another one")
        return roots[0]

    def read_entry(self, name: str, most: int) -> bytes:
        """The bytes of an entry; WeightsError where it is missing, damaged or longer than `most`."""
        try:
            if self.zip.getinfo(name).file_size > most:
                raise WeightsError(f"its {tame(name)} has more than {most:,} bytes; get it from its source")
            return self.zip.read(name)
        except WeightsError:
            raise
        except BROKEN as error:
            raise WeightsError(f"its {tame(name)} is missing or damaged; get the file again") from error

    def read_pickle(self) -> object:
        """What its data.pkl says; see pickles.load."""
        return load(self.read_entry(f"{self.root}/data.pkl", PICKLE))

    def read_tensor(self, made: object) -> Tensor:
        """The tensor that a Made of torch's rebuilding calls stands for, contiguous and its own."""
        if isinstance(made, Made) and made.name == PARAMETER and made.args:
            made = made.args[0]
        if not isinstance(made, Made) or made.name != TENSOR or len(made.args) < 4:
            raise WeightsError("a weight in it is no plain tensor; get it from its source")
        storage, offset, size, stride = made.args[:4]
        check_layout(storage, offset, size, stride)
        dtype = DTYPES[storage.kind]
        name = f"{self.root}/data/{storage.key}"
        data = self.read_entry(name, self.bytes)
        self.left -= len(data) // 2  # a storage may be shared, but not by all
        if self.left < 0:
            raise WeightsError("its weights have more bytes than the file; get it from its source")
        if len(data) != storage.numel * dtype.itemsize:
            raise WeightsError(f"its {tame(name)} has {len(data):,} bytes for {storage.numel:,} values of "
                               f"{dtype}; get the file again")
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        values = torch.frombuffer(bytearray(data), dtype=dtype)
        return values.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def check_layout(storage: object, offset: object, size: object, stride: object) -> None:
    """WeightsError unless a tensor lies wholly inside its storage and has no more values than that."""
    whole = [offset, *size, *stride] if type(size) is type(stride) is tuple else [None]
    sound = (isinstance(storage, Storage) and storage.kind in DTYPES and len(size) == len(stride) <= 8
             and all(type(each) is int and 0 <= each < 1 << 40 for each in [*whole, storage.numel]))
    if sound:
        values, last = 1, offset
        for count, step in zip(size, stride, strict=True):
            values, last = values * count, last + (count - 1) * step
        sound = values <= storage.numel and (not values or last < storage.numel)
    if not sound:
        raise WeightsError("a tensor in it doesn't lie within its storage; get it from its source")
