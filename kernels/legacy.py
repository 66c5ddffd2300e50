"""The first formats of llama.cpp: blocks of 32 weights with one scale, and in the _1 types also a minimum.

Q4_0 and Q5_0 round x / d, where d maps the weight of largest magnitude to the lowest level; Q4_1 and Q5_1 round
(x - min) / d over the block's range; Q8_0 rounds x / d with d = max |x| / 127. Under an importance matrix the four
small types search for the scale with the smallest weighted error (`_search_scale`, `_search_scale_and_minimum`).

Weight j of a block shares a byte with weight j + 16: the lower nibble is the earlier one. The fifth bits of Q5_0 and
Q5_1 are one 32-bit word, weight 0 in the lowest bit.

Formulas: llama.cpp, ggml-quants.c, quantize_row_q*_ref and quantize_row_q*_impl. What C leaves undefined: where the
scale is so small (a denormal number below 2^-128) that its reciprocal overflows, C casts infinity or NaN to an
integer. x86-64 answers with the lowest int32, whose low byte is zero, and so do we; likewise for rows so large that
max - min overflows.
"""

from __future__ import annotations

import numpy as np

from ._blocks import (
    CHUNK,
    GROUP_MAX_EPS,
    ROUNDABLE,
    BlockCodec,
    ImatrixColumns,
    Levels,
    add_down,
    columns,
    dot_down,
    first_minimum,
    from_halves,
    join_bits,
    largest_magnitude,
    nearest_int,
    reciprocal,
    replace_where,
    signed_maximum,
    slices,
    split_bits,
    write_halves,
)
from .registry import Bytes, Codec, Floats

ROUND_AWAY = np.float32(np.nextafter(np.float32(0.5), np.float32(0)))
"""x + copysign(this, x), truncated, is x rounded with ties away from zero; 0.5 itself would lift 0.49999997 to 1."""
SIGN = np.uint32(1 << 31)


