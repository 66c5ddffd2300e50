"""What types with equal blocks share: the walk over the blocks, half-precision scales, packing of bits.

Blocks stand as columns, (block_size, m), while they are quantized. A sum over axis 0 of a C-ordered array then adds
the weights one after the other, as C's loop does, for m blocks at once; every operation runs over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .registry import Bytes, Floats

Levels = npt.NDArray[np.uint8]

CHUNK = 127 << 10
"""Weights that are quantized at once: a float32 array of them takes half a megabyte, and a few fit in the second-level
cache. The number of columns must not be a power of two, or the rows would compete for the same cache lines."""

GROUP_MAX_EPS = np.float32(1e-15)
"""Blocks whose largest magnitude is below this count as zeros in the searches."""

ROUNDABLE = np.float32(4194303)
"""Magnitudes up to this are rounded by C as by `rint`."""


class BlockCodec:
    """Quantizes and dequantizes rows chunk by chunk; a subclass says what happens to the blocks of one chunk.

    Scratch stays below 8 MB, whatever the number of rows.
    """

    block_size: int
    block_bytes: int

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack float32 (n, k) into uint8 (n, k / block_size * block_bytes)."""
        n, k = rows.shape
        packed = np.empty((n * k // self.block_size, self.block_bytes), np.uint8)
        # C divides by denormal scales and casts what comes of it; so do we, without a warning.
        with np.errstate(all="ignore"):
            self._quantize_blocks(rows, imatrix, packed)
        return packed.reshape(n, k // self.block_size * self.block_bytes)

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""
        n = len(packed)
        blocks = packed.reshape(n * k // self.block_size, self.block_bytes)
        values = np.empty((len(blocks), self.block_size), np.float32)
        with np.errstate(all="ignore"):
            for part in slices(len(blocks), CHUNK // self.block_size):
                self._unpack(blocks[part], values[part])
        return values.reshape(n, k)

    def _quantize_blocks(self, rows: Floats, imatrix: Floats | None, packed: Bytes) -> None:
        """Quantize rows (n, k) into `packed` (blocks, block_bytes); overridden where the imatrix has an influence."""
        blocks = rows.reshape(-1, self.block_size)
        for part in slices(len(blocks), CHUNK // self.block_size):
            self._pack(columns(blocks[part]), packed[part])

    def _pack(self, x: Floats, packed: Bytes) -> None:
        """Quantize the columns `x` (block_size, m) into `packed` (m, block_bytes), without an importance matrix."""
        raise NotImplementedError

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        """Write the weights of `packed` (m, block_bytes) to `values` (m, block_size)."""
        raise NotImplementedError


def slices(count: int, most: int) -> Iterator[slice]:
    """Consecutive slices of `count` items, at most `most` long: few, and about equal, for each costs its calls."""
    parts = max(1, -(-count // most))
    step = -(-count // parts // 16) * 16
    if step % 256 == 0:
        # See CHUNK.
        step += 16
    step = min(step, most)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def columns(blocks: Floats) -> Floats:
    """Blocks (m, block_size) as columns (block_size, m), C order, always a copy."""
    x: Floats = blocks.T.copy()
    return x


class ImatrixColumns:
    """The importances (k,) that all rows share, as columns beside the columns of any chunk of blocks."""

    def __init__(self, imatrix: Floats, block_size: int) -> None:
        self.per_row = imatrix.size // block_size
        across = np.arange(self.per_row + CHUNK // block_size) % self.per_row
        self.columns = np.take(imatrix.reshape(-1, block_size).T, across, axis=1)

    def beside(self, part: slice) -> Floats:
        """The importances (block_size, m) of the blocks `part`, at most CHUNK weights, of rows laid end to end."""
        start = part.start % self.per_row
        return self.columns[:, start : start + part.stop - part.start]


def halves(scales: Floats) -> Bytes:
    """Scales (m,) rounded to binary16, as bytes (m, 2)."""
    return scales.astype(np.float16).view(np.uint8).reshape(-1, 2)


def write_halves(scales: Floats, packed: Bytes, place: int) -> None:
    """Write scales (m,), rounded to binary16, to bytes `place` and `place` + 1 of each block of `packed` (m, bytes).

    `packed` is C-ordered, and both `place` and the number of bytes are even.
    """
    packed.view(np.uint16)[:, place // 2] = scales.astype(np.float16).view(np.uint16)


def from_halves(packed: Bytes) -> Floats:
    """Bytes (m, 2) of binary16 numbers as a float32 column (m, 1)."""
    return np.ascontiguousarray(packed).view(np.float16).astype(np.float32)


def join_bits(parts: Levels, bits: int) -> Levels:
    """Levels (p, ...) of `bits` bits each, p of them in one byte (...), the first in the lowest bits."""
    joined: Levels = parts[0].copy()
    for place in range(1, len(parts)):
        joined |= parts[place] << np.uint8(bits * place)
    return joined


def split_bits(packed: Bytes) -> Levels:
    """The bits of bytes (m, b), the lowest first: (m, 8 b)."""
    # Along one axis numpy takes each row by itself.
    return np.unpackbits(packed.reshape(-1), bitorder="little").reshape(len(packed), -1)


def largest_magnitude(x: Floats) -> Floats:
    """The largest |x| of each column (m,), never -0."""
    magnitude: Floats = np.maximum(np.maximum.reduce(x, axis=0), -np.minimum.reduce(x, axis=0))
    magnitude += np.float32(0)
    return magnitude


def signed_maximum(x: Floats) -> Floats:
    """The weight with the largest magnitude of each column (m,); of equal magnitudes the first, +0 for zeros."""
    largest: Floats = np.maximum.reduce(x, axis=0)
    smallest: Floats = np.minimum.reduce(x, axis=0)
    maximum = np.where(largest > -smallest, largest, smallest)
    (both_signs,) = np.nonzero(largest == -smallest)
    if both_signs.size:
        candidates = x[:, both_signs]
        first = np.abs(candidates).argmax(axis=0)
        maximum[both_signs] = candidates[first, np.arange(both_signs.size)]
    # -0 + 0 is +0: a block of zeros has the positive one.
    maximum += np.float32(0)
    return maximum


def first_minimum(x: Floats) -> Floats:
    """The smallest weight of each column (m,); where that is zero, with the sign of the column's first zero."""
    minimum: Floats = np.minimum.reduce(x, axis=0)
    (zero,) = np.nonzero(minimum == 0)
    if zero.size:
        candidates = x[:, zero]
        minimum[zero] = candidates[candidates.argmin(axis=0), np.arange(zero.size)]
    return minimum


def nearest_int(values: Floats) -> Floats:
    """C's rounding: 1.5 * 2^23 is added and the mantissa read, which is `rint` for magnitudes up to ROUNDABLE.

    Beyond them it wraps; infinity gives -2^22 and NaN 0, as in C.
    """
    bits: npt.NDArray[np.int32] = (values + np.float32(12582912)).view(np.int32)
    bits &= np.int32(0x007FFFFF)
    bits -= np.int32(0x00400000)
    return bits.astype(np.float32)


def reciprocal(scales: Floats) -> Floats:
    """1 / scales, and 0 where the scale is zero."""
    inverse: Floats = np.float32(1) / scales
    inverse[scales == 0] = 0
    return inverse


def replace_where(mask: npt.NDArray[np.bool_], *pairs: tuple[Floats, Floats]) -> None:
    """For each pair (target, source) of arrays (m,) do target[mask] = source[mask].

    On their bits, since numpy's own ways branch on the mask and take four times as long.
    """
    chosen = mask.astype(np.int32)
    np.negative(chosen, out=chosen)
    for target, source in pairs:
        bits = target.view(np.int32)
        change = bits ^ source.view(np.int32)
        change &= chosen
        bits ^= change


def add_down(terms: Floats) -> Floats:
    """Sums (m,) over axis 0 of C-ordered terms (n, m), from the first row to the last, in float32."""
    # numpy would add a single column pairwise, as it adds a row.
    one_column = terms.shape[1] == 1
    total: Floats = np.add.accumulate(terms, axis=0)[-1] if one_column else np.add.reduce(terms, axis=0)
    # C starts from +0, so that its sums are never -0.
    total += np.float32(0)
    return total


def dot_down(first: Floats, *others: Floats) -> Floats:
    """Sums (m,) over axis 0 of the product of two or three C-ordered arrays (n, m), as `add_down` adds them.

    A product of three is (first * second) * third.
    """
    if EINSUM_IS_SEQUENTIAL and first.shape[1] > 1:
        total: Floats = np.einsum("ij,ij->j" if len(others) == 1 else "ij,ij,ij->j", first, *others)
        return total
    product = first * others[0]
    for other in others[1:]:
        product *= other
    return add_down(product)


def _einsum_is_sequential() -> bool:
    """Whether this numpy's einsum rounds every product and adds in order; with FMA or in other builds it need not."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 32, 67)).astype(np.float32)
    twice, thrice = np.zeros(67, np.float32), np.zeros(67, np.float32)
    for row_a, row_b in zip(a, b, strict=True):
        twice += row_a * row_b
        thrice += row_a * row_b * row_b
    return np.array_equal(np.einsum("ij,ij->j", a, b), twice) and np.array_equal(
        np.einsum("ij,ij,ij->j", a, b, b), thrice
    )


EINSUM_IS_SEQUENTIAL = _einsum_is_sequential()
