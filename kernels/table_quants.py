"""IQ4_NL and IQ4_XS: four bits that stand for sixteen uneven values, x = d K(q).

The search tries fifteen scales, each of which maps the weight of largest magnitude near K(0) = -127, and keeps the
one with the smallest weighted error. Formula: llama.cpp, ggml-quants.c, quantize_row_iq4_nl_impl.

C finds the nearest of the sixteen values by bisection, and of two equally near takes the upper one. The midpoints
between neighbours are multiples of one half, so that floor(2 x) decides alike: it is looked up in a table.
"""

from __future__ import annotations

import numpy as np

from ._blocks import (
    CHUNK,
    GROUP_MAX_EPS,
    BlockCodec,
    Levels,
    add_down,
    columns,
    dot_down,
    from_halves,
    imatrix_columns,
    join_bits,
    nearest_int,
    reciprocal,
    signed_maximum,
    slices,
    write_halves,
)
from .registry import Bytes, Codec, Floats

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
REACH = 288
"""floor(2 x) in the search lies within this: |x| is at most 127 + 7 and a rounding error."""
LEVELS = np.searchsorted(VALUES[1:] + VALUES[:-1], np.arange(-REACH, REACH), side="right").astype(np.uint8)
"""The level of floor(2 x), at index REACH + floor(2 x)."""
NEAREST = VALUES[LEVELS]
"""The value of that level."""
TRIES = range(-7, 8)


