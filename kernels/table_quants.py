"""IQ4_NL and IQ4_XS: four bits that stand for sixteen uneven values, x = d K(q).

The search tries sixteen scales, one of which maps the weight of largest magnitude to 127 and the others near
K(0) = -127, and keeps the one with the smallest weighted error. Formula: llama.cpp, ggml-quants.c,
quantize_row_iq4_nl_impl.

C finds the nearest of the sixteen values by bisection, and of two equally near takes the upper one. The midpoints
between neighbours are multiples of one half, so that floor(2 x) decides alike, in a table. In the search a weight's
share of the largest magnitude, in cells, gives the values for all sixteen scales at once; only where a midpoint falls
into the cell, for about one weight in a hundred, floor(2 x) is needed.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from .blocks import BlockCodec
from .columns import (
    EPSILON,
    Levels,
    block_sums,
    dot_down,
    first_largest,
    importance_weights,
    join_bits,
    nearest_int,
    read_halves,
    reciprocal,
    write_halves,
)
from .registry import Bytes, Codec, Floats

Words = npt.NDArray[np.int32]

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
REACH = 288
"""floor(2 x) in the search lies within this: |x| is at most 127 + 7 and a rounding error."""
LEVELS = np.searchsorted(VALUES[1:] + VALUES[:-1], np.arange(-REACH, REACH), side="right").astype(np.uint8)
"""The level of floor(2 x), at index REACH + floor(2 x)."""
NEAREST = VALUES[LEVELS]
"""The value of that level."""
TARGETS = np.array([127, *range(-134, -119)], np.float32)
"""What the search maps the weight of largest magnitude to, in C's order."""
CELLS = 1 << 14
"""Cells of [0, 1] that `_tables` divides |x / max| into."""
UNSURE = -128


class IQ4(BlockCodec):
    """What IQ4_NL and IQ4_XS share: sub-blocks of 32 weights, each with a scale of its own that is searched for.

    Blocks of s sub-blocks stand as (32, s, m): the weights of sub-block i of block b are column [:, i, b].
    """

    column = 32

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        weights = x * x
        if beside is not None:
            sigma2 = block_sums(weights, len(packed)) * (np.float32(2) / np.float32(self.block_size))
            weights = importance_weights(x, beside, sigma2)
        scales = _best_scale(_fits(x, weights))
        shape = (-1, len(packed))
        self._pack_scaled(x.reshape(32, *shape), scales.reshape(shape), packed)

    @abstractmethod
    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        """Quantize blocks `x` (32, s, m) with scales (s, m) into `packed` (m, block bytes)."""


class IQ4NL(IQ4):
    """IQ4_NL: 18 bytes: d binary16 | 16 bytes of nibbles, weight j below weight j + 16."""

    name = "IQ4_NL"

    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        write_halves(scales[0], packed, 0)
        packed[:, 2:] = _nibbles(x, scales)[:, 0].T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_nibbles(packed[:, 2:], values)
        values *= read_halves(packed, 0)


class IQ4XS(IQ4):
    """IQ4_XS: eight sub-blocks of 32 weights, whose scales are d (s - 32) with s of 6 bits.

    136 bytes: d binary16 | 8 times the upper two bits of s | 8 nibbles, the lower four bits of s | 8 times 16 bytes of
    nibbles, weight j of a sub-block below weight j + 16.
    """

    name = "IQ4_XS"

    def _pack_scaled(self, x: Floats, scales: Floats, packed: Bytes) -> None:
        d = first_largest(scales) / np.float32(-32)
        inverse = reciprocal(d)
        steps = np.clip(nearest_int(inverse * scales), -32, 31)
        codes = (steps + 32).astype(np.uint8)
        write_halves(d, packed, 0)
        packed[:, 2:4] = join_bits((codes >> np.uint8(4)).reshape(2, 4, -1).swapaxes(0, 1), 2).T
        packed[:, 4:8] = join_bits((codes & np.uint8(15)).reshape(4, 2, -1).swapaxes(0, 1), 4).T
        packed[:, 8:].reshape(-1, 8, 16)[...] = _nibbles(x, d * steps.astype(np.float32)).transpose(2, 1, 0)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        place = np.arange(8, dtype=np.uint8)
        upper = packed[:, 2:4, None] >> place[:4] * np.uint8(2) & np.uint8(3)
        lower = packed[:, 4:8, None] >> place[:2] * np.uint8(4) & np.uint8(15)
        codes = upper.reshape(-1, 8) << np.uint8(4) | lower.reshape(-1, 8)
        scales = read_halves(packed, 0) * (codes.astype(np.float32) - np.float32(32))
        sub_blocks = values.reshape(-1, 8, 32)
        _read_nibbles(packed[:, 8:].reshape(-1, 8, 16), sub_blocks)
        sub_blocks *= scales[:, :, None]


