"""Q2_K, Q4_K and Q5_K: k-quants with a scale and a minimum for each sub-block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .k_blocks import SuperBlocks
from .k_columns import (
    SUPER,
    clip,
    dot,
    gather_quarters,
    half,
    half_bytes,
    nearest,
    read_half,
    round_in_place,
    split_quarters,
    super_dot,
    to_columns,
)
from .k_fit_affine import Affine, AffineSearch
from .k_fit_scale import positive
from .registry import Bytes, Floats


@dataclass(frozen=True)
class Q2K(SuperBlocks):
    """Q2_K: w = d * scale_j * q - dmin * min_j, q of 2 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 84 bytes:
        scales    16 bytes: scale_j in the low nibble, min_j in the high one
        qs        64 bytes: bits 2 g, 2 g + 1 of byte 32 h + l hold weight 128 h + 32 g + l
        d, dmin   float16 each
    """

    name: str = "Q2_K"

    def _pack(self, blocks: Floats, importance: Floats | None, out: Bytes) -> None:
        x = to_columns(blocks, 16)
        if importance is None:
            weights = np.abs(x)
            fit = AffineSearch(3, first=-0.5, step=0.1, steps=15, absolute=True, leap=True)(x, weights)
        else:
            weights = _importances(x, to_columns(importance, 16), super_dot(x, x) / np.float32(SUPER))
            fit = AffineSearch(3, first=-0.9, step=0.05, steps=36, leap=True)(x, weights)
        d, scales, dmin, mins = _shared(fit, weights, 15, weighted=importance is not None)
        codes = scales | mins << 4
        out[:, :16] = codes.T
        out[:, 80:82], out[:, 82:84] = half_bytes(d), half_bytes(dmin)
        out[:, 16:80] = gather_quarters(_final_levels(x, fit, half(d) * (codes & 15), half(dmin) * (codes >> 4), 3))

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        step = read_half(packed, 80) * (packed[:, :16] & 15)
        offset = read_half(packed, 82) * (packed[:, :16] >> 4)
        out[...] = split_quarters(packed[:, 16:80])
        by_sub_block = out.reshape(-1, 16, 16)
        by_sub_block *= step[:, :, None]
        by_sub_block -= offset[:, :, None]


@dataclass(frozen=True)
class Q45K(SuperBlocks):
    """Q4_K and Q5_K: w = d * scale_j * q - dmin * min_j, q of 4 or 5 bits, for 8 sub-blocks j of 32 weights.

    Super-block of 144 or 176 bytes:
        d, dmin   float16 each
        scales    12 bytes: 6-bit scale_j and min_j, see `_pack_six_bits`
        qh        Q5_K only, 32 bytes: bit j of byte l is bit 4 of weight l of sub-block j
        qs        128 bytes: byte 32 g + l holds bits 0..3 of weight l of sub-blocks 2 g (low) and 2 g + 1 (high)
    """

    name: str
    bits: int
    first: float
    steps: int

    def _pack(self, blocks: Floats, importance: Floats | None, out: Bytes) -> None:
        nmax = (1 << self.bits) - 1
        x = to_columns(blocks, 32)
        if importance is None:
            weights = np.abs(x)
            weights += np.sqrt(dot(x, x) / np.float32(32))
            fit = AffineSearch(nmax, first=self.first, step=0.1, steps=self.steps)(x, weights)
        else:
            sigma2 = np.float32(2) * super_dot(x, x) / np.float32(SUPER)
            weights = _importances(x, to_columns(importance, 32), sigma2)
            fit = AffineSearch(nmax, first=-0.9, step=0.05, steps=36, leap=True)(x, weights)
        d, scales, dmin, mins = _shared(fit, weights, 63, weighted=importance is not None)
        if importance is None or self.bits == 5:
            scales, mins = np.minimum(scales, 63), np.minimum(mins, 63)
        out[:, 0:2], out[:, 2:4] = half_bytes(d), half_bytes(dmin)
        out[:, 4:16] = _pack_six_bits(scales.T, mins.T)
        scales, mins = (codes.T for codes in _unpack_six_bits(out[:, 4:16]))
        levels = _final_levels(x, fit, half(d) * scales, half(dmin) * mins, nmax).reshape(32, 8, -1)
        pairs = (levels[:, 0::2] & 15) | levels[:, 1::2] << 4
        out[:, -128:] = pairs.transpose(2, 1, 0).reshape(-1, 128)
        if self.bits == 5:
            out[:, 16:48] = np.bitwise_or.reduce((levels >> 4) << _EIGHT[:, None], axis=1).T

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        scales, mins = _unpack_six_bits(packed[:, 4:16])
        step = read_half(packed, 0) * scales
        offset = read_half(packed, 2) * mins
        pairs = packed[:, -128:].reshape(-1, 4, 32)
        levels = out.reshape(-1, 8, 32)
        levels[:, 0::2] = pairs & 15
        levels[:, 1::2] = pairs >> 4
        if self.bits == 5:
            levels += (packed[:, None, 16:48] >> _EIGHT[:, None] & 1) << 4
        levels *= step[:, :, None]
        levels -= offset[:, :, None]


_EIGHT = np.arange(8, dtype=np.uint8)


def _importances(x: Floats, importance: Floats, sigma2: Floats) -> Floats:
    """The weights (s, n) of the search: importance * sqrt(sigma2 + x^2), sigma2 (B,) of the super-block."""
    spread = np.tile(sigma2, x.shape[1] // len(sigma2))
    return importance * np.sqrt(spread + x * x)


def _shared(fit: Affine, weights: Floats, nmax: int, *, weighted: bool) -> tuple[Floats, Bytes, Floats, Bytes]:
    """Common scale (B,) and codes (j, B) of the sub-blocks' scales, then of their minima; codes may wrap.

    Unweighted, the largest value / nmax is the scale.
    """
    j = SUPER // len(weights)
    scales, mins = fit.scale.reshape(j, -1), fit.minimum.reshape(j, -1)
    if weighted:
        sums = np.add.reduce(weights, axis=0).reshape(j, -1)
        return *positive(scales, sums, nmax), *positive(mins, sums, nmax)
    return *_largest(scales, nmax), *_largest(mins, nmax)


def _largest(values: Floats, nmax: int) -> tuple[Floats, Bytes]:
    top = np.fmax(np.fmax.reduce(values, axis=0), np.float32(0))
    inverse = np.where(top > 0, np.float32(nmax) / top, np.float32(0))
    return top / np.float32(nmax), nearest(inverse * values).astype(np.uint8)


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