class IQ4(BlockCodec):
    """What IQ4_NL and IQ4_XS share: sub-blocks of 32 weights, each with a scale of its own that is searched for.

    In columns of sub-blocks, column s m + b is sub-block s of block b.
    """

    def _quantize_blocks(self, rows: Floats, imatrix: Floats | None, packed: Bytes) -> None:
        blocks = rows.reshape(-1, self.block_size)
        for part in slices(len(blocks), CHUNK // self.block_size):
            x = columns(blocks[part])
            weights = self._weights(x, imatrix, part)
            scales = _best_scale(_fits(_sub_blocks(x), _sub_blocks(weights)))
            self._pack_scaled(x, scales.reshape(self.block_size // 32, -1), packed[part])

    def _weights(self, x: Floats, imatrix: Floats | None, blocks: slice) -> Floats:
        """The weight of each error (block_size, m): x^2, or importance * sqrt(x^2 + the block's doubled mean x^2)."""
        weights = x * x
        if imatrix is not None:
            weights += add_down(weights) * (np.float32(2) / np.float32(self.block_size))
            np.sqrt(weights, out=weights)
            weights *= imatrix_columns(imatrix, self.block_size, blocks)
        return weights

    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        """Quantize the columns `x` (block_size, m) with scales (block_size / 32, m) into `packed` (m, block_bytes)."""
        raise NotImplementedError


class IQ4NL(IQ4):
    """IQ4_NL: 18 bytes: d binary16 | 16 bytes of nibbles, weight j below weight j + 16."""

    block_size = 32
    block_bytes = 18

    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        write_halves(scales[0], packed, 0)
        packed[:, 2:] = _nibbles(x, scales).reshape(16, -1).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_nibbles(packed[:, 2:], values)
        values *= from_halves(packed[:, :2])


class IQ4XS(IQ4):
    """IQ4_XS: eight sub-blocks of 32 weights, whose scales are d (s - 32) with s of 6 bits.

    136 bytes: d binary16 | 8 times the upper two bits of s | 8 nibbles, the lower four bits of s | 8 times 16 bytes of
    nibbles, weight j of a sub-block below weight j + 16.
    """

    block_size = 256
    block_bytes = 136

    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        d = _first_of_largest_magnitude(scales) / np.float32(-32)
        inverse = reciprocal(d)
        steps = np.clip(nearest_int(inverse * scales), np.float32(-32), np.float32(31))
        codes = (steps + np.float32(32)).astype(np.uint8)
        write_halves(d, packed, 0)
        packed[:, 2:4] = join_bits((codes >> np.uint8(4)).reshape(2, 4, -1).swapaxes(0, 1), 2).T
        packed[:, 4:8] = join_bits((codes & np.uint8(15)).reshape(4, 2, -1).swapaxes(0, 1), 4).T
        packed[:, 8:] = _nibbles(x, d * steps).reshape(128, -1).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        place = np.arange(8, dtype=np.uint8)
        upper = packed[:, 2:4, None] >> place[:4] * np.uint8(2) & np.uint8(3)
        lower = packed[:, 4:8, None] >> place[:2] * np.uint8(4) & np.uint8(15)
        codes = upper.reshape(-1, 8) << np.uint8(4) | lower.reshape(-1, 8)
        scales = from_halves(packed[:, :2]) * (codes.astype(np.float32) - np.float32(32))
        sub_blocks = values.reshape(-1, 8, 32)
        _read_nibbles(packed[:, 8:].reshape(-1, 8, 16), sub_blocks)
        sub_blocks *= scales[:, :, None]


def _fits(x: Floats, weights: Floats) -> Floats:
    """Sums w K x and w K^2 of columns x (32, n), with K the values nearest to x / scale, for 16 scales: (2, 16, n).

    The first scale maps the weight of largest magnitude to 127, the others to -134 .. -120. The sums of columns of
    zeros are zero.
    """
    maximum = signed_maximum(x)
    zero = np.abs(maximum) < GROUP_MAX_EPS
    maximum[zero] = 1
    inverses = [np.float32(1) / (maximum / np.float32(127)), *(np.float32(i - 127) / maximum for i in TRIES)]
    sums = np.empty((2, len(inverses), x.shape[1]), np.float32)
    product, values = np.empty_like(x), np.empty_like(x)
    whole, index = np.empty(x.shape, np.int16), np.empty(x.shape, np.intp)
    for i, inverse in enumerate(inverses):
        np.multiply(x, inverse * np.float32(2), out=product)
        np.floor(product, out=product)
        np.copyto(whole, product, casting="unsafe")
        np.add(whole, np.int16(REACH), out=whole)
        np.copyto(index, whole)
        NEAREST.take(index, out=values, mode="clip")
        np.multiply(weights, values, out=product)
        sums[0, i] = dot_down(product, x)
        sums[1, i] = dot_down(product, values)
    sums[:, :, zero] = 0
    return sums


def _best_scale(sums: Floats) -> Floats:
    """The scales d (n,) with the smallest error sum(w (d K - x)^2) among the fits (2, 16, n).

    For fixed values K the best scale is sum(w K x) / sum(w K^2), and the error falls as sum(w K x)^2 / sum(w K^2)
    rises.
    """
    wkx, wkk = sums[:, 0]
    d: Floats = np.divide(wkx, wkk)
    d[~(wkk > 0)] = 0
    best = d * wkx
    for wkx, wkk in sums.swapaxes(0, 1)[1:]:
        better = (wkk > 0) & (wkx * wkx > best * wkk)
        scale = wkx / wkk
        np.putmask(d, better, scale)
        np.putmask(best, better, scale * wkx)
    return d


def _nibbles(x: Floats, scales: Floats) -> Levels:
    """The levels of x / scale for columns x (32 s, m) and scales (s, m), two a byte: (s, 16, m)."""
    sub_blocks = x.reshape(len(scales), 32, -1)
    twice = sub_blocks * (reciprocal(scales) * np.float32(2))[:, None]
    np.floor(twice, out=twice)
    twice += np.float32(REACH)
    # C's bisection ends at the top for NaN, and so does fmin.
    np.fmin(twice, np.float32(2 * REACH - 1), out=twice)
    np.maximum(twice, np.float32(0), out=twice)
    levels = LEVELS.take(twice.astype(np.int16).astype(np.intp))
    return join_bits(levels.reshape(len(scales), 2, 16, -1).swapaxes(0, 1), 4)


def _sub_blocks(x: Floats) -> Floats:
    """Blocks (32 s, m) as columns (32, s m) of their sub-blocks."""
    return np.ascontiguousarray(x.reshape(-1, 32, x.shape[1]).swapaxes(0, 1)).reshape(32, -1)


def _first_of_largest_magnitude(scales: Floats) -> Floats:
    """Of scales (s, m) those (m,) that are farthest from zero, the first of equals; NaN counts as zero."""
    magnitude = np.abs(scales)
    magnitude[np.isnan(magnitude)] = 0
    chosen = magnitude.argmax(axis=0)
    columns_ = np.arange(len(chosen))
    farthest: Floats = scales[chosen, columns_]
    farthest[magnitude[chosen, columns_] == 0] = 0
    return farthest


def _read_nibbles(packed: Bytes, values: Floats) -> None:
    """Write the values of nibbles (..., 16) to `values` (..., 32)."""
    values[..., :16] = VALUES[packed & np.uint8(15)]
    values[..., 16:] = VALUES[packed >> np.uint8(4)]


CODECS: dict[str, Codec] = {"IQ4_NL": IQ4NL(), "IQ4_XS": IQ4XS()}
