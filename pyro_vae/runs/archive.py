"""Reads the zip archives of `torch.save` from untrusted sources.

`torch.load(weights_only=True)` runs no code from the file, but it allocates as much memory as the file requests, and
assumes that each record has the declared size. Therefore Python's `zipfile`, which verifies checksums, reads the
archive first; its pickle is interpreted, which makes only plain containers and `Shape`s; and `torch.load` reads a new
archive of the checked records.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pyro_vae.errors.memory import require_memory

MAX_PICKLE_BYTES = 2**24
"""Maximum size of the pickle, which holds everything but the tensors' numbers."""

NEEDED = r"data\.pkl|data/\d+|version|byteorder"
"""Records that `torch.load` needs. With others, it may mistake the archive for TorchScript."""

MAX_DEPTH = 32
"""Maximum depth of nested containers."""

ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Sizes and storage type of a saved tensor, for example `FloatStorage`."""

    sizes: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    length: int


@dataclass(frozen=True)
class _Global:
    name: str


def read(path: Path, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Read a file of `torch.save`, and return its content with tensors and with a `Shape` in place of each tensor.

    Raises:
        BadInput: if the file is too large for this machine's memory.
        ValueError: if the file is not such an archive, or holds objects that this library does not save. A damaged file
            raises errors of many kinds.
    """
    with path.open("rb") as file:
        records = _records(file, path)
    folder, _, _ = next(iter(records)).partition("/")
    outline = Outline(records, folder).content
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            if re.fullmatch(NEEDED, name.removeprefix(f"{folder}/")):
                archive.writestr(name, content)
    copy.seek(0)
    return torch.load(copy, map_location=device, weights_only=True), outline


def _records(file: BinaryIO, path: Path) -> dict[str, bytes]:
    """Read the entries of the archive by name, and verify their checksums."""
    size = file.seek(0, io.SEEK_END)
    require_memory(size, f"{path} takes", "use a machine with more")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if not entries or packed or len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are not as torch.save writes them")
        return {entry.filename: archive.read(entry) for entry in entries}


class Outline:
    """Interprets a pickle of `torch.save`, for which a few instructions suffice.

    It never calls anything that the pickle names, and hashes only integers and strings.

    Args:
        records: entries of the archive by name.
        folder: common first part of the names.

    Attributes:
        content: plain containers, numbers, strings and `Shape`s.

    Raises:
        ValueError: at any other instruction or name, or if a tensor needs more numbers than its record holds.
    """

    def __init__(self, records: dict[str, bytes], folder: str) -> None:
        self.records, self.folder = records, folder
        pickle = records.get(f"{folder}/data.pkl", b"")
        if not 0 < len(pickle) <= MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has {len(pickle)} bytes, which must lie between 1 and {MAX_PICKLE_BYTES}")
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(pickle):
            self._run(instruction.name, argument)
        (self.content,) = self.stack
        _require_bounded(self.content)

    def _run(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO":
                if argument != 2:
                    raise ValueError(f"its pickle is of protocol {argument}")
            case "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = self._pop(int(name[-1]))
                stack.append(tuple(values))
            case "APPEND" | "APPENDS":
                values = self._pop(1) if name == "APPEND" else self._since_mark()
                _exactly(list, stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self._pop(2) if name == "SETITEM" else self._since_mark()
                target = _exactly(dict, stack[-1])
                for key, value in zip(values[::2], values[1::2], strict=True):
                    target[key if type(key) is int else _exactly(str, key)] = value
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_Global(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                function, arguments = self._pop(2)
                stack.append(_called(_exactly(_Global, function).name, _exactly(tuple, arguments)))
            case "BUILD":
                target, state = self._pop(2)
                if type(target) is not dict or type(state) is not dict or set(state) != {"_metadata"}:
                    raise ValueError("it changes an object other than a state_dict")
                stack.append(target)
            case _:
                raise ValueError(f"its pickle holds the instruction {name}")

    def _pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise ValueError("its pickle pops values from an empty stack")
        values = self.stack[-n:]
        del self.stack[-n:]
        return values

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        return self._pop(len(self.stack) - start) if len(self.stack) > start else []

    def _storage(self, identifier: Any) -> _Storage:
        """Check that the storage ('storage', kind, key, device, length) has a record of that length."""
        _, kind, key, _, length = _exactly(tuple, identifier)
        module, _, name = _exactly(_Global, kind).name.partition(" ")
        size = ITEM_SIZES.get(name) if module == "torch" else None
        record = self.records.get(f"{self.folder}/data/{_exactly(str, key)}")
        if size is None or record is None or type(length) is not int or len(record) != length * size:
            raise ValueError(f"a tensor's storage is missing, or does not hold {length} numbers of {name}")
        return _Storage(name, length)


def _require_bounded(content: Any) -> None:
    """Refuse content that contains itself or, by sharing, stands for more values than the pickle can hold.

    Raises:
        ValueError: if it does.
    """
    waiting, num_values = [(content, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_PICKLE_BYTES:
            raise ValueError(
                f"its pickle stands for more than {MAX_PICKLE_BYTES} values, or {MAX_DEPTH} levels of them"
            )
        if isinstance(node, dict):
            waiting += [(inner, depth + 1) for inner in node.values()]
        elif isinstance(node, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in node]


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the outline of a function's result, for the functions that `torch.save` writes for our objects."""
    if name in ("collections OrderedDict", "collections Counter"):
        (items,) = arguments or ({},)
        return dict(_exactly(dict, items))
    if name != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"it would call {name.replace(' ', '.')}")
    storage, offset, sizes, strides = arguments[:4]
    _exactly(_Storage, storage)
    numbers = [offset, *_exactly(tuple, sizes), *_exactly(tuple, strides)]
    if any(type(n) is not int or not 0 <= n < 2**40 for n in numbers) or len(sizes) != len(strides) or len(sizes) > 16:
        raise ValueError("a tensor has impossible sizes")
    num_values = math.prod(sizes)
    end = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True)) + 1 if num_values else 0
    if max(num_values, end) > storage.length:
        raise ValueError(f"a tensor of sizes {list(sizes)} needs more than its {storage.length} numbers")
    return Shape(sizes, storage.kind)


def _exactly(kind: type, value: Any) -> Any:
    """Return `value` if it has exactly this type.

    Raises:
        ValueError: otherwise.
    """
    if type(value) is not kind:
        raise ValueError(f"its pickle puts a {type(value).__name__} where a {kind.__name__.strip('_')} belongs")
    return value
