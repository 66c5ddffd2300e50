"""What the k-quants share: sub-blocks as columns, sums in C's order, and C's rounding.

A batch of B super-blocks of 256 weights becomes an array (s, n): the s weights of a sub-block down the rows, the
n = B * 256 / s sub-blocks across the columns. Column j * B + b is sub-block j of super-block b, so that (n,) reshaped
to (256 / s, B) has the super-blocks as columns in turn. Sums down axis 0 then run over whole rows, weight after weight
in C's order, and numpy's result is C's, bit for bit.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy._core import umath

from .registry import Bytes, Floats

# The ufunc under np.clip where it can be had, without two layers of Python.
clip: Any = getattr(umath, "clip", np.clip)

Ints = npt.NDArray[np.int32]

SUPER = 256
"""Weights of a super-block."""

ROUNDABLE = np.float32(4194303.0)
"""Largest magnitude that `nearest` and `np.rint` round alike."""

_MAGIC = np.float32(12582912.0)


def to_columns(blocks: Floats, s: int) -> Floats:
    """Super-blocks (B, 256) as columns (s, 256 / s * B) of sub-blocks."""
    columns = aligned((s, SUPER // s * len(blocks)))
    columns.reshape(s, SUPER // s, -1)[...] = blocks.reshape(-1, SUPER // s, s).transpose(2, 1, 0)
    return columns


def aligned(shape: tuple[int, ...]) -> Floats:
    """An uninitialized float32 array that starts on a cache line, as wide loads like it."""
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def dot(a: Floats, b: Floats, out: Floats | None = None) -> Floats:
    """Sum down each column of a * b: rounded product, then rounded sum, weight after weight."""
    return _einsum("ij,ij->j", a, b, out=out)


def dot3(a: Floats, b: Floats, c: Floats, out: Floats | None = None) -> Floats:
    """Sum down each column of (a * b) * c."""
    return _einsum("ij,ij,ij->j", a, b, c, out=out)


def super_dot(a: Floats, b: Floats) -> Floats:
    """Sum (B,) over whole super-blocks of a * b, both columns (s, n), weight after weight in C's order."""
    product = a * b
    s = len(product)
    in_order = product.reshape(s, SUPER // s, -1).transpose(1, 0, 2).reshape(SUPER, -1)
    return cast(Floats, np.add.reduce(in_order, axis=0))


def nearest(x: Floats) -> Ints:
    """C's `nearest_int`: round half to even by adding 1.5 * 2^23 and reading the mantissa.

    Outside +-4194303 C reads the same bits, so that NaN gives 0 and infinity -4194304; so does this.
    """
    mantissa: Ints = (x + _MAGIC).view(np.int32) & np.int32(0x007FFFFF)
    mantissa -= np.int32(0x00400000)
    return mantissa


def round_in_place(x: Floats) -> None:
    """`nearest` as float32, in place; quick where no value is out of range."""
    if x.size and max(np.maximum.reduce(x, axis=None), -np.minimum.reduce(x, axis=None)) <= ROUNDABLE:
        np.rint(x, out=x)
    else:
        x[...] = nearest(x)


def half(x: Floats) -> Floats:
    """Float32 rounded to float16 and back: what the decoder will read."""
    return x.astype(np.float16).astype(np.float32)


def read_half(packed: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block (B, bytes), as float32 (B, 1)."""
    return np.ascontiguousarray(packed[:, at : at + 2]).view("<f2").astype(np.float32)


def half_bytes(x: Floats) -> Bytes:
    """Float32 (B,) as the little-endian bytes (B, 2) of float16."""
    return x.astype("<f2").view(np.uint8).reshape(-1, 2)


def first_largest(x: Floats) -> Floats:
    """The element of largest magnitude in each column, sign and all; the first one of equals. NaN never counts."""
    high, low = np.fmax.reduce(x, axis=0), np.fmin.reduce(x, axis=0)
    largest: Floats = low.copy()
    np.copyto(largest, high, where=high > -low)
    tied = np.flatnonzero(high == -low)
    first = np.fmax(np.abs(x[:, tied]), np.float32(-1)).argmax(axis=0)
    largest[tied] = x[first, tied]
    return largest


def thirty_twos(columns: Bytes) -> Bytes:
    """Columns (16, n) of sub-blocks as (8, 32, B): weight 32 g + l of each super-block at [g, l]."""
    grouped: Bytes = columns.reshape(16, 8, 2, -1).transpose(1, 2, 0, 3).reshape(8, 32, -1)
    return grouped


def gather_quarters(columns: Bytes) -> Bytes:
    """Two-bit values in columns (16, n) as bytes (B, 64): weight 128 h + 32 g + l in bits 2 g, 2 g + 1 of 32 h + l."""
    q = thirty_twos(columns).reshape(2, 4, 32, -1)
    packed: Bytes = (q[:, 0] | q[:, 1] << 2 | q[:, 2] << 4 | q[:, 3] << 6).reshape(64, -1).T
    return packed


def split_quarters(packed: Bytes) -> Bytes:
    """The inverse of `gather_quarters`, in the order of the weights: bytes (B, 64) as values (B, 256)."""
    values: Bytes = packed.reshape(-1, 2, 1, 32) >> _QUARTERS & np.uint8(3)
    return values.reshape(-1, SUPER)


_QUARTERS = np.array([[0], [2], [4], [6]], np.uint8)


def _multiply_then_reduce(subscripts: str, *factors: Floats, out: Floats | None = None) -> Floats:
    """What `einsum` gives for the sums above, where einsum itself fuses or reorders."""
    product = factors[0] * factors[1]
    for factor in factors[2:]:
        product *= factor
    return cast(Floats, np.add.reduce(product, axis=0, out=out))


def _einsum_is_exact() -> bool:
    """True if einsum rounds each product and each sum, as wheels for x86-64 do; builds with FMA do not."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 32, 257)).astype(np.float32)
    return all(
        np.array_equal(np.einsum(subscripts, *factors), _multiply_then_reduce(subscripts, *factors))
        for subscripts, factors in (("ij,ij->j", (a, b)), ("ij,ij,ij->j", (a, b, c)))
    )


_einsum = np.einsum if _einsum_is_exact() else _multiply_then_reduce
