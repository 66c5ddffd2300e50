"""Writing the headers of GGUF files, byte for byte as libggml and llama.cpp's gguf-split do."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .gguf_format import DEFAULT_ALIGNMENT, MAGIC, STORED, VERSION, padded
from .gguf_values import array, value
from .model import Value

__all__ = ["Header", "array", "value", "write_header", "write_headers"]

Layout = tuple[str, tuple[int, ...], str]
"""A tensor as a header holds it: name, shape in ggml's order, type."""


@dataclass(frozen=True)
class Header:
    """A complete header: the file is `content`, then each tensor at its absolute offset, zeros between them.

    `sizes` are bytes of the tensors without padding; `total_size` includes the padding after the last one.
    """

    content: bytes = field(repr=False)
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    total_size: int

    @property
    def data_offset(self) -> int:
        """Where the weights begin."""
        return len(self.content)


def write_header(
    metadata: Mapping[str, Value],
    tensors: Iterable[Layout],
    alignment: int = DEFAULT_ALIGNMENT,
) -> Header:
    """The header of a file with these tensors, in this order.

    `metadata` must hold `general.alignment` where `alignment` is not 32, or no reader finds the weights.
    """
    tensors = list(tensors)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, item in metadata.items():
        parts += [_string(key), struct.pack("<I", item.kind), item.raw]
    offset, offsets, sizes = 0, [], []
    for name, full_shape, type_name in tensors:
        shape = full_shape
        # As ggml: last dimensions of one are not counted.
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        kind = STORED[type_name].ggml_id
        parts += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)]
        offsets.append(offset)
        sizes.append(_n_bytes(shape, type_name))
        offset += padded(sizes[-1], alignment)
    content = b"".join(parts)
    content += bytes(padded(len(content), alignment) - len(content))
    absolute = tuple(len(content) + relative for relative in offsets)
    return Header(content, absolute, tuple(sizes), len(content) + offset)


def write_headers(
    metadata: Mapping[str, Value], tensors: Iterable[Layout], max_bytes: int | None = None
) -> tuple[Header, ...]:
    """The header of one file or, with `max_bytes`, those of as many files as llama.cpp's gguf-split makes of it.

    As there, `max_bytes` holds for the tensors of a file with their padding, its header not counted; a tensor that is
    larger has a file of its own. The first file holds all metadata, the others only which one they are.
    """
    given = metadata.get("general.alignment")
    alignment = given.python if given else DEFAULT_ALIGNMENT
    if max_bytes is None:
        return (write_header(metadata, tensors, alignment),)
    tensors = list(tensors)
    files = _cut(tensors, max_bytes, alignment)
    headers = []
    for number, chosen in enumerate(files):
        shard = {
            "split.no": value("uint16", number),
            "split.tensors.count": value("int32", len(tensors)),
            "split.count": value("uint16", len(files)),
        }
        if number == 0:
            headers.append(write_header({**metadata, **shard}, chosen, alignment))
        else:
            headers.append(write_header(shard, chosen))
    return tuple(headers)


def _cut(tensors: Iterable[Layout], max_bytes: int, alignment: int) -> list[list[Layout]]:
    files: list[list[Layout]] = [[]]
    filled = 0
    for tensor in tensors:
        _, shape, type_name = tensor
        n_bytes = padded(_n_bytes(shape, type_name), alignment)
        if files[-1] and filled + n_bytes > max_bytes:
            files.append([])
            filled = 0
        files[-1].append(tensor)
        filled += n_bytes
    return files


def _n_bytes(shape: tuple[int, ...], type_name: str) -> int:
    return STORED[type_name].n_bytes(shape[0], math.prod(shape[1:]))


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded
