"""IQ2_S, IQ2_XS and IQ2_XXS: groups of 8 weights on a grid of 1024, 512 or 256 points of 3 levels."""

from __future__ import annotations

import numpy as np

from ._blocks import add_down, dot_down, from_halves, halves, nearest_int
from .grid_books import book, sign_bytes
from .grid_parts import (
    GridCodec,
    by_super_block,
    even_signs,
    importance,
    mean_square,
    nibbles,
    scale_codes,
    sign_bits,
    sign_words,
    signed_points,
    split_nibbles,
    split_sign_words,
    to_columns,
)
from .grid_search import Fit, search
from .registry import Bytes, Floats, MissingImatrix


class IQ2S(GridCodec):
    """IQ2_S: w = d * (s + 1/2) / 4 * grid[q] * sign.

    Super-block, 256 weights in 82 bytes: d f16; qs[32], low 8 bits of q of each 8 weights; signs[32]; qh[8], the two
    high bits of q; scales[8], s of each 16 weights, two a byte. Without an importance matrix a weight counts x^2 plus
    half the mean square of the super-block.
    """

    name = "IQ2_S"

    def _pack(self, blocks: Floats, beside: Floats | None, out: Bytes) -> None:
        supers = len(blocks)
        x = to_columns(blocks, 16)
        sigma2 = mean_square(x, 2)
        if beside is None:
            weight = x * x
            columns = weight.reshape(16, 16, supers)
            columns += np.float32(0.25) * sigma2
        else:
            weight = importance(x, to_columns(beside, 16), sigma2)
        fit = _fit_16(self.name, np.abs(x), weight, np.float32(1e-8))
        signs = np.where(fit.empty, 0, sign_bits(x) ^ np.uint8(255) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(16, supers), 31, 15)
        point = by_super_block(fit.point, supers)
        high = point.reshape(supers, 8, 4) >> 8 << np.array([0, 2, 4, 6], np.int16)
        out[:, 0:2] = halves(d * np.float32(0.9875))
        out[:, 2:34] = point & 255
        out[:, 34:66] = by_super_block(signs, supers)
        out[:, 66:74] = np.bitwise_or.reduce(high, axis=2)
        out[:, 74:82] = nibbles(code)

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        high = packed[:, 66:74, None].astype(np.intp) >> np.array([0, 2, 4, 6]) & 3
        index = packed[:, 2:34] | high.reshape(-1, 32) << 8
        signed_points(self.name, index, packed[:, 34:66], _scales(packed, 74), out)


class IQ2XS(GridCodec):
    """IQ2_XS: w = d * (s + 1/2) / 4 * grid[q] * sign. Needs an importance matrix.

    Super-block, 256 weights in 74 bytes: d f16; 32 words of 16 bits, one for each 8 weights: q in 9 bits, 7 signs above
    (the eighth makes the number of minus signs even); scales[8], s of each 16 weights, two a byte.
    """

    name = "IQ2_XS"

    def _pack(self, blocks: Floats, beside: Floats | None, out: Bytes) -> None:
        supers = len(blocks)
        x, weight = _weighted(blocks, beside, 16)
        magnitude, signs = even_signs(x, weight)
        fit = _fit_16(self.name, magnitude, weight, np.float32(1e-15))
        signs = np.where(fit.empty, 0, signs ^ np.uint8(127) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(16, supers), 31, 15)
        words = by_super_block(fit.point, supers).astype("<u2") | by_super_block(signs, supers).astype("<u2") << 9
        out[:, 0:2] = halves(d)
        out[:, 2:66] = words.view(np.uint8)
        out[:, 66:74] = nibbles(code)
        out[d == 0] = 0

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 2:66]).view("<u2")
        signs = sign_bytes()[words >> 9]
        signed_points(self.name, (words & 511).astype(np.intp), signs, _scales(packed, 66), out)


class IQ2XXS(GridCodec):
    """IQ2_XXS: w = d * (s + 1/2) / 4 * grid[q] * sign. Needs an importance matrix.

    Super-block, 256 weights in 66 bytes: d f16; for each 32 weights two words of 32 bits: four times q in 8 bits; four
    times 7 signs (the eighth makes the number of minus signs even) and s in the 4 bits on top.
    """

    name = "IQ2_XXS"

    def _pack(self, blocks: Floats, beside: Floats | None, out: Bytes) -> None:
        supers = len(blocks)
        x, weight = _weighted(blocks, beside, 32)
        magnitude, signs = even_signs(x, weight)
        start = _first_scale(magnitude, weight)
        largest = start * np.float32(3)
        empty = (magnitude.max(axis=0) < np.float32(1e-15)) | (largest <= 0)
        ladder = np.arange(-6, 7, dtype=np.float32) * np.float32(0.1) + np.float32(5)
        fit = search(book(self.name), magnitude, weight, ladder, largest, start, empty, "all")
        signs = np.where(empty, 0, signs ^ np.uint8(127) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(8, supers), 31, 15)
        point = by_super_block(fit.point, supers).astype(np.uint8)
        out[:, 0:2] = halves(d)
        words = out[:, 2:66].reshape(supers, 8, 8)
        words[:, :, :4] = point.reshape(supers, 8, 4)
        words[:, :, 4:] = sign_words(signs, code).view(np.uint8).reshape(supers, 8, 4)
        out[:, 2:66] = words.reshape(supers, 64)
        out[d == 0] = 0

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        words = packed[:, 2:66].reshape(-1, 8, 8)
        index = words[:, :, :4].astype(np.intp).reshape(-1, 32)
        signs, code = split_sign_words(np.ascontiguousarray(words[:, :, 4:]).view("<u4")[:, :, 0])
        scale = from_halves(packed[:, 0:2]) * (np.float32(0.5) + code) * np.float32(0.25)
        signed_points(self.name, index, signs, scale, out)


def _weighted(blocks: Floats, beside: Floats | None, size: int) -> tuple[Floats, Floats]:
    """Columns of blocks of `size` weights, and their importance."""
    if beside is None:
        raise MissingImatrix("IQ2_XS and IQ2_XXS cannot be quantized without an importance matrix")
    x = to_columns(blocks, size)
    return x, importance(x, to_columns(beside, size), mean_square(x))


def _fit_16(name: str, magnitude: Floats, weight: Floats, smallest: np.float32) -> Fit:
    """Search blocks of 16 weights; those whose largest magnitude is below `smallest` are empty and get scale 0."""
    top = magnitude.max(axis=0)
    ladder = np.arange(-9, 10, dtype=np.float32) * np.float32(0.1) + np.float32(5)
    return search(book(name), magnitude, weight, ladder, top, top / np.float32(5), top < smallest, "off")


def _scales(packed: Bytes, at: int) -> Floats:
    """d * (s + 1/2) / 4 of each 16 weights, (B, 16), the scales from byte `at`."""
    code = split_nibbles(packed[:, at : at + 8]).astype(np.float32)
    scale: Floats = from_halves(packed[:, 0:2]) * (np.float32(0.5) + code) * np.float32(0.25)
    return scale


def _first_scale(x: Floats, weight: Floats) -> Floats:
    """Scale of each column of x (32, blocks) as scale * level, level 0..4 (`make_qp_quants`), where the ladder starts.

    Nine scales around max / 4 compete by weighted squared error. The levels of the winner are then refined one by one:
    one moves to round(x Sll / Sxl), sums taken without it, if that makes Sxl^2 / Sll grow; at most five rounds. Levels
    below 0, which the reference does not expect but has for negative x, wrap to unsigned bytes where it stores them.
    """
    four = np.float32(4)
    top = x.max(axis=0)
    top = np.where(top < np.float32(1e-15), np.float32(1), top)
    inverse = four / top
    wrapped = nearest_int(x * inverse) % np.float32(256)
    error = _squared_error(x, weight, wrapped, inverse)
    for trial in (-4, -3, -2, -1, 1, 2, 3, 4):
        other = (np.float32(0.1) * np.float32(trial) + four) / top
        other_error = _squared_error(x, weight, np.minimum(nearest_int(x * other), four), other)
        inverse = np.where(other_error < error, other, inverse)
        error = np.fmin(error, other_error)
    level = np.minimum(nearest_int(x * inverse), four)
    wx = weight * x
    sumlx, suml2 = add_down(wx * level), add_down(weight * level * level)
    level %= np.float32(256)
    for _ in range(5):
        if sum(_refine(x[i], weight[i], wx[i], level[i], sumlx, suml2) for i in range(len(x))) == 0:
            break
    return np.where(suml2 > 0, sumlx / suml2, np.float32(0))


def _refine(x: Floats, weight: Floats, wx: Floats, level: Floats, sumlx: Floats, suml2: Floats) -> bool:
    """Move one level of each block where that pays, in place with the sums; True if any moved."""
    slx = sumlx - wx * level
    sl2 = suml2 - weight * level * level
    solved = x * sl2
    solved /= slx
    moved = np.minimum(nearest_int(solved), np.float32(4))
    at = np.flatnonzero((moved != level) & (slx > 0) & (sl2 > 0))
    slx, sl2, moved = slx[at], sl2[at], moved[at]
    slx += wx[at] * moved
    sl2 += weight[at] * moved * moved
    better = slx * slx * suml2[at] > sumlx[at] * sumlx[at] * sl2
    at = at[better]
    level[at], sumlx[at], suml2[at] = moved[better] % np.float32(256), slx[better], sl2[better]
    return bool(at.size)


def _squared_error(x: Floats, weight: Floats, level: Floats, inverse: Floats) -> Floats:
    difference = x - np.float32(1) / inverse * level
    return dot_down(weight, difference, difference)
