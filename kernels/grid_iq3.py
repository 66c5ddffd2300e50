"""IQ3_S and IQ3_XXS: groups of 4 weights on a grid of 512 or 256 points of 8 levels."""

from __future__ import annotations

import numpy as np

from .blocks import SuperBlockCodec
from .columns import SUPER, importance_weights, mean_square, read_halves, write_halves
from .grid_books import book
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
from .registry import Bytes, Floats


class _IQ3(SuperBlockCodec):
    """Blocks of 32 weights; without an importance matrix a weight counts x^2."""

    column = 32
    batch = 528 * SUPER

    reach: int
    """Steps of the ladder of scales on either side of max / 15."""

    @staticmethod
    def _weights(x: Floats, beside: Floats | None) -> Floats:
        return x * x if beside is None else importance_weights(x, beside, mean_square(x, 2))

    def _fit(self, x: Floats, weight: Floats, smallest: np.float32, redo: str) -> Fit:
        """Search all blocks but the empty ones, whose largest magnitude is below `smallest`."""
        top = x.max(axis=0)
        ladder = np.arange(-self.reach, self.reach + 1, dtype=np.float32) * np.float32(0.2) + np.float32(15)
        return search(book(self.name), x, weight, ladder, top, top / np.float32(15), top < smallest, redo)


class IQ3S(_IQ3):
    """IQ3_S: w = d * (2 s + 1) * grid[q] * sign.

    Super-block, 256 weights in 110 bytes: d f16; qs[64], low 8 bits of q of each 4 weights; qh[8], bit 8 of it;
    signs[32]; scales[4], s of each 32 weights, two a byte.

    The reference writes qs and signs of a block of zeros not where they belong but nowhere: later blocks of the
    super-block move up. Such a super-block decodes wrongly, and ours is the same.
    """

    name = "IQ3_S"
    reach = 9

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        weight = self._weights(x, beside)
        magnitude = np.abs(x)
        fit = self._fit(magnitude, weight, np.finfo(np.float32).smallest_subnormal, "block")
        signs = np.where(fit.empty, 0, sign_bits(x) ^ np.uint8(255) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(8, supers), 31, 15)
        point = by_super_block(fit.point, supers)
        write_halves(d * np.float32(1.033), packed, 0)
        packed[:, 2:66] = point & 255
        packed[:, 66:74] = np.packbits((point >> 8).astype(np.uint8), axis=1, bitorder="little")
        packed[:, 74:106] = by_super_block(signs, supers)
        packed[:, 106:110] = nibbles(code)
        self._close_gaps(fit.empty.reshape(8, supers).T, packed)

    @staticmethod
    def _close_gaps(empty: Floats, out: Bytes) -> None:
        """Move qs and signs of blocks up over the empty ones (B, 8) before them."""
        holes = np.flatnonzero(empty.any(axis=1))
        order = np.argsort(empty[holes], axis=1, kind="stable")[:, :, None]
        for start, size in ((2, 64), (74, 32)):
            field = out[holes, start : start + size].reshape(-1, 8, size // 8)
            out[holes, start : start + size] = np.take_along_axis(field, order, axis=1).reshape(-1, size)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        high = np.unpackbits(packed[:, 66:74], axis=1, bitorder="little").astype(np.intp)
        code = split_nibbles(packed[:, 106:110])
        scale = read_halves(packed, 0) * (2 * code + 1).astype(np.float32)
        signed_points(self.name, packed[:, 2:66] | high << 8, packed[:, 74:106], scale, values)


class IQ3XXS(_IQ3):
    """IQ3_XXS: w = d * (s + 1/2) / 2 * grid[q] * sign.

    Super-block, 256 weights in 98 bytes: d f16; q[64], a byte for each 4 weights; 8 words of 32 bits, one for each 32
    weights: four times 7 signs (the eighth makes the number of minus signs even), and s in the 4 bits on top.
    """

    name = "IQ3_XXS"
    reach = 15

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        weight = self._weights(x, beside)
        magnitude, signs = even_signs(x, weight)
        fit = self._fit(magnitude, weight, np.float32(1e-8), "off")
        signs = np.where(fit.empty, 0, signs ^ np.uint8(127) * (fit.scale < 0)).astype(np.uint8)
        d, code = scale_codes(np.abs(fit.scale).reshape(8, supers), 31, 15)
        words = sign_words(signs, code)
        write_halves(d * np.float32(1.0125), packed, 0)
        packed[:, 2:66] = by_super_block(fit.point, supers)
        packed[:, 66:98] = words.view(np.uint8).reshape(supers, 32)
        packed[d == 0] = 0

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        signs, code = split_sign_words(np.ascontiguousarray(packed[:, 66:98]).view("<u4"))
        scale = read_halves(packed, 0) * (np.float32(0.5) + code) * np.float32(0.5)
        signed_points(self.name, packed[:, 2:66].astype(np.intp), signs, scale, values)
