"""Arithmetic on blocks that stand as columns: sums in C's order, C's rounding, extremes, half precision, bits.

B blocks are quantized together, as an array (s, n). The s weights that have a scale in common stand in one column, from
the first down to the last: all weights of a block, or those of one of its j sub-blocks. Then n = j * B, and column
i * B + b is sub-block i of block b, so that one figure a column, (n,), reshaped to (j, B), has the blocks as columns in
turn. Every operation runs over whole rows of contiguous memory, and a sum down the columns adds weight after weight as
C's loop does, for all of them at once, bit for bit.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy._core import multiarray, umath

from .registry import Bytes, Floats

_Number = TypeVar("_Number", np.float32, np.int16, np.uint8)

Ints = npt.NDArray[np.int32]
Levels = npt.NDArray[np.uint8]

# What is under np.clip and np.einsum where it can be had, without layers of Python.
clip: Any = getattr(umath, "clip", np.clip)
einsum: Any = getattr(multiarray, "c_einsum", np.einsum)

SUPER = 256
"""Weights of a super-block."""

EPSILON = np.float32(1e-15)
"""Blocks whose largest magnitude is below this count as zeros in C's searches (its GROUP_MAX_EPS)."""

ROUNDABLE = np.float32(4194303)
"""Largest magnitude that `nearest_int` and `np.rint` round alike."""

_MAGIC = np.float32(12582912)


