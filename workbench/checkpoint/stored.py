"""Reading the headers of safetensors files: a small strict parser.

A file is 8 bytes (length of the header, little-endian), a JSON object {name: {dtype, shape, data_offsets}}, and the
tensors without a gap between them. Every number is held against the size of the file before it is believed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ModelNotFound, ValidationFailed
from ..model.gguf import open_file
from ..model.wording import shown

MAX_HEADER = 100_000_000
"""Bytes of the largest header that the format allows."""

MAX_TENSORS = 500_000

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
        "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
    }
)  # fmt: skip
"""Bytes of one element of each type of whole bytes."""

FLOATS = ("F32", "F16", "BF16")
"""Types that a checkpoint's weights may have to be converted."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file. `shape` is as stored (the last extent is the row), `offset` is absolute."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int

    @property
    def row_length(self) -> int:
        """Elements of one row; a scalar is a row of one."""
        return self.shape[-1] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_length * ITEM_BYTES[self.dtype]


def read_stored(path: Path, file: int) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; `file` is its number among the checkpoint's files.

    Raises:
        ModelNotFound: nothing there, not a regular file, or not readable.
        ValidationFailed: the file is not what its header says, or not safetensors at all.
    """
    descriptor = open_file(path)
    try:
        size = os.fstat(descriptor).st_size
        length = _header_length(path, os.pread(descriptor, 8, 0), size)
        text = os.pread(descriptor, length, 8)
    except OSError as error:
        raise ModelNotFound(f"{shown(path)} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    return _tensors(path, _parsed(path, text), file, 8 + length, size - 8 - length)


def _header_length(path: Path, start: bytes, size: int) -> int:
    if start.startswith(b"version "):
        raise ValidationFailed(
            f"{shown(path)} is a Git LFS pointer, not the weights: download the file itself (git lfs pull)."
        )
    if len(start) < 8:
        raise ValidationFailed(f"{shown(path)} is not a safetensors file: it has only {size} bytes.")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        raise ValidationFailed(f"{shown(path)} is not a safetensors file: its header would have {length} bytes.")
    if length > size - 8:
        raise ValidationFailed(
            f"{shown(path)} is damaged or incomplete: its header has {length} bytes, and the file ends before."
        )
    return length


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            seen: set[str] = set()
            twice.extend(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        return names

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"{shown(path)} is damaged: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise ValidationFailed(f"{shown(path)} is damaged: its header is not a list of tensors.")
    if twice:
        raise ValidationFailed(f"{shown(path)} is damaged: its header holds {shown(twice[0])} twice.")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ValidationFailed(f"{shown(path)} holds {len(header)} tensors, more than any real model.")
    return header


def _tensors(path: Path, header: dict[str, Any], file: int, start: int, available: int) -> dict[str, StoredTensor]:
    placed = []
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if end > available:
            raise ValidationFailed(
                f"{shown(path)} is incomplete: tensor {shown(name)} ends {end - available} bytes after the file."
            )
        if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
            raise ValidationFailed(
                f"{shown(path)} is damaged: tensor {shown(name)} of shape {list(shape)} in {dtype} does not take"
                f" {end - begin} bytes."
            )
        placed.append((begin, end, name))
        tensors[name] = StoredTensor(name, dtype, shape, file, start + begin)
    _check_cover(path, sorted(placed), available)
    return tensors


def _check_cover(path: Path, placed: list[tuple[int, int, str]], available: int) -> None:
    position = 0
    for begin, end, name in placed:
        if begin < position:
            raise ValidationFailed(f"{shown(path)} is damaged: tensor {shown(name)} overlaps another one.")
        if begin > position:
            raise ValidationFailed(f"{shown(path)} is damaged: nothing stands before tensor {shown(name)}.")
        position = end
    if position != available:
        raise ValidationFailed(
            f"{shown(path)} is damaged: its tensors take {position} bytes, and the file holds {available}."
        )


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one entry of the header."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers) or end < begin:
            raise ValueError(numbers)
        if len(shape) > 8:
            raise ValueError(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValidationFailed(f"{shown(path)} is damaged: it does not say where tensor {shown(name)} lies.") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValidationFailed(
            f"{shown(path)} holds tensor {shown(name)} in a type that is not known: {shown(str(dtype))}."
        )
    return dtype, shape, begin, end
