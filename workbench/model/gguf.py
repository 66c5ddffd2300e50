"""Reading the headers of GGUF files: a small strict parser.

A file is hostile until proven otherwise: every count, length, offset and product is held against the size of the file
before anything is allocated for it. Only the header is read, in growing pieces.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import ModelNotFound, QuantdeckError, ValidationFailed
from ..shards import SHARD_NAME, shard_path
from .gguf_format import (
    ARRAY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    SCALARS,
    STORED,
    STRING,
    TYPE_NAMES,
    VERSION,
    padded,
)
from .model import Model, Tensor, Value
from .wording import shown

MAX_HEADER = 256 << 20
"""Bytes of the largest header that is read; a vocabulary of 256,000 words with its merges takes about 20 MB."""

MAX_VALUES, MAX_TENSORS = 100_000, 200_000
"""Real models hold some dozens of values and, with each expert on its own, up to 50,000 tensors."""

MAX_ALIGNMENT = 1 << 20

_LFS_POINTER = b"vers"
_PIECE = 1 << 20


ReadPiece = Callable[[int, int], bytes]
"""(bytes wanted, position) -> some of them, at least one; nothing at the end of the file."""


class NoSuchFile(ModelNotFound):
    """Nothing lies where a file was named."""


@dataclass(frozen=True)
class GgufFile:
    """What one GGUF file holds, without its weights; `Tensor.offset` is absolute."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read the header of one GGUF file, whatever it is for: model, shard of a model, importance matrix.

    Raises:
        ModelNotFound: nothing there, not a regular file, or not readable.
        ValidationFailed: the file is not a GGUF, is damaged, or says things about itself that cannot be.
    """
    descriptor = open_file(path)
    try:
        return parse_gguf(path, os.fstat(descriptor).st_size, partial(os.pread, descriptor))
    except OSError as error:
        raise ModelNotFound(f"{shown(path)} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def parse_gguf(path: Path, n_bytes: int, read: ReadPiece) -> GgufFile:
    """The header of a GGUF file of `n_bytes` wherever it lies: `read` gets pieces of it, `path` names it in sentences.

    ValidationFailed as `read_gguf`.
    """
    return _Parser(path, n_bytes, read).parse()


def read_gguf_model(path: Path, read_file: Callable[[Path], GgufFile] = read_gguf) -> Model:
    """Read a model from a GGUF file; for any one shard of a split model, from all of its shards.

    `read_file` reads each of the files, for models that do not lie on this machine.

    Raises:
        ModelNotFound: as `read_gguf`, and for a shard that is missing.
        ValidationFailed: as `read_gguf`, and for shards that do not belong together or a file that is not a model.
    """
    file = read_file(path)
    files = _all_shards(file, read_file)
    first = files[0]
    if "general.architecture" not in first.metadata:
        raise ValidationFailed(f"{shown(path)} is a GGUF file, but not a model: it does not name its architecture.")
    architecture = first.metadata["general.architecture"].python
    if not isinstance(architecture, str):
        raise ValidationFailed(f"{shown(path)} does not name its architecture in words.")
    tensors = tuple(replace(t, file=i) for i, shard in enumerate(files) for t in shard.tensors)
    if len({t.name for t in tensors}) != len(tensors):
        raise ValidationFailed(f"{shown(path)} is damaged: two of its shards hold a tensor of the same name.")
    return Model(first.path, "gguf", architecture, first.metadata, tensors, tuple(shard.path for shard in files))


def _all_shards(file: GgufFile, read_file: Callable[[Path], GgufFile]) -> list[GgufFile]:
    count = _integer(file, "split.count")
    if count <= 1:
        return [file]
    match = SHARD_NAME.fullmatch(file.path.name)
    if not match or int(match["count"]) != count:
        raise ValidationFailed(
            f"{shown(file.path)} is one of {count} shards, but is not named like one (NAME-00001-of-{count:05}.gguf)."
        )
    shards = []
    for number in range(1, count + 1):
        path = shard_path(file.path.parent, match["stem"], number, count)
        try:
            shard = file if path == file.path else read_file(path)
        except NoSuchFile:
            raise ModelNotFound(
                f"Shard {number} of {count} is missing: {shown(path)} must lie beside the others."
            ) from None
        if (_integer(shard, "split.count"), _integer(shard, "split.no")) != (count, number - 1):
            raise ValidationFailed(f"{shown(path)} does not hold shard {number} of {count}, as its name says.")
        shards.append(shard)
    found, expected = sum(len(shard.tensors) for shard in shards), _integer(shards[0], "split.tensors.count")
    if found != expected:
        raise ValidationFailed(f"{shown(file.path)} and its other shards hold {found} tensors instead of {expected}.")
    return shards


def _integer(file: GgufFile, key: str) -> int:
    value = file.metadata.get(key)
    number = 0 if value is None or value.kind == ARRAY else value.python
    if not isinstance(number, int):
        raise ValidationFailed(f"{shown(file.path)} is damaged: {key} is not a number.")
    return number


def open_file(path: Path) -> int:
    """A descriptor of a regular file, opened for reading; ModelNotFound for anything else."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelNotFound(_about_folder(path))
        if not stat.S_ISREG(mode):
            raise ModelNotFound(f"{shown(path)} is not a file but a pipe, device or socket.")
        # Without O_NONBLOCK, a pipe that takes the file's place just now would block for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise NoSuchFile(f"There is no file {shown(path)}.") from None
    except PermissionError:
        raise ModelNotFound(f"{shown(path)} cannot be read: you have no permission.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelNotFound(f"{shown(path)} cannot be opened: {reason}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelNotFound(f"{shown(path)} is not a file.")
    return descriptor


def read_fully(descriptor: int, path: Path, offset: int, target: memoryview) -> None:
    """Fill `target` with what an open model file holds from `offset` on.

    Raises:
        ValidationFailed: the disk did not give it, or the file ends before.
    """
    done = 0
    while done < len(target):
        try:
            got = os.preadv(descriptor, [target[done:]], offset + done)
        except OSError as error:
            raise ValidationFailed(f"{shown(path)} cannot be read: {error.strerror}; check its disk.") from error
        if got == 0:
            raise ValidationFailed(f"{shown(path)} has become shorter since its header was read.")
        done += got


def _about_folder(path: Path) -> str:
    inside = sorted(p.name for p in path.glob("*.gguf") if not p.name.startswith("."))[:5]
    hint = f"name a file in it, such as {', '.join(map(shown, inside))}" if inside else "it holds no .gguf file"
    return f"{shown(path)} is a folder; {hint}."


class _Parser:
    """One pass over the header of one file."""

    def __init__(self, path: Path, n_bytes: int, read: ReadPiece) -> None:
        self.path = path
        self.size = n_bytes
        self.read = read
        self.buffer = bytearray()
        self.position = 0
        self.doing = "its first bytes"

    def parse(self) -> GgufFile:
        n_tensors, n_values = self._preamble()
        metadata = self._metadata(n_values)
        alignment = self._alignment(metadata)
        tensors = self._tensors(n_tensors)
        return GgufFile(self.path, metadata, self._placed(tensors, alignment))

    def _preamble(self) -> tuple[int, int]:
        if self.size == 0:
            raise ValidationFailed(f"{shown(self.path)} is empty.")
        magic = self._bytes(4)
        if magic == _LFS_POINTER:
            raise ValidationFailed(
                f"{shown(self.path)} is a Git LFS pointer, not the model: download the file itself (git lfs pull)."
            )
        if magic != MAGIC:
            raise ValidationFailed(f"{shown(self.path)} is not a GGUF file: it does not begin with the letters GGUF.")
        version = self._number("<I")
        if version and version & 0xFFFF == 0:
            raise self._bad("it was written for big-endian machines, which is not supported")
        if version not in (2, VERSION):
            raise self._bad(f"it has version {version} of the format, and only 2 and {VERSION} are supported")
        n_tensors, n_values = self._number("<Q"), self._number("<Q")
        # A value takes at least 13 bytes (key of one byte, kind, one byte), a tensor 25 (empty name, no dimensions).
        if n_values * 13 + n_tensors * 25 > self.size:
            raise self._bad(f"it claims {n_values} metadata values and {n_tensors} tensors, more than it has room for")
        if n_values > MAX_VALUES or n_tensors > MAX_TENSORS:
            raise self._bad(f"it holds {n_values} metadata values and {n_tensors} tensors, more than any real model")
        return n_tensors, n_values

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for number in range(count):
            self.doing = f"metadata value {number + 1} of {count}"
            key = self._key()
            if not key or key in metadata:
                raise self._bad(f"it holds the metadata key {shown(key)} twice" if key else "it holds an empty key")
            self.doing = f"the metadata value {shown(key)}"
            kind = self._number("<I")
            start = self.position
            self._skip_value(kind)
            metadata[key] = Value(kind, bytes(memoryview(self.buffer)[start : self.position]))
        return metadata

    def _skip_value(self, kind: int) -> None:
        if kind in SCALARS:
            self._skip(struct.calcsize(SCALARS[kind]))
        elif kind == STRING:
            self._skip(self._number("<Q"))
        elif kind == ARRAY:
            element, count = self._number("<I"), self._number("<Q")
            if element in SCALARS:
                self._skip(count * struct.calcsize(SCALARS[element]))
            elif element == STRING:
                self._skip_strings(count)
            else:
                raise self._bad(f"{self.doing} is a list of things of unknown kind {element}")
        else:
            raise self._bad(f"{self.doing} has the unknown kind {kind}")

    def _skip_strings(self, count: int) -> None:
        if count * 8 > self.size - self.position:
            raise self._truncated()
        length = struct.Struct("<Q").unpack_from
        position, end = self.position, len(self.buffer)
        for _ in range(count):
            if position + 8 > end:
                self._need(position + 8)
                end = len(self.buffer)
            position += 8 + length(self.buffer, position)[0]
        self._need(position)
        self.position = position

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        value = metadata.get("general.alignment")
        if value is None:
            return DEFAULT_ALIGNMENT
        alignment = value.python if value.kind == 4 else 0
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._bad("its general.alignment is not a power of two of sensible size")
        return int(alignment)

    def _tensors(self, count: int) -> list[Tensor]:
        tensors: dict[str, Tensor] = {}
        for number in range(count):
            self.doing = f"the description of tensor {number + 1} of {count}"
            length = self._number("<Q")
            if length > MAX_NAME_BYTES:
                raise self._bad(f"the name of tensor {number + 1} has {length} bytes, and {MAX_NAME_BYTES} are allowed")
            name = self._bytes(length).decode("utf-8", "surrogateescape")
            if not name or "\0" in name or name in tensors:
                what = "twice" if name in tensors else "which is no name"
                raise self._bad(f"it holds a tensor {shown(name)}, {what}")
            tensors[name] = self._tensor(name)
        return list(tensors.values())

    def _tensor(self, name: str) -> Tensor:
        named = f"tensor {shown(name)}"
        n_dimensions = self._number("<I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._bad(f"{named} has {n_dimensions} dimensions, and 1 to {MAX_DIMENSIONS} are allowed")
        shape = struct.unpack(f"<{n_dimensions}Q", self._bytes(8 * n_dimensions))
        if not all(shape):
            raise self._bad(f"{named} has a dimension of length zero")
        # ggml does not count last dimensions of one, nor writes them.
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        number = self._number("<I")
        if number not in TYPE_NAMES:
            raise self._bad(f"{named} has the unknown type {number}; a newer version may know it")
        type_name = TYPE_NAMES[number]
        stored = STORED[type_name]
        if shape[0] % stored.block_size:
            raise self._bad(
                f"{named} has rows of {shape[0]}, not a multiple of {stored.block_size} as {type_name} needs"
            )
        n_bytes = stored.n_bytes(shape[0], math.prod(shape[1:]))
        if n_bytes > self.size:
            raise self._bad(f"{named} is larger than the whole file; the file is truncated or damaged")
        return Tensor(name, shape, type_name, n_bytes, offset=self._number("<Q"))

    def _placed(self, tensors: list[Tensor], alignment: int) -> tuple[Tensor, ...]:
        """The tensors with absolute offsets. llama.cpp demands that they lie in order, without gaps but for padding."""
        start = padded(self.position, alignment)
        offset, placed = 0, []
        for tensor in tensors:
            named = f"tensor {shown(tensor.name)}"
            if tensor.offset != offset:
                raise self._bad(f"{named} begins at byte {tensor.offset} of the weights instead of {offset}")
            if start + offset + tensor.n_bytes > self.size:
                raise self._bad(f"{named} reaches beyond the end of the file, which is truncated")
            placed.append(replace(tensor, offset=start + offset))
            offset += padded(tensor.n_bytes, alignment)
        return tuple(placed)

    def _need(self, end: int) -> None:
        """Have the first `end` bytes of the file in the buffer."""
        if end > self.size:
            raise self._truncated()
        if end > MAX_HEADER:
            raise self._bad(f"its header is larger than {MAX_HEADER >> 20} MiB")
        while len(self.buffer) < end:
            want = min(max(end - len(self.buffer), _PIECE, len(self.buffer)), 16 * _PIECE)
            piece = self.read(want, len(self.buffer))
            if not piece:
                raise self._truncated()
            self.buffer += piece

    def _skip(self, length: int) -> None:
        self._need(self.position + length)
        self.position += length

    def _bytes(self, length: int) -> bytes:
        start = self.position
        self._skip(length)
        return bytes(self.buffer[start : self.position])

    def _number(self, layout: str) -> int:
        start = self.position
        self._skip(struct.calcsize(layout))
        return int(struct.unpack_from(layout, self.buffer, start)[0])

    def _key(self) -> str:
        length = self._number("<Q")
        if length > MAX_KEY_BYTES:
            self._need(self.position + length)
            raise self._bad(f"a metadata key of {length} bytes is longer than the {MAX_KEY_BYTES} that are allowed")
        return self._bytes(length).decode("utf-8", "surrogateescape")

    def _truncated(self) -> QuantdeckError:
        return ValidationFailed(f"{shown(self.path)} is truncated or damaged: it ends within {self.doing}.")

    def _bad(self, what: str) -> QuantdeckError:
        return ValidationFailed(f"{shown(self.path)} cannot be used: {what}.")