class _Legacy(BlockCodec):
    """A type with blocks of 32 weights and, under an importance matrix, weights that depend on the whole row."""

    block_size = 32

    def _quantize_blocks(self, rows: Floats, imatrix: Floats | None, packed: Bytes) -> None:
        if imatrix is None:
            super()._quantize_blocks(rows, None, packed)
            return
        blocks = rows.reshape(-1, self.block_size)
        importance = ImatrixColumns(imatrix, self.block_size)
        sigma2 = _mean_of_squares(rows)
        blocks_per_row = rows.shape[1] // self.block_size
        for part in slices(len(blocks), CHUNK // self.block_size):
            x = columns(blocks[part])
            weights = x * x
            weights += sigma2[np.arange(part.start, part.stop) // blocks_per_row]
            np.sqrt(weights, out=weights)
            weights *= importance.beside(part)
            self._pack_weighted(x, weights, packed[part])

    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        """Quantize the columns `x` (32, m) with error weights (32, m) into `packed` (m, block_bytes)."""
        raise NotImplementedError


class Scaled(_Legacy):
    """Q4_0 and Q5_0, 4 or 5 bits and a scale: x = d (q - 2^(bits - 1)).

    18 or 22 bytes: d binary16 | Q5_0: 4 bytes of fifth bits | 16 bytes of nibbles.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.middle = 1 << (bits - 1)
        self.block_bytes = 2 + 4 * bits

    def _pack(self, x: Floats, packed: Bytes) -> None:
        """Map the weight of largest magnitude to level 0."""
        d = signed_maximum(x) / np.float32(-self.middle)
        x *= reciprocal(d)
        x += np.float32(self.middle + 0.5)
        levels = x.astype(np.int8).view(np.uint8)
        # The opposite of the largest magnitude would be level 2 middle; it takes the level below.
        levels -= levels >> np.uint8(self.bits)
        self._write(d, levels, packed)

    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        d, levels = _search_scale(x, weights, self.middle)
        self._write(d, levels, packed)

    def _write(self, d: Floats, levels: Levels, packed: Bytes) -> None:
        write_halves(d, packed, 0)
        _write_levels(levels, packed[:, 2:])

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_levels(packed[:, 2:], values)
        values -= np.float32(self.middle)
        values *= from_halves(packed[:, :2])


class ScaledAndShifted(_Legacy):
    """Q4_1 and Q5_1, 4 or 5 bits, a scale and a minimum: x = d q + m.

    20 or 24 bytes: d binary16 | m binary16 | Q5_1: 4 bytes of fifth bits | 16 bytes of nibbles.
    """

    def __init__(self, bits: int) -> None:
        self.top = (1 << bits) - 1
        self.block_bytes = 4 + 4 * bits

    def _pack(self, x: Floats, packed: Bytes) -> None:
        """Divide the block's range into equal steps."""
        minimum = first_minimum(x)
        # numpy's largest of zeros may be -0 where C's is +0; adding +0 makes the range positive.
        d = (np.maximum.reduce(x, axis=0) - minimum + np.float32(0)) / np.float32(self.top)
        x -= minimum
        x *= reciprocal(d)
        x += np.float32(0.5)
        self._write(d, minimum, x.astype(np.int8).view(np.uint8), packed)

    def _pack_weighted(self, x: Floats, weights: Floats, packed: Bytes) -> None:
        d, minimum, levels = _search_scale_and_minimum(x, weights, self.top)
        self._write(d, minimum, levels, packed)

    def _write(self, d: Floats, minimum: Floats, levels: Levels, packed: Bytes) -> None:
        write_halves(d, packed, 0)
        write_halves(minimum, packed, 2)
        _write_levels(levels, packed[:, 4:])

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_levels(packed[:, 4:], values)
        values *= from_halves(packed[:, :2])
        values += from_halves(packed[:, 2:4])


class Q80(BlockCodec):
    """8 bits and a scale: x = d q, -127 <= q <= 127. The importance matrix has no influence.

    34 bytes: d binary16 | 32 int8.
    """

    block_size = 32
    block_bytes = 34

    def _pack(self, x: Floats, packed: Bytes) -> None:
        d = largest_magnitude(x) / np.float32(127)
        x *= reciprocal(d)
        half = x.view(np.uint32) & SIGN
        half |= ROUND_AWAY.view(np.uint32)
        x += half.view(np.float32)
        write_halves(d, packed, 0)
        packed[:, 2:] = x.astype(np.int8).view(np.uint8).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        values[...] = packed[:, 2:].view(np.int8)
        values *= from_halves(packed[:, :2])


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
            terms = columns(np.square(rows[few, part], out=squares[:, : part.stop - part.start]))
            terms[0] += total[few]
            total[few] = add_down(terms)
    total /= np.float32(k)
    return total


def _search_scale(x: Floats, weights: Floats, middle: int) -> tuple[Floats, Levels]:
    """Scales d (m,) and levels (32, m) of columns x (32, m) with the smallest error sum(w (d l - x)^2) found.

    Nineteen times x is multiplied by -(middle + i / 10) / max, i = 0, -9 .. -1, 1 .. 9, and rounded to whole numbers l
    from -middle to middle - 1. For fixed l the best scale is sum(w x l) / sum(w l^2), and the error falls as
    sum(w x l)^2 / sum(w l^2) rises. Formula: llama.cpp, make_qx_quants with rmse_type 1.
    """
    maximum = signed_maximum(x)
    wx = weights * x
    numbers = np.empty_like(x)
    best_inverse = np.float32(-middle) / maximum
    _round_clipped(x, best_inverse, middle, numbers)
    wxl, wll = dot_down(wx, numbers), dot_down(weights, numbers, numbers)
    d = np.where(wll != 0, wxl / wll, np.float32(0))
    best = d * wxl
    for i in (*range(-9, 0), *range(1, 10)):
        inverse = -(np.float32(middle) + np.float32(0.1) * np.float32(i)) / maximum
        _round_clipped(x, inverse, middle, numbers)
        wxl, wll = dot_down(wx, numbers), dot_down(weights, numbers, numbers)
        better = (wll > 0) & (wxl * wxl > best * wll)
        scale = wxl / wll
        replace_where(better, (d, scale), (best, scale * wxl), (best_inverse, inverse))
    _round_clipped(x, best_inverse, middle, numbers)
    numbers += np.float32(middle)
    levels = numbers.astype(np.uint8)
    zero = np.abs(maximum) < GROUP_MAX_EPS
    levels[:, zero] = 0
    d[zero] = 0
    return d, levels


def _round_clipped(x: Floats, inverse: Floats, middle: int, out: Floats) -> None:
    """Round x * inverse to whole numbers from -middle to middle - 1, ties to even."""
    np.multiply(x, inverse, out=out)
    np.rint(out, out=out)
    np.clip(out, np.float32(-middle), np.float32(middle - 1), out=out)


def _search_scale_and_minimum(x: Floats, weights: Floats, top: int) -> tuple[Floats, Floats, Levels]:
    """Scales d (m,), minima (m,) and levels (32, m) of columns x (32, m) with the smallest sum(w (d l + min - x)^2).

    Thirty-seven times x - min is multiplied by (top - 0.9 + 0.05 i) / (max - min) and rounded to levels l from 0 to
    `top`; the best line through the points (l, x) then gives a scale and a minimum, which is at most 0. Whenever a
    step improves the error, min becomes the line's minimum, also for the steps that follow; the range in the
    denominator begins there, too. Formula: llama.cpp, make_qkx3_quants with squared errors.
    """
    largest, smallest = np.maximum.reduce(x, axis=0), first_minimum(x)
    minimum = np.where(smallest > 0, np.float32(0), smallest)
    constant = largest <= minimum
    wx = weights * x
    w_sum, wx_sum = add_down(weights), add_down(wx)
    levels, difference = np.empty_like(x), np.empty_like(x)

    def round_levels(base: Floats, inverse: Floats) -> None:
        np.subtract(x, base, out=levels)
        np.multiply(levels, inverse, out=levels)
        farthest = np.maximum(largest - base, base - smallest) * np.abs(inverse)
        (wild,) = np.nonzero(~(farthest < ROUNDABLE))
        if wild.size:
            levels[:, wild] = nearest_int(levels[:, wild])
        np.rint(levels, out=levels)
        np.clip(levels, np.float32(0), np.float32(top), out=levels)

    def error(d: Floats, offset: Floats) -> Floats:
        np.multiply(levels, d, out=difference)
        np.add(difference, offset, out=difference)
        np.subtract(difference, x, out=difference)
        return dot_down(difference, difference, weights)

    base, inverse = minimum.copy(), np.float32(top) / (largest - minimum)
    d = np.float32(1) / inverse
    round_levels(base, inverse)
    best = error(d, base)
    for i in range(37):
        factor = np.float32(-0.9) + np.float32(0.05) * np.float32(i) + np.float32(top)
        trial = factor / (largest - minimum)
        round_levels(minimum, trial)
        wl = np.multiply(weights, levels, out=difference)
        wl_sum, wll, wxl = add_down(wl), dot_down(wl, levels), dot_down(wl, x)
        determinant = w_sum * wll - wl_sum * wl_sum
        scale: Floats = np.divide(w_sum * wxl - wx_sum * wl_sum, determinant)
        offset: Floats = np.divide(wll * wx_sum - wl_sum * wxl, determinant)
        positive = offset > 0
        np.putmask(scale, positive, wxl / wll)
        np.putmask(offset, positive, np.float32(0))
        trial_error = error(scale, offset)
        better = (determinant > 0) & (trial_error < best)
        replace_where(better, (best, trial_error), (base, minimum), (inverse, trial), (d, scale), (minimum, offset))
    round_levels(base, inverse)
    levels[:, constant] = 0
    d[constant] = 0
    return d, minimum, levels.astype(np.uint8)


CODECS: dict[str, Codec] = {
    "Q4_0": Scaled(bits=4),
    "Q4_1": ScaledAndShifted(bits=4),
    "Q5_0": Scaled(bits=5),
    "Q5_1": ScaledAndShifted(bits=5),
    "Q8_0": Q80(),
}
