"""Importance matrices: sums of squared activations per input column, as llama.cpp's tools write and read them.

Two forms: GGUF (`general.type` = imatrix; per weight `NAME.in_sum2`, shape (n_in, n_counts), and `NAME.counts`, shape
(1, n_counts), both F32) and the legacy .dat (little-endian int32 and float32: n, then per entry length, name, ncall,
nval, values = sum / count x ncall; then chunks, length, data set). Files are hostile until proven otherwise.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import BadArgument, QuantdeckError, ValidationFailed
from .files import write_atomically
from .model import Tensor, array, value, write_header
from .model.gguf import GgufFile, open_file, read_gguf
from .text import printable

if TYPE_CHECKING:
    from .recipe import ImatrixFacts

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_LONGEST_NAME = 4096
_LONGEST_DATASET = 1 << 20
_MOST_ENTRIES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Sums of one weight's inputs: `sums` float32 (n_counts, n), `counts` int64 (n_counts,), in rows of activations.

    n_counts is the number of experts, or 1 for a dense weight, whatever its number of matrices.
    """

    sums: Floats
    counts: Counts

    def weights(self) -> Floats:
        """Mean squares, shape of `sums`; ones for experts that were never reached (llama-quantize's load_imatrix)."""
        counts = self.counts.astype(np.float32)[:, None]
        reached = counts > 0
        return np.where(reached, self.sums / np.where(reached, counts, 1), np.float32(1)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix in memory. `chunk_size` in tokens, 0 where the file does not say (legacy).

    `extra` holds further metadata of a GGUF, as strings.
    """

    entries: Mapping[str, Entry] = field(repr=False)
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    def weights_for(self, tensor: Tensor) -> Floats | None:
        """Importance float32 (n_matrices, n_in) of a weight, None where the matrix does not cover it.

        Raises:
            BadArgument: the entry is for a weight of another shape: the matrix belongs to another model.
            ValidationFailed: it holds values that are not numbers.
        """
        entry = self.entries.get(tensor.name)
        return None if entry is None else _weights_for(entry, tensor)


class ImatrixFile:
    """An importance matrix on disk, one entry in memory at a time: with many experts all of them take gigabytes.

    `ImatrixFile(path)` raises ModelNotFound or ValidationFailed; so do `entry` and `weights_for` if the file changes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with os.fdopen(open_file(path), "rb") as file:
            is_gguf = file.read(4) == b"GGUF"
            self._index = _gguf_index(path) if is_gguf else _legacy_index(path, file)
        self.datasets = self._index.datasets
        self.chunk_count = self._index.chunk_count
        self.chunk_size = self._index.chunk_size
        self.extra = self._index.extra

    @property
    def names(self) -> frozenset[str]:
        """The weights that it covers."""
        return frozenset(self._index.places)

    def facts(self) -> ImatrixFacts:
        """What a recipe must know of it."""
        from .recipe import ImatrixFacts

        dataset = self.datasets[0] if self.datasets else ""
        return ImatrixFacts(str(self.path), self.names, dataset, self.chunk_count)

    def entry(self, name: str) -> Entry:
        """Sums and counts of one weight; KeyError if it is not covered."""
        place = self._index.places[name]
        with os.fdopen(open_file(self.path), "rb") as file:
            sums = _floats(self.path, file, place.sums, place.n_sums)
            if place.counts is None:
                counts = np.array([place.n_calls], np.int64)
            else:
                counts = _whole_numbers(self.path, name, _floats(self.path, file, place.counts, place.n_counts))
        return Entry(sums.reshape(len(counts), -1), counts)

    def weights_for(self, tensor: Tensor) -> Floats | None:
        """As `Imatrix.weights_for`."""
        return _weights_for(self.entry(tensor.name), tensor) if tensor.name in self._index.places else None


def read_imatrix(path: Path) -> Imatrix:
    """All of a file, GGUF or legacy; errors as `ImatrixFile`."""
    file = ImatrixFile(path)
    return Imatrix(
        {name: file.entry(name) for name in sorted(file.names)},
        file.datasets,
        file.chunk_count,
        file.chunk_size,
        file.extra,
    )


def write_imatrix(path: Path, imatrix: Imatrix, durable: bool = True) -> None:
    """Write the GGUF form, byte for byte as llama-imatrix would with these sums; atomically.

    Not `durable`: it survives our death, but perhaps not the machine's; for states that are written again and again.
    """
    metadata = {
        "general.type": value("string", "imatrix"),
        "imatrix.datasets": array("string", imatrix.datasets),
        "imatrix.chunk_count": value("uint32", imatrix.chunk_count),
        "imatrix.chunk_size": value("uint32", imatrix.chunk_size),
        **{key: value("string", text) for key, text in imatrix.extra.items()},
    }
    tensors: list[tuple[str, tuple[int, ...], str]] = []
    contents: list[npt.NDArray[np.float32]] = []
    for name in sorted(imatrix.entries):
        entry = imatrix.entries[name]
        tensors.append((name + _SUMS, (entry.sums.shape[1], entry.sums.shape[0]), "F32"))
        tensors.append((name + _COUNTS, (1, len(entry.counts)), "F32"))
        contents += [entry.sums, entry.counts.astype(np.float32)]
    header = write_header(metadata, tensors)
    content = bytearray(header.total_size)
    content[: header.data_offset] = header.content
    for offset, numbers in zip(header.offsets, contents, strict=True):
        content[offset : offset + numbers.nbytes] = np.ascontiguousarray(numbers).astype("<f4", copy=False).tobytes()
    if durable:
        write_atomically(path, bytes(content))
        return
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(content)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def write_legacy_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the .dat form of older tools, as llama-imatrix `--output-format dat` does; atomically."""
    chunk_size = max(1, imatrix.chunk_size)
    parts = []
    for name in sorted(imatrix.entries):
        entry = imatrix.entries[name]
        highest = int(entry.counts.max(initial=0))
        if highest <= 0:
            continue
        n_calls = -(-highest // chunk_size)
        encoded = name.encode("utf-8", "surrogateescape")
        values = (entry.weights() * np.float32(n_calls)).astype("<f4", copy=False)
        parts.append(struct.pack("<i", len(encoded)) + encoded + struct.pack("<ii", n_calls, values.size))
        parts.append(values.tobytes())
    dataset = (imatrix.datasets[-1] if imatrix.datasets else "").encode("utf-8", "surrogateescape")
    tail = struct.pack("<ii", imatrix.chunk_count, len(dataset)) + dataset
    write_atomically(path, struct.pack("<i", len(parts) // 2) + b"".join(parts) + tail)


@dataclass(frozen=True)
class _Place:
    """Where an entry lies: byte positions and numbers of floats. Legacy entries have no counts but `n_calls`."""

    sums: int
    n_sums: int
    counts: int | None = None
    n_counts: int = 1
    n_calls: int = 1


@dataclass(frozen=True)
class _Index:
    places: dict[str, _Place]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    extra: Mapping[str, str] = field(default_factory=dict)


def _gguf_index(path: Path) -> _Index:
    file = read_gguf(path)
    keys = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
    if missing := [key for key in keys if key not in file.metadata]:
        raise _bad(path, f"it is a GGUF file, but no importance matrix: it has no {missing[0]}")
    datasets, count, size = (file.metadata[key].python for key in keys)
    if not isinstance(datasets, list) or not all(isinstance(dataset, str) for dataset in datasets):
        raise _bad(path, "its list of data sets is not a list of names")
    if not isinstance(count, int) or not isinstance(size, int):
        raise _bad(path, "its chunk count or size is not a number")
    others = {key: file.metadata[key].python for key in file.metadata.keys() - {*keys, "general.type"}}
    extra = {key: text for key, text in others.items() if isinstance(text, str)}
    return _Index(_gguf_places(path, file), tuple(datasets), count, size, extra)


def _gguf_places(path: Path, file: GgufFile) -> dict[str, _Place]:
    tensors = {tensor.name: tensor for tensor in file.tensors}
    places = {}
    for name, sums in tensors.items():
        if not name.endswith(_SUMS):
            continue
        weight = name.removesuffix(_SUMS)
        counts = tensors.get(weight + _COUNTS)
        if counts is None:
            raise _bad(path, f"the sums of {printable(weight)} have no counts")
        if {sums.type, counts.type} != {"F32"}:
            raise _bad(path, f"sums and counts of {printable(weight)} are not F32")
        if sums.n_weights % counts.n_weights:
            raise _bad(path, f"{printable(weight)} has {sums.n_weights} sums for {counts.n_weights} counts")
        places[weight] = _Place(sums.offset, sums.n_weights, counts.offset, counts.n_weights)
    if orphans := [n for n in tensors if n.endswith(_COUNTS) and n.removesuffix(_COUNTS) not in places]:
        raise _bad(path, f"the counts {printable(orphans[0])} have no sums")
    if not places:
        raise _bad(path, "it holds no sums")
    return places


def _legacy_index(path: Path, file: BinaryIO) -> _Index:
    reader = _Legacy(path, file)
    n_entries = reader.integer()
    # An entry takes at least 17 bytes: three numbers, a letter and a value.
    if not 1 <= n_entries <= _MOST_ENTRIES or n_entries * 17 > reader.size:
        raise reader.not_one()
    places: dict[str, _Place] = {}
    for _ in range(n_entries):
        name = reader.text(_LONGEST_NAME)
        n_calls, n_values = reader.integer(), reader.integer()
        if not name or n_values < 1:
            raise reader.not_one()
        # ncall of 0 means that the values are means already.
        places[name] = _Place(reader.skip_floats(n_values), n_values, n_calls=max(1, n_calls))
    if reader.at_end():
        return _Index(places, (), 0, 0)
    chunks = reader.integer()
    dataset = "" if reader.at_end() else reader.text(_LONGEST_DATASET)
    return _Index(places, (dataset,) if dataset else (), max(0, chunks), 0)


class _Legacy:
    """One pass over a .dat file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = file.seek(0, 2)
        file.seek(0)

    def integer(self) -> int:
        return int(struct.unpack("<i", self._bytes(4))[0])

    def text(self, longest: int) -> str:
        length = self.integer()
        if not 0 <= length <= longest:
            raise self.not_one()
        return self._bytes(length).split(b"\0")[0].decode("utf-8", "surrogateescape")

    def skip_floats(self, count: int) -> int:
        start = self.file.tell()
        if start + 4 * count > self.size:
            raise _bad(self.path, "it is truncated")
        self.file.seek(start + 4 * count)
        return start

    def at_end(self) -> bool:
        return self.file.tell() >= self.size

    def not_one(self) -> QuantdeckError:
        return _bad(self.path, "it is neither a GGUF nor a .dat importance matrix")

    def _bytes(self, length: int) -> bytes:
        content = self.file.read(length)
        if len(content) < length:
            raise _bad(self.path, "it is truncated, or no importance matrix")
        return content


def _floats(path: Path, file: BinaryIO, position: int, count: int) -> Floats:
    file.seek(position)
    content = file.read(4 * count)
    if len(content) < 4 * count:
        raise _bad(path, "it has become shorter since its header was read")
    return np.frombuffer(content, "<f4").astype(np.float32, copy=False)


def _whole_numbers(path: Path, name: str, counts: Floats) -> Counts:
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts > 2.0**62).any():
        raise _bad(path, f"the counts of {printable(name)} are not numbers of tokens")
    return np.floor(counts.astype(np.float64) + 0.5).astype(np.int64)


def _weights_for(entry: Entry, tensor: Tensor) -> Floats | None:
    n_matrices = tensor.shape[2] if len(tensor.shape) > 2 else 1
    expected = tensor.row_length * n_matrices
    shown = printable(tensor.name)
    if entry.sums.size != expected or math.prod(tensor.shape[3:]) != 1:
        if tensor.name == "token_embd.weight":
            return None
        raise BadArgument(
            f"The importance matrix belongs to another model: it has {entry.sums.size} values for {shown}, "
            f"which needs {expected}; calibrate this model itself."
        )
    weights = entry.weights()
    if not np.isfinite(weights).all():
        raise ValidationFailed(f"The importance matrix holds values for {shown} that are not numbers; calibrate again.")
    return np.ascontiguousarray(weights.reshape(n_matrices, tensor.row_length))


def _bad(path: Path, what: str) -> QuantdeckError:
    return ValidationFailed(f"{printable(str(path))} cannot be used as an importance matrix: {what}.")
