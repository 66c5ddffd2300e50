"""The first formats of llama.cpp: blocks of 32 weights with one scale, and in the _1 types also a minimum.

Q4_0 and Q5_0 round x / d, where d maps the weight of largest magnitude to the lowest level; Q4_1 and Q5_1 round
(x - min) / d over the block's range; Q8_0 rounds x / d with d = max |x| / 127. Under an importance matrix the four
small types search for the scale with the smallest weighted error (`fit_scale.symmetric`, `fit_affine`).

Weight j of a block shares a byte with weight j + 16: the lower nibble is the earlier one. The fifth bits of Q5_0 and
Q5_1 are one 32-bit word, weight 0 in the lowest bit.

Formulas: llama.cpp, ggml-quants.c, quantize_row_q*_ref and quantize_row_q*_impl. What C leaves undefined: where the
scale is so small (a denormal number below 2^-128) that its reciprocal overflows, C casts infinity or NaN to an
integer. x86-64 answers with the lowest int32, whose low byte is zero, and so do we; likewise for rows so large that
max - min overflows.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .blocks import BlockCodec, slices
from .columns import (
    Levels,
    add_down,
    first_largest,
    first_smallest,
    importance_weights,
    join_bits,
    largest_magnitude,
    read_halves,
    reciprocal,
    split_bits,
    to_columns,
    write_halves,
)
from .fit_affine import AffineSearch
from .fit_scale import symmetric
from .registry import Bytes, Codec, Floats

ROUND_AWAY = np.float32(np.nextafter(np.float32(0.5), np.float32(0)))
"""x + copysign(this, x), truncated, is x rounded with ties away from zero; 0.5 itself would lift 0.49999997 to 1."""
SIGN = np.uint32(1 << 31)


class _Legacy(BlockCodec):
    """A type with blocks of 32 weights and, under an importance matrix, weights that depend on the whole row."""

    column = 32

    def _pack_rows(self, rows: Floats, imatrix: Floats | None, packed: Bytes) -> None:
        if imatrix is None:
            super()._pack_rows(rows, None, packed)
            return
        sigma2 = _mean_of_squares(rows)
        blocks_per_row = rows.shape[1] // 32
        for part, x, beside in self._batches(rows, imatrix):
            assert beside is not None
            of_row = sigma2[np.arange(part.start, part.stop) // blocks_per_row]
            self._pack_weighted(x, importance_weights(x, beside, of_row), packed[part])

    @abstractmethod
    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        """Quantize the columns `x` (32, m) with error weights (32, m) into `packed` (m, block bytes)."""


class Scaled(_Legacy):
    """Q4_0 and Q5_0, 4 or 5 bits and a scale: x = d (q - 2^(bits - 1)).

    18 or 22 bytes: d binary16 | Q5_0: 4 bytes of fifth bits | 16 bytes of nibbles.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.middle = 1 << (bits - 1)
        self.name = f"Q{bits}_0"

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        """Map the weight of largest magnitude to level 0."""
        d = first_largest(x) / np.float32(-self.middle)
        x *= reciprocal(d)
        x += np.float32(self.middle + 0.5)
        levels = x.astype(np.int8).view(np.uint8)
        # The opposite of the largest magnitude would be level 2 middle; it takes the level below.
        levels -= levels >> np.uint8(self.bits)
        self._write(d, levels, packed)

    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        d, levels = symmetric(x, weights, self.middle)
        levels += np.float32(self.middle)
        self._write(d, levels.astype(np.uint8), packed)

    def _write(self, d: Floats, levels: Levels, packed: Bytes) -> None:
        write_halves(d, packed, 0)
        _write_levels(levels, packed[:, 2:])

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_levels(packed[:, 2:], values)
        values -= np.float32(self.middle)
        values *= read_halves(packed, 0)


