"""Q2_K, Q4_K and Q5_K: k-quants with a scale and a minimum for each sub-block."""

from __future__ import annotations

import numpy as np

from .blocks import SuperBlockCodec
from .columns import (
    SUPER,
    add_down,
    clip,
    dot_down,
    importance_weights,
    join_quarters,
    mean_square,
    nearest_int,
    read_halves,
    round_in_place,
    split_quarters,
    to_half,
    whole_blocks,
    write_halves,
)
from .fit_affine import Affine, AffineSearch
from .fit_scale import positive
from .registry import Bytes, Floats


class Q2K(SuperBlockCodec):
    """Q2_K: w = d * scale_j * q - dmin * min_j, q of 2 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 84 bytes:
        scales    16 bytes: scale_j in the low nibble, min_j in the high one
        qs        64 bytes: bits 2 g, 2 g + 1 of byte 32 h + l hold weight 128 h + 32 g + l
        d, dmin   float16 each
    """

    name = "Q2_K"
    column = 16

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        if beside is None:
            weights = np.abs(x)
            fit = AffineSearch(3, first=-0.5, step=0.1, steps=15, absolute=True, leap=True)(x, weights)
        else:
            weights = importance_weights(x, beside, mean_square(x))
            fit = AffineSearch(3, first=-0.9, step=0.05, steps=36, leap=True)(x, weights)
        d, scales, dmin, mins = _shared(fit, weights, 15, weighted=beside is not None)
        codes = scales | mins << 4
        levels = _final_levels(x, fit, to_half(d) * (codes & 15), to_half(dmin) * (codes >> 4), 3)
        packed[:, :16] = codes.T
        packed[:, 16:80] = join_quarters(whole_blocks(levels, len(packed)))
        write_halves(d, packed, 80)
        write_halves(dmin, packed, 82)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        step = read_halves(packed, 80) * (packed[:, :16] & 15)
        offset = read_halves(packed, 82) * (packed[:, :16] >> 4)
        values[...] = split_quarters(packed[:, 16:80])
        by_sub_block = values.reshape(-1, 16, 16)
        by_sub_block *= step[:, :, None]
        by_sub_block -= offset[:, :, None]


class Q45K(SuperBlockCodec):
    """Q4_K and Q5_K: w = d * scale_j * q - dmin * min_j, q of 4 or 5 bits, for 8 sub-blocks j of 32 weights.

    Super-block of 144 or 176 bytes:
        d, dmin   float16 each
        scales    12 bytes: 6-bit scale_j and min_j, see `_pack_six_bits`
        qh        Q5_K only, 32 bytes: bit j of byte l is bit 4 of weight l of sub-block j
        qs        128 bytes: byte 32 g + l holds bits 0..3 of weight l of sub-blocks 2 g (low) and 2 g + 1 (high)
    """

    column = 32

    def __init__(self, name: str, *, bits: int, first: float, steps: int) -> None:
        self.name, self.bits, self.first, self.steps = name, bits, first, steps

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        nmax = (1 << self.bits) - 1
        if beside is None:
            weights = np.abs(x)
            weights += np.sqrt(dot_down(x, x) / np.float32(32))
            fit = AffineSearch(nmax, first=self.first, step=0.1, steps=self.steps)(x, weights)
        else:
            weights = importance_weights(x, beside, mean_square(x, 2))
            fit = AffineSearch(nmax, first=-0.9, step=0.05, steps=36, leap=True)(x, weights)
        d, scales, dmin, mins = _shared(fit, weights, 63, weighted=beside is not None)
        if beside is None or self.bits == 5:
            scales, mins = np.minimum(scales, 63), np.minimum(mins, 63)
        write_halves(d, packed, 0)
        write_halves(dmin, packed, 2)
        packed[:, 4:16] = _pack_six_bits(scales.T, mins.T)
        scales, mins = (codes.T for codes in _unpack_six_bits(packed[:, 4:16]))
        levels = _final_levels(x, fit, to_half(d) * scales, to_half(dmin) * mins, nmax).reshape(32, 8, -1)
        pairs = (levels[:, 0::2] & 15) | levels[:, 1::2] << 4
        packed[:, -128:] = pairs.transpose(2, 1, 0).reshape(-1, 128)
        if self.bits == 5:
            packed[:, 16:48] = np.bitwise_or.reduce((levels >> 4) << _EIGHT[:, None], axis=1).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        scales, mins = _unpack_six_bits(packed[:, 4:16])
        step = read_halves(packed, 0) * scales
        offset = read_halves(packed, 2) * mins
        pairs = packed[:, -128:].reshape(-1, 4, 32)
        levels = values.reshape(-1, 8, 32)
        levels[:, 0::2] = pairs & 15
        levels[:, 1::2] = pairs >> 4
        if self.bits == 5:
            levels += (packed[:, None, 16:48] >> _EIGHT[:, None] & 1) << 4
        levels *= step[:, :, None]
        levels -= offset[:, :, None]


_EIGHT = np.arange(8, dtype=np.uint8)


def _shared(fit: Affine, weights: Floats, nmax: int, *, weighted: bool) -> tuple[Floats, Bytes, Floats, Bytes]:
    """Common scale (B,) and codes (j, B) of the sub-blocks' scales, then of their minima; codes may wrap.

    Unweighted, the largest value / nmax is the scale.
    """
    j = SUPER // len(weights)
    scales, mins = fit.scale.reshape(j, -1), fit.minimum.reshape(j, -1)
    if weighted:
        sums = add_down(weights).reshape(j, -1)
        return *positive(scales, sums, nmax), *positive(mins, sums, nmax)
    return *_largest(scales, nmax), *_largest(mins, nmax)


def _largest(values: Floats, nmax: int) -> tuple[Floats, Bytes]:
    top = np.fmax(np.fmax.reduce(values, axis=0), np.float32(0))
    inverse = np.where(top > 0, np.float32(nmax) / top, np.float32(0))
    return top / np.float32(nmax), nearest_int(inverse * values).astype(np.uint8)


def _final_levels(x: Floats, fit: Affine, step: Floats, offset: Floats, nmax: int) -> Bytes:
    """The levels (s, n) that the decoder's own step and offset (j, B) ask for; where step is 0, those of the search.

    Overwrites x.
    """
    step, offset = step.reshape(-1), offset.reshape(-1)
    unused = np.flatnonzero(step == 0)
    kept = fit[unused].levels(x[:, unused], nmax)
    step[unused] = 1
    x += offset
    x /= step
    round_in_place(x)
    clip(x, np.float32(0), np.float32(nmax), out=x)
    x[:, unused] = kept
    return x.astype(np.uint8)


def _pack_six_bits(scales: Bytes, mins: Bytes) -> Bytes:
    """Eight 6-bit scales and mins (B, 8) in 12 bytes (B, 12).

    Bytes 0..3: scale 0..3, above it bits 4..5 of scale 4..7. Bytes 4..7: the same of min. Bytes 8..11: bits 0..3 of
    scale 4..7, above them those of min 4..7.
    """
    first, second = scales[:, :4] | scales[:, 4:] >> 4 << 6, mins[:, :4] | mins[:, 4:] >> 4 << 6
    return np.concatenate((first, second, (scales[:, 4:] & 15) | mins[:, 4:] << 4), axis=1)


def _unpack_six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The scales and mins (B, 8) of 12 bytes (B, 12)."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (rest & 15) | first >> 6 << 4), axis=1)
    mins = np.concatenate((second & 63, rest >> 4 | second >> 6 << 4), axis=1)
    return scales, mins
