"""What the k-quants share: sub-blocks as columns, sums in C's order, and C's rounding.

A chunk of B super-blocks of 256 weights becomes an array (s, n): the s weights of a sub-block down the rows, the
n = B * 256 / s sub-blocks across the columns. Column j * B + b is sub-block j of super-block b, so that (n,) reshaped to
(256 / s, B) has the super-blocks as columns in turn. Sums down axis 0 then run over whole rows, weight after weight in
C's order, and numpy's result is C's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .registry import Bytes, Floats

Ints = npt.NDArray[np.int32]

SUPER = 256
"""Weights of a super-block."""

ROUNDABLE = np.float32(4194303.0)
"""Largest magnitude that `nearest` and `np.rint` round alike."""

_MAGIC = np.float32(12582912.0)


def chunks(blocks: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` over `blocks` super-blocks."""
    return (slice(start, min(start + size, blocks)) for start in range(0, blocks, size))


def to_columns(blocks: Floats, s: int) -> Floats:
    """Super-blocks (B, 256) as columns (s, 256 / s * B) of sub-blocks."""
    return np.ascontiguousarray(blocks.reshape(-1, SUPER // s, s).transpose(2, 1, 0)).reshape(s, -1)


def tiled(imatrix: Floats, blocks: slice) -> Floats:
    """The importances (B, 256) that stand beside the super-blocks `blocks` of rows laid end to end."""
    across = imatrix.reshape(-1, SUPER)
    return across[np.arange(blocks.start, blocks.stop) % len(across)]


def dot(a: Floats, b: Floats) -> Floats:
    """Sum down each column of a * b: rounded product, then rounded sum, weight after weight."""
    return _einsum("ij,ij->j", a, b)


def dot3(a: Floats, b: Floats, c: Floats) -> Floats:
    """Sum down each column of (a * b) * c."""
    return _einsum("ij,ij,ij->j", a, b, c)


def nearest(x: Floats) -> Ints:
    """C's `nearest_int`: round half to even by adding 1.5 * 2^23 and reading the mantissa.

    Outside +-4194303 C reads the same bits, so that NaN gives 0 and infinity -4194304; so does this.
    """
    bits: Ints = (x + _MAGIC).view(np.int32)
    return (bits & np.int32(0x007FFFFF)) - np.int32(0x00400000)


def half(x: Floats) -> Floats:
    """Float32 rounded to float16 and back: what the decoder will read."""
    return x.astype(np.float16).astype(np.float32)


def half_bytes(x: Floats) -> Bytes:
    """Float32 (B,) as the little-endian bytes (B, 2) of float16."""
    return x.astype("<f2").view(np.uint8).reshape(-1, 2)


def _multiply_then_reduce(subscripts: str, *factors: Floats) -> Floats:
    """What `einsum` gives for the sums above, where einsum itself fuses or reorders."""
    product = factors[0] * factors[1]
    for factor in factors[2:]:
        product *= factor
    return np.asarray(np.add.reduce(product, axis=0))


def _einsum_is_exact() -> bool:
    """True if einsum rounds each product and each sum, as wheels for x86-64 do; builds with FMA do not."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 32, 257)).astype(np.float32)
    return all(
        np.array_equal(np.einsum(subscripts, *factors), _multiply_then_reduce(subscripts, *factors))
        for subscripts, factors in (("ij,ij->j", (a, b)), ("ij,ij,ij->j", (a, b, c)))
    )


_einsum = np.einsum if _einsum_is_exact() else _multiply_then_reduce