class ScaledAndShifted(_Legacy):
    """Q4_1 and Q5_1, 4 or 5 bits, a scale and a minimum: x = d q + m.

    20 or 24 bytes: d binary16 | m binary16 | Q5_1: 4 bytes of fifth bits | 16 bytes of nibbles.
    """

    def __init__(self, bits: int) -> None:
        self.top = (1 << bits) - 1
        self.name = f"Q{bits}_1"

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        """Divide the block's range into equal steps."""
        minimum = first_smallest(x)
        # numpy's largest of zeros may be -0 where C's is +0; adding +0 makes the range positive.
        d = (np.maximum.reduce(x, axis=0) - minimum + np.float32(0)) / np.float32(self.top)
        x -= minimum
        x *= reciprocal(d)
        x += np.float32(0.5)
        self._write(d, minimum, x.astype(np.int8).view(np.uint8), packed)

    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        fit = AffineSearch(self.top, first=-0.9, step=0.05, steps=36, leap=True)(x, weights)
        self._write(fit.scale, -fit.minimum, fit.levels(x, self.top).astype(np.uint8), packed)

    def _write(self, d: Floats, minimum: Floats, levels: Levels, packed: Bytes) -> None:
        write_halves(d, packed, 0)
        write_halves(minimum, packed, 2)
        _write_levels(levels, packed[:, 4:])

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_levels(packed[:, 4:], values)
        values *= read_halves(packed, 0)
        values += read_halves(packed, 2)


class Q80(BlockCodec):
    """8 bits and a scale: x = d q, -127 <= q <= 127. The importance matrix has no influence.

    34 bytes: d binary16 | 32 int8.
    """

    name = "Q8_0"
    column = 32
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        d = largest_magnitude(x) / np.float32(127)
        x *= reciprocal(d)
        half = x.view(np.uint32) & SIGN
        half |= ROUND_AWAY.view(np.uint32)
        x += half.view(np.float32)
        write_halves(d, packed, 0)
        packed[:, 2:] = x.astype(np.int8).view(np.uint8).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        values[...] = packed[:, 2:].view(np.int8)
        values *= read_halves(packed, 0)


def _write_levels(levels: Levels, packed: Bytes) -> None:
    """Write levels (32, m) to bytes (m, 16) of nibbles, or (m, 20) with the fifth bits before them."""
    packed[:, -16:] = join_bits((levels & np.uint8(15)).reshape(2, 16, -1), 4).T
    if packed.shape[1] == 20:
        fifth = (levels >> np.uint8(4)).reshape(4, 8, -1)
        packed[:, :4] = join_bits(fifth.swapaxes(0, 1), 1).T


def _read_levels(packed: Bytes, values: Floats) -> None:
    """Read what `_write_levels` writes into `values` (m, 32)."""
    nibbles = packed[:, -16:]
    values[:, :16] = nibbles & np.uint8(15)
    values[:, 16:] = nibbles >> np.uint8(4)
    if packed.shape[1] == 20:
        fifth = split_bits(packed[:, :4])
        fifth <<= np.uint8(4)
        values += fifth


def _mean_of_squares(rows: Floats) -> Floats:
    """The mean of x^2 of each row of (n, k), added from the first to the last weight: (n,)."""
    n, k = rows.shape
    total = np.zeros(n, np.float32)
    width = 256
    for few in slices(n, 512):
        # Rows some cache lines longer than they need be, so that the transpose below does not thrash.
        squares = np.empty((few.stop - few.start, width + 16), np.float32)
        for part in slices(k, width):
            terms = to_columns(
                np.square(rows[few, part], out=squares[:, : part.stop - part.start]), part.stop - part.start
            )
            terms[0] += total[few]
            total[few] = add_down(terms)
    total /= np.float32(k)
    return total


CODECS: dict[str, Codec] = {
    "Q4_0": Scaled(bits=4),
    "Q4_1": ScaledAndShifted(bits=4),
    "Q5_0": Scaled(bits=5),
    "Q5_1": ScaledAndShifted(bits=5),
    "Q8_0": Q80(),
}
