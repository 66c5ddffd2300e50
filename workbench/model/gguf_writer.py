"""Writing the header of a GGUF file, byte for byte as libggml does."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .gguf_format import DEFAULT_ALIGNMENT, MAGIC, STORED, VERSION, padded
from .gguf_values import array, value
from .model import Value

__all__ = ["Header", "array", "value", "write_header"]


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
    tensors: Iterable[tuple[str, tuple[int, ...], str]],
    alignment: int = DEFAULT_ALIGNMENT,
) -> Header:
    """The header of a file with these tensors, each (name, shape in ggml's order, type), in this order.

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
        stored = STORED[type_name]
        parts += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, stored.ggml_id, offset)]
        offsets.append(offset)
        sizes.append(stored.n_bytes(shape[0], math.prod(shape[1:])))
        offset += padded(sizes[-1], alignment)
    content = b"".join(parts)
    content += bytes(padded(len(content), alignment) - len(content))
    absolute = tuple(len(content) + relative for relative in offsets)
    return Header(content, absolute, tuple(sizes), len(content) + offset)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded
