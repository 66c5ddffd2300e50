"""IQ2_S, IQ2_XS and IQ2_XXS: groups of 8 weights on a grid of 1024, 512 or 256 points of 3 levels."""

from __future__ import annotations

import numpy as np

from .blocks import SuperBlockCodec
from .columns import SUPER, importance_weights, mean_square, read_halves, write_halves
from .fit_scale import positive
from .grid_books import book, sign_bytes
from .grid_parts import (
    by_super_block,
    even_signs,
    nibbles,
    scale_codes,
    sign_bits,
    sign_words,
    signed_points,
    split_nibbles,
    split_sign_words,
)
from .grid_search import Fit, search
from .registry import Bytes, Floats, MissingImatrix


class IQ2S(SuperBlockCodec):
    """IQ2_S: w = d * (s + 1/2) / 4 * grid[q] * sign.

    Super-block, 256 weights in 82 bytes: d f16; qs[32], low 8 bits of q of each 8 weights; signs[32]; qh[8], the two
    high bits of q; scales[8], s of each 16 weights, two a byte. Without an importance matrix a weight counts x^2 plus
    half the mean square of the super-block.
    """

    name = "IQ2_S"
    column = 16
    batch = 1040 * SUPER

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        sigma2 = mean_square(x, 2)
        if beside is None:
            weight = x * x
            columns = weight.reshape(16, 16, supers)
            columns += np.float32(0.25) * sigma2
        else:
            weight = importance_weights(x, beside, sigma2)
        fit = _fit_16(self.name, np.abs(x), weight, np.float32(1e-8))
        signs = np.where(fit.empty, 0, sign_bits(x) ^ np.uint8(255) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(16, supers), 31, 15)
        point = by_super_block(fit.point, supers)
        high = point.reshape(supers, 8, 4) >> 8 << np.array([0, 2, 4, 6], np.int16)
        write_halves(d * np.float32(0.9875), packed, 0)
        packed[:, 2:34] = point & 255
        packed[:, 34:66] = by_super_block(signs, supers)
        packed[:, 66:74] = np.bitwise_or.reduce(high, axis=2)
        packed[:, 74:82] = nibbles(code)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        high = packed[:, 66:74, None].astype(np.intp) >> np.array([0, 2, 4, 6]) & 3
        index = packed[:, 2:34] | high.reshape(-1, 32) << 8
        signed_points(self.name, index, packed[:, 34:66], _scales(packed, 74), values)


class IQ2XS(SuperBlockCodec):
    """IQ2_XS: w = d * (s + 1/2) / 4 * grid[q] * sign. Needs an importance matrix.

    Super-block, 256 weights in 74 bytes: d f16; 32 words of 16 bits, one for each 8 weights: q in 9 bits, 7 signs above
    (the eighth makes the number of minus signs even); scales[8], s of each 16 weights, two a byte.
    """

    name = "IQ2_XS"
    column = 16
    batch = 1040 * SUPER

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        weight = _weights(x, beside)
        magnitude, signs = even_signs(x, weight)
        fit = _fit_16(self.name, magnitude, weight, np.float32(1e-15))
        signs = np.where(fit.empty, 0, signs ^ np.uint8(127) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(16, supers), 31, 15)
        words = by_super_block(fit.point, supers).astype("<u2") | by_super_block(signs, supers).astype("<u2") << 9
        write_halves(d, packed, 0)
        packed[:, 2:66] = words.view(np.uint8)
        packed[:, 66:74] = nibbles(code)
        packed[d == 0] = 0

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 2:66]).view("<u2")
        signs = sign_bytes()[words >> 9]
        signed_points(self.name, (words & 511).astype(np.intp), signs, _scales(packed, 66), values)


class IQ2XXS(SuperBlockCodec):
    """IQ2_XXS: w = d * (s + 1/2) / 4 * grid[q] * sign. Needs an importance matrix.

    Super-block, 256 weights in 66 bytes: d f16; for each 32 weights two words of 32 bits: four times q in 8 bits; four
    times 7 signs (the eighth makes the number of minus signs even) and s in the 4 bits on top.
    """

    name = "IQ2_XXS"
    column = 32
    batch = 1040 * SUPER

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        weight = _weights(x, beside)
        magnitude, signs = even_signs(x, weight)
        start, _ = positive(magnitude, weight, 4)
        largest = start * np.float32(3)
        empty = (magnitude.max(axis=0) < np.float32(1e-15)) | (largest <= 0)
        ladder = np.arange(-6, 7, dtype=np.float32) * np.float32(0.1) + np.float32(5)
        fit = search(book(self.name), magnitude, weight, ladder, largest, start, empty, "all")
        signs = np.where(empty, 0, signs ^ np.uint8(127) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(8, supers), 31, 15)
        point = by_super_block(fit.point, supers).astype(np.uint8)
        write_halves(d, packed, 0)
        words = packed[:, 2:66].reshape(supers, 8, 8)
        words[:, :, :4] = point.reshape(supers, 8, 4)
        words[:, :, 4:] = sign_words(signs, code).view(np.uint8).reshape(supers, 8, 4)
        packed[:, 2:66] = words.reshape(supers, 64)
        packed[d == 0] = 0

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        words = packed[:, 2:66].reshape(-1, 8, 8)
        index = words[:, :, :4].astype(np.intp).reshape(-1, 32)
        signs, code = split_sign_words(np.ascontiguousarray(words[:, :, 4:]).view("<u4")[:, :, 0])
        scale = read_halves(packed, 0) * (np.float32(0.5) + code) * np.float32(0.25)
        signed_points(self.name, index, signs, scale, values)


def _weights(x: Floats, beside: Floats | None) -> Floats:
    if beside is None:
        raise MissingImatrix("IQ2_XS and IQ2_XXS cannot be quantized without an importance matrix")
    return importance_weights(x, beside, mean_square(x))


def _fit_16(name: str, magnitude: Floats, weight: Floats, smallest: np.float32) -> Fit:
    """Search blocks of 16 weights; those whose largest magnitude is below `smallest` are empty and get scale 0."""
    top = magnitude.max(axis=0)
    ladder = np.arange(-9, 10, dtype=np.float32) * np.float32(0.1) + np.float32(5)
    return search(book(name), magnitude, weight, ladder, top, top / np.float32(5), top < smallest, "off")


def _scales(packed: Bytes, at: int) -> Floats:
    """d * (s + 1/2) / 4 of each 16 weights, (B, 16), the scales from byte `at`."""
    code = split_nibbles(packed[:, at : at + 8]).astype(np.float32)
    scale: Floats = read_halves(packed, 0) * (np.float32(0.5) + code) * np.float32(0.25)
    return scale