def _fits(x: Floats, weights: Floats) -> Floats:
    """Sums w K x and w K^2 of columns x (32, n), with K the values nearest to x / scale, for 16 scales: (2, 16, n).

    Scale t maps the weight of largest magnitude to TARGETS[t]. The sums of columns of zeros are zero.
    """
    maximum = first_largest(x)
    zero = np.abs(maximum) < EPSILON
    maximum[zero] = 1
    inverses = np.array([np.float32(1) / (maximum / TARGETS[0]), *(target / maximum for target in TARGETS[1:])])
    sums = np.empty((2, len(TARGETS), x.shape[1]), np.float32)
    values, word = np.empty(x.shape, np.float32), np.empty(x.shape, np.int32)
    np.multiply(x, np.float32(CELLS) / maximum, out=values)
    values += np.float32(CELLS)
    cell = values.astype(np.uint16).astype(np.intp)
    exact = None
    for t, (table, place) in enumerate(product(_tables(), range(4))):
        if place == 0:
            four = table.take(cell, mode="clip")
        top = np.left_shift(four, np.int32(24 - 8 * place), out=word) if place < 3 else four
        np.copyto(values, np.right_shift(top, np.int32(24), out=word))
        if exact is None:
            (unsure,) = np.nonzero(values.reshape(-1) == UNSURE)
            exact = _nearest(x.reshape(-1)[unsure] * inverses[:, unsure % x.shape[1]])
        values.reshape(-1)[unsure] = exact[t]
        weighted = np.multiply(weights, values, out=word.view(np.float32))
        sums[0, t] = dot_down(weighted, x)
        sums[1, t] = dot_down(weighted, values)
    sums[:, :, zero] = 0
    return sums


def _nearest(x: Floats) -> Floats:
    """The values nearest to x, which is finite and within the search's reach."""
    nearest: Floats = NEAREST[np.floor(x * np.float32(2)).astype(np.intp) + REACH]
    return nearest


@lru_cache(maxsize=1)
def _tables() -> Words:
    """For each cell of x / max the nearest values for four scales, as the bytes of an int32, four times: (4, cells).

    Cell c is c / CELLS - 1 <= x / max < (c + 1) / CELLS - 1. Where a midpoint between two values falls into a cell
    or so near to it that rounding errors matter (less than 0.01 cells), for one scale or more, the first byte is
    UNSURE.
    """
    cells = np.arange(2 * CELLS + 1)
    midpoints = (VALUES[1:].astype(np.float64) + VALUES[:-1]) / 2
    values = np.empty((len(TARGETS), len(cells)), np.int8)
    for t, target in enumerate(TARGETS.astype(np.float64)):
        centres = (cells + 0.5 - CELLS) / CELLS * target
        values[t] = VALUES[np.searchsorted(midpoints, centres, side="right")]
        borders = midpoints / target * CELLS + CELLS
        for border in np.floor(borders - 0.02), np.floor(borders + 0.02):
            inside = border[(border >= 0) & (border < len(cells))]
            values[0, inside.astype(np.intp)] = UNSURE
    bytes_ = values.reshape(4, 4, -1).swapaxes(1, 2)
    tables: Words = np.ascontiguousarray(bytes_).view("<i4")[:, :, 0].astype(np.int32)
    return tables


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
        _replace_where(better, (d, scale), (best, scale * wkx))
    return d


def _replace_where(mask: npt.NDArray[np.bool_], *pairs: tuple[Floats, Floats]) -> None:
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


def _nibbles(x: Floats, scales: Floats) -> Levels:
    """The levels of x / scale for blocks x (32, s, m) and scales (s, m), two a byte: (16, s, m)."""
    inverses = reciprocal(scales) * np.float32(2)
    half_steps = x * inverses
    np.floor(half_steps, out=half_steps)
    np.clip(half_steps, np.float32(-REACH), np.float32(REACH - 1), out=half_steps)
    half_steps += np.float32(REACH)
    if not np.isfinite(inverses).all():
        # C's bisection ends at the top for NaN.
        half_steps[np.isnan(half_steps)] = 2 * REACH - 1
    levels = LEVELS.take(half_steps.astype(np.uint16).astype(np.intp), mode="clip")
    return join_bits(levels.reshape(2, 16, *scales.shape), 4)


def _read_nibbles(packed: Bytes, values: Floats) -> None:
    """Write the values of nibbles (..., 16) to `values` (..., 32)."""
    values[..., :16] = VALUES[packed & np.uint8(15)]
    values[..., 16:] = VALUES[packed >> np.uint8(4)]


CODECS: dict[str, Codec] = {"IQ4_NL": IQ4NL(), "IQ4_XS": IQ4XS()}
