"""The one table of tensor types, and the two verbs on it.

Modules with the arithmetic of a family are imported on first use, and numpy with them, so that looking a type up costs
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float32]"
Bytes: TypeAlias = "npt.NDArray[np.uint8]"


class KernelError(ValueError):
    """Input that a kernel cannot take; the message says why, for a person."""


class NotFinite(KernelError):
    """The rows or the importance matrix hold NaN or infinity."""


class MissingImatrix(KernelError):
    """The type cannot be quantized without an importance matrix."""


class Codec(Protocol):
    """What a family module provides for one type, as a module-level object found by the type's name in `CODECS`."""

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack checked float32 rows (n, k), C order, into uint8 (n, row_bytes)."""

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""


@dataclass(frozen=True)
class TensorType:
    """One tensor type of ggml: how many weights a block holds and how many bytes it takes."""

    name: str
    ggml_id: int
    block_size: int
    block_bytes: int
    family: str
    needs_imatrix: bool = False
    quantized: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Average bits of one weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    def row_bytes(self, k: int) -> int:
        """Bytes of one packed row of `k` weights; KernelError if `k` is not a whole number of blocks."""
        if k % self.block_size:
            raise KernelError(f"a row of {k} weights is not a whole number of {self.name} blocks of {self.block_size}")
        return k // self.block_size * self.block_bytes


def _table() -> Mapping[str, TensorType]:
    rows = [
        # name, ggml id, weights and bytes of a block, module, needs an imatrix, is a quantized type
        ("F32", 0, 1, 4, "floats", False, False),
        ("F16", 1, 1, 2, "floats", False, False),
        ("BF16", 30, 1, 2, "floats", False, False),
        ("Q4_0", 2, 32, 18, "legacy", False, True),
        ("Q4_1", 3, 32, 20, "legacy", False, True),
        ("Q5_0", 6, 32, 22, "legacy", False, True),
        ("Q5_1", 7, 32, 24, "legacy", False, True),
        ("Q8_0", 8, 32, 34, "legacy", False, True),
        ("Q2_K", 10, 256, 84, "k_quants", False, True),
        ("Q3_K", 11, 256, 110, "k_quants", False, True),
        ("Q4_K", 12, 256, 144, "k_quants", False, True),
        ("Q5_K", 13, 256, 176, "k_quants", False, True),
        ("Q6_K", 14, 256, 210, "k_quants", False, True),
        ("IQ2_XXS", 16, 256, 66, "grid_quants", True, True),
        ("IQ2_XS", 17, 256, 74, "grid_quants", True, True),
        ("IQ3_XXS", 18, 256, 98, "grid_quants", False, True),
        ("IQ1_S", 19, 256, 50, "grid_quants", True, True),
        ("IQ4_NL", 20, 32, 18, "table_quants", False, True),
        ("IQ3_S", 21, 256, 110, "grid_quants", False, True),
        ("IQ2_S", 22, 256, 82, "grid_quants", False, True),
        ("IQ4_XS", 23, 256, 136, "table_quants", False, True),
        ("IQ1_M", 29, 256, 56, "grid_quants", False, True),
        ("TQ1_0", 34, 256, 54, "ternary", False, True),
        ("TQ2_0", 35, 256, 66, "ternary", False, True),
        ("MXFP4", 39, 32, 17, "float4", False, True),
        ("NVFP4", 40, 64, 36, "float4", False, True),
        ("Q1_0", 41, 128, 18, "few_bits", False, True),
        ("Q2_0", 42, 64, 18, "few_bits", False, True),
    ]
    return MappingProxyType({row[0]: TensorType(*row) for row in rows})


TYPES = _table()


def codec(name: str) -> Codec:
    """The arithmetic of the type `name`; KernelError for a name that is not in TYPES."""
    if name not in TYPES:
        raise KernelError(f"{name} is not a tensor type; known: {', '.join(TYPES)}")
    family = import_module(f".{TYPES[name].family}", __package__)
    return cast(Codec, family.CODECS[name])


def quantize(rows: Floats, name: str, imatrix: Floats | None = None) -> Bytes:
    """Pack rows into the type `name`.

    Args:
        rows: float32 (n, k), C order, finite; k a multiple of the type's block size.
        name: a key of TYPES.
        imatrix: float32 (k,), the importance of each column, finite and not negative; None for none.

    Returns:
        uint8 (n, TYPES[name].row_bytes(k)).

    Raises:
        KernelError: a wrong shape, dtype or name, NotFinite for NaN or infinity, MissingImatrix where one is needed.
    """
    kind = codec(name)
    if rows.dtype != "float32" or rows.ndim != 2 or not rows.flags.c_contiguous:
        raise KernelError(f"rows must be float32 (n, k) in C order, not {rows.dtype} {rows.shape}")
    TYPES[name].row_bytes(rows.shape[1])
    if not _finite(rows):
        raise NotFinite("the rows hold NaN or infinity")
    if imatrix is None:
        if TYPES[name].needs_imatrix:
            raise MissingImatrix(f"{name} cannot be quantized without an importance matrix")
    elif imatrix.dtype != "float32" or imatrix.shape != (rows.shape[1],):
        raise KernelError(f"the imatrix must be float32 ({rows.shape[1]},), not {imatrix.dtype} {imatrix.shape}")
    elif not _finite(imatrix):
        raise NotFinite("the importance matrix holds NaN or infinity")
    elif imatrix.size and imatrix.min() < 0:
        raise KernelError("the importance matrix holds negative values")
    return kind.quantize(rows, imatrix)


def dequantize(packed: Bytes, name: str, k: int) -> Floats:
    """Unpack uint8 (n, TYPES[name].row_bytes(k)) into float32 (n, k); KernelError for other shapes."""
    kind = codec(name)
    if packed.dtype != "uint8" or packed.ndim != 2 or packed.shape[1] != TYPES[name].row_bytes(k):
        raise KernelError(f"packed must be uint8 (n, {TYPES[name].row_bytes(k)}), not {packed.dtype} {packed.shape}")
    return kind.dequantize(packed, k)


def _finite(values: Floats) -> bool:
    """True if no value is NaN or infinite: either one makes the largest or the smallest not finite."""
    return values.size == 0 or (math.isfinite(values.max()) and math.isfinite(values.min()))
