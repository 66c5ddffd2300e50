"""Constants of the GGUF format, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...kernels import TYPES

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63
MAX_KEY_BYTES = 65535

STRING, ARRAY = 8, 9

SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
)
"""Number kinds of metadata values, as `struct` formats."""

KINDS: Mapping[str, int] = MappingProxyType(
    {
        "uint8": 0,
        "int8": 1,
        "uint16": 2,
        "int16": 3,
        "uint32": 4,
        "int32": 5,
        "float32": 6,
        "bool": 7,
        "string": STRING,
        "array": ARRAY,
        "uint64": 10,
        "int64": 11,
        "float64": 12,
    }
)
"""Kinds of metadata values by name."""


@dataclass(frozen=True)
class StoredType:
    """How a tensor type lies in a file: its number, and how many weights a block holds in how many bytes."""

    ggml_id: int
    block_size: int
    block_bytes: int

    def n_bytes(self, row_length: int, n_rows: int) -> int:
        """Bytes of `n_rows` rows; the row length is a multiple of the block."""
        return row_length // self.block_size * self.block_bytes * n_rows


_COPIED_ONLY = {
    "Q8_1": StoredType(9, 32, 36),
    "Q8_K": StoredType(15, 256, 292),
    "I8": StoredType(24, 1, 1),
    "I16": StoredType(25, 1, 2),
    "I32": StoredType(26, 1, 4),
    "I64": StoredType(27, 1, 8),
    "F64": StoredType(28, 1, 8),
}

STORED: Mapping[str, StoredType] = MappingProxyType(
    {name: StoredType(t.ggml_id, t.block_size, t.block_bytes) for name, t in TYPES.items()} | _COPIED_ONLY
)
"""Every tensor type that a file may hold, also those that are only ever copied."""

TYPE_NAMES: Mapping[int, str] = MappingProxyType({stored.ggml_id: name for name, stored in STORED.items()})


def padded(n_bytes: int, alignment: int) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`, a power of two."""
    return (n_bytes + alignment - 1) & -alignment