def to_columns(blocks: Floats, s: int) -> Floats:
    """Blocks (B, block size) as columns (s, block size / s * B) of s weights each, always a copy."""
    columns = aligned((s, blocks.size // s))
    source = blocks.reshape(len(blocks), -1, s).transpose(2, 1, 0)
    target = columns.reshape(source.shape)
    few = max(1, _TILE // blocks.shape[1])
    for start in range(0, len(blocks), few):
        target[:, :, start : start + few] = source[:, :, start : start + few]
    return columns


_TILE = 1 << 13
"""Weights transposed at once, as many as fit in the first-level cache: from a larger tile each cache line would be
fetched for one weight at a time, which takes up to three times as long."""


def aligned(shape: tuple[int, ...]) -> Floats:
    """An uninitialized float32 array that starts on a cache line, as wide loads like it."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def add_down(terms: Floats, out: Floats | None = None) -> Floats:
    """Sums (n,) of the columns of C-ordered terms (s, n), from the first row to the last, in float32."""
    # numpy would add a single column pairwise, as it adds a row.
    if terms.shape[1] == 1:
        terms = np.add.accumulate(terms, axis=0)[-1:]
    total: Floats = np.add.reduce(terms, axis=0, out=out)
    # C starts from +0, so that its sums are never -0.
    total += np.float32(0)
    return total


def dot_down(first: Floats, *others: Floats, out: Floats | None = None) -> Floats:
    """Sums (n,), as `add_down` adds them, of the product of two or three C-ordered arrays (s, n).

    A product of three is (first * second) * third.
    """
    if EINSUM_IS_SEQUENTIAL and first.shape[1] > 1:
        out = np.empty(first.shape[1], np.float32) if out is None else out
        einsum("ij,ij->j" if len(others) == 1 else "ij,ij,ij->j", first, *others, out=out)
        return out
    product = first * others[0]
    for other in others[1:]:
        product *= other
    return add_down(product, out)


def _einsum_is_sequential() -> bool:
    """Whether this numpy's einsum rounds every product and adds in order; with FMA or in other builds it need not."""
    # numpy.random would take as long to import as all our kernels.
    a, b, c = np.sin(np.arange(3 * 32 * 257, dtype=np.float32)).reshape(3, 32, 257)
    return all(
        np.array_equal(einsum(subscripts, a, *others), np.add.reduce(product, axis=0))
        for subscripts, others, product in (("ij,ij->j", (b,), a * b), ("ij,ij,ij->j", (b, c), a * b * c))
    )


EINSUM_IS_SEQUENTIAL = _einsum_is_sequential()


def whole_blocks(columns: npt.NDArray[_Number], blocks: int) -> npt.NDArray[_Number]:
    """Columns (s, j * B) of sub-blocks as columns (j * s, B) of blocks."""
    sub_blocks = columns.reshape(len(columns), -1, blocks)
    return np.ascontiguousarray(sub_blocks.swapaxes(0, 1)).reshape(-1, blocks)


def block_sums(terms: Floats, blocks: int) -> Floats:
    """Sums (B,) over whole blocks of `terms` (s, j * B), from a block's first weight to its last."""
    return add_down(whole_blocks(terms, blocks))


def mean_square(x: Floats, factor: int = 1) -> Floats:
    """`factor` times the mean square (B,) of the super-blocks in the columns x (s, j * B)."""
    mean: Floats = np.float32(factor) * block_sums(x * x, x.size // SUPER) / np.float32(SUPER)
    return mean


def importance_weights(x: Floats, beside: Floats, sigma2: Floats) -> Floats:
    """The weights of errors under an importance matrix: beside * sqrt(sigma2 + x^2), C-ordered, the shape of x.

    Args:
        x: columns (s, j * B).
        beside: the importances of its weights, (s, j, B).
        sigma2: what C adds to the squares in each block, (B,).
    """
    weights = x * x
    by_block = weights.reshape(beside.shape)
    by_block += sigma2
    np.sqrt(weights, out=weights)
    by_block *= beside
    return weights


def nearest_int(x: Floats) -> Ints:
    """C's rounding, ties to even: 1.5 * 2^23 is added and the mantissa read.

    Beyond ROUNDABLE it wraps; infinity gives -2^22 and NaN 0, as in C.
    """
    mantissa: Ints = (x + _MAGIC).view(np.int32)
    mantissa &= np.int32(0x007FFFFF)
    mantissa -= np.int32(0x00400000)
    return mantissa


def round_in_place(x: Floats) -> None:
    """`nearest_int` as float32, in place; quick where no value is out of range."""
    # Of NaN neither is true.
    small = np.maximum.reduce(x, axis=None, initial=0) <= ROUNDABLE
    if small and np.minimum.reduce(x, axis=None, initial=0) >= -ROUNDABLE:
        np.rint(x, out=x)
    else:
        x[...] = nearest_int(x)


def reciprocal(scales: Floats) -> Floats:
    """1 / scales, and 0 where the scale is zero."""
    inverse: Floats = np.float32(1) / scales
    inverse[scales == 0] = 0
    return inverse


def largest_magnitude(x: Floats) -> Floats:
    """The largest |x| of each column (n,), never -0."""
    magnitude: Floats = np.maximum(np.maximum.reduce(x, axis=0), -np.minimum.reduce(x, axis=0))
    magnitude += np.float32(0)
    return magnitude


def first_largest(x: Floats) -> Floats:
    """The element of largest magnitude of each column (n,), sign and all; of equals the first.

    NaN counts as zero, and zeros give +0.
    """
    high: Floats = np.fmax.reduce(x, axis=0, initial=np.float32(0))
    low: Floats = np.fmin.reduce(x, axis=0, initial=np.float32(0))
    largest: Floats = np.where(high > -low, high, low)
    tied = np.flatnonzero((high == -low) & (high > 0))
    if tied.size:
        candidates = x[:, tied]
        first = np.fmax(np.abs(candidates), np.float32(0)).argmax(axis=0)
        largest[tied] = candidates[first, np.arange(tied.size)]
    largest += np.float32(0)
    return largest


def first_smallest(x: Floats) -> Floats:
    """The smallest element of each column (n,); where that is zero, with the sign of the column's first zero."""
    smallest: Floats = np.minimum.reduce(x, axis=0)
    (zero,) = np.nonzero(smallest == 0)
    if zero.size:
        candidates = x[:, zero]
        smallest[zero] = candidates[candidates.argmin(axis=0), np.arange(zero.size)]
    return smallest


def to_half(x: Floats) -> Floats:
    """Float32 rounded to binary16 and back: what the decoder will read."""
    return x.astype(np.float16).astype(np.float32)


def write_halves(scales: Floats, packed: Bytes, place: int) -> None:
    """Write scales (B,), rounded to binary16, to bytes `place` and `place` + 1 of each block of `packed` (B, bytes).

    `packed` is C-ordered, and both `place` and the number of bytes are even.
    """
    packed.view("<u2")[:, place // 2] = scales.astype("<f2").view("<u2")


def read_halves(packed: Bytes, place: int) -> Floats:
    """What `write_halves` wrote, as a float32 column (B, 1)."""
    return np.ascontiguousarray(packed[:, place : place + 2]).view("<f2").astype(np.float32)


def join_bits(parts: Levels, bits: int) -> Levels:
    """Levels (p, ...) of `bits` bits each, p of them in one byte (...), the first in the lowest bits."""
    joined: Levels = parts[0].copy()
    for place in range(1, len(parts)):
        joined |= parts[place] << np.uint8(bits * place)
    return joined


def split_bits(packed: Bytes) -> Levels:
    """The bits of bytes (B, b), the lowest first: (B, 8 b)."""
    # Along one axis numpy takes each row by itself.
    return np.unpackbits(packed.reshape(-1), bitorder="little").reshape(len(packed), -1)


def join_quarters(levels: Levels) -> Bytes:
    """Two-bit levels (256, B) as bytes (B, 64): weight 128 h + 32 g + l in bits 2 g and 2 g + 1 of byte 32 h + l."""
    packed: Bytes = join_bits(levels.reshape(2, 4, 32, -1).swapaxes(0, 1), 2).reshape(64, -1).T
    return packed


def split_quarters(packed: Bytes) -> Levels:
    """What `join_quarters` joined, in the order of the weights: bytes (B, 64) as levels (B, 256)."""
    levels: Levels = packed.reshape(-1, 2, 1, 32) >> _QUARTERS & np.uint8(3)
    return levels.reshape(-1, SUPER)


_QUARTERS = np.array([[0], [2], [4], [6]], np.uint8)
