"""IQ1_S and IQ1_M: groups of 8 weights on a grid of 2048 points of the levels -1, 0, 1, shifted by 1/8 up or down."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .blocks import SuperBlockCodec
from .columns import SUPER, add_down, block_sums, importance_weights, mean_square, read_halves, write_halves
from .grid_books import Book, Ints, book
from .grid_iq1_splits import DELTA, VALUES, OneShift, TwoShifts, best_split
from .grid_neighbours import Mask, Overflow, Points, likely_points, settled
from .grid_parts import by_super_block, decoded_grid, scale_codes
from .grid_states import BORDER, States, group_wise
from .registry import Bytes, Floats, MissingImatrix


class _IQ1(SuperBlockCodec):
    """Blocks are split exhaustively: of all ways to give sorted weights the levels -1, 0, 1, the one that fits best.

    Of equal weights in a block the first one in memory sorts first, as with a stable sort in the reference. (The C
    standard does not promise that for `qsort`; glibc's is a merge sort for arrays of this size.)
    """

    batch = 1040 * SUPER
    splits: type[OneShift] | type[TwoShifts]
    smallest: np.float32
    """Blocks whose largest magnitude is below this have scale 0."""

    @abstractmethod
    def _down(self, shift: Ints) -> Mask:
        """Whether each group shifts downwards, (groups of a block, blocks)."""

    @abstractmethod
    def _mirrored(self, shift: Ints) -> Ints:
        """The shifts of the block with all signs changed."""

    def _fit(self, x: Floats, weight: Floats) -> tuple[Floats, Points, Ints]:
        """Scale (blocks,), grid points (groups of a block, blocks) and shift (blocks,), -1 for empty blocks."""
        order = _sorted_places(x)
        split = best_split(self.splits, order, weight, weight * x)
        place = np.arange(self.column, dtype=np.int8)[:, None]
        sorted_level = (place >= split.low.astype(np.int8)).view(np.uint8) + (place >= split.middle.astype(np.int8))
        level = np.empty_like(sorted_level)
        level.reshape(-1)[order] = sorted_level
        mirror = split.scale < 0
        level = np.where(mirror, 2 - level, level)
        shift = np.where(mirror & (split.shift >= 0), self._mirrored(split.shift), split.shift)
        empty = (np.abs(x).max(axis=0) < self.smallest) | (shift < 0)
        shift = np.where(empty, -1, shift)
        scale = np.where(empty, np.float32(0), np.abs(split.scale))
        scale, point = self._to_grid(x, weight, level, np.where(empty, np.float32(1), scale), shift)
        if np.isnan(scale).any():
            raise Overflow
        return np.where(empty, np.float32(0), scale), np.where(empty, np.int16(0), point), shift

    def _to_grid(self, x: Floats, weight: Floats, level: Bytes, scale: Floats, shift: Ints) -> tuple[Floats, Points]:
        """Grid points of the levels (size, blocks), moved to neighbours where needed, and the scales solved again."""
        grid = book("IQ1_S")
        down = self._down(shift)
        groups = down.size
        states, columns = _states(grid, level), group_wise(x, 8)
        moved_down = down.reshape(-1)
        offset = np.where(moved_down, np.float32(1.5) + DELTA, np.float32(1.5) - DELTA)
        s = np.tile(scale, len(down))
        centred = columns + s * offset
        # q = (odd - 3) / 2 + shift, so that s q - x is s / 2 * odd - centred.
        half = s * np.float32(0.5)
        states |= np.where(_rounds_to(level, centred, half), 0, BORDER).astype(np.uint16)
        states[np.tile(shift < 0, len(down))] = grid.first_state
        importance = group_wise(weight, 8)
        rows = np.ascontiguousarray(np.concatenate([centred, importance]).T)
        point, _, unsure = likely_points(grid, states[:, None], rows, np.ones(1, np.float32), half)
        point = point.reshape(groups)
        for which, values in enumerate(VALUES.T):
            here = unsure[moved_down[unsure] == bool(which)]
            uncentred = np.ascontiguousarray(
                np.concatenate([columns.take(here, axis=1), importance.take(here, axis=1)]).T
            )
            point[here] = settled(grid, values[grid.level.T], states[here], uncentred, s[here])
        point = point.reshape(down.shape)
        off = (grid.index[states & np.uint16(BORDER - 1)] < 0).reshape(down.shape).any(axis=0)
        sumqx, sumq2 = _sums(grid, point, down, x, weight)
        solved = scale.copy()
        np.divide(sumqx, sumq2, out=solved, where=off & (sumqx > 0) & (sumq2 > 0))
        return solved, point


def _sorted_places(x: Floats) -> Ints:
    """Flat place in x of each weight when the columns of x are sorted, stably: intp, shape of x."""
    # As an integer, a positive float32 sorts like itself and a negative one backwards; -0 is made +0.
    bits = np.ascontiguousarray(x.T + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64) << 32
    keys |= np.arange(len(x))
    keys.sort(axis=1)
    keys &= 0xFF
    keys *= x.shape[1]
    keys += np.arange(x.shape[1])[:, None]
    return np.ascontiguousarray(keys.T, np.intp)


def _states(grid: Book, level: Bytes) -> States:
    """States (groups,) of the levels (size, blocks)."""
    blocks = level.shape[1]
    eights = level.reshape(-1, 8, blocks)
    state = np.zeros((len(eights), blocks), np.uint16)
    for weight in reversed(range(8)):
        state *= np.uint16(grid.levels)
        state += eights[:, weight]
    return state.reshape(-1)


def _rounds_to(level: Bytes, centred: Floats, half: Floats) -> Mask:
    """Whether the levels (size, blocks) of a group are the nearest ones to centred / half, by more than rounding."""
    nearest = np.ones(len(half), bool)
    for levels, value in zip(group_wise(level, 8), centred, strict=True):
        beyond = value / half
        beyond -= levels * np.float32(2) + np.float32(1)
        nearest &= (beyond < _INSIDE) | (levels == 2)
        nearest &= (beyond > -_INSIDE) | (levels == 0)
    return nearest


_INSIDE = np.float32(1 - 5e-5)


def _values(grid: Book, point: Points, down: Mask) -> Floats:
    """What the grid points (groups of a block, blocks) stand for: (size, blocks)."""
    q = np.empty((len(point), 8, point.shape[1]), np.float32)
    for values, points in zip(q, point, strict=True):
        grid.odd.take(points, axis=1, out=values, mode="clip")
    q *= np.float32(0.5)
    q -= np.where(down, np.float32(1.5) + DELTA, np.float32(1.5) - DELTA)[:, None]
    return q.reshape(-1, point.shape[1])


def _sums(grid: Book, point: Points, down: Mask, x: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """sum w q x and sum w q^2 over each block, added in order."""
    q = _values(grid, point, down)
    wq = weight * q
    q *= wq
    wq *= x
    return add_down(wq), add_down(q)


class IQ1S(_IQ1):
    """IQ1_S: w = d * (2 s + 1) * (grid[q] + 1/8 or - 1/8). Needs an importance matrix.

    Super-block, 256 weights in 50 bytes: d f16; qs[32], low 8 bits of q of each 8 weights; 8 words of 16 bits, one for
    each 32 weights: four times the 3 high bits of q, s in 3 bits, and the sign of the shift on top.
    """

    name = "IQ1_S"
    column = 32
    splits = OneShift
    smallest = np.float32(1e-12)

    def _down(self, shift: Ints) -> Mask:
        return np.broadcast_to(shift == 1, (4, len(shift)))

    def _mirrored(self, shift: Ints) -> Ints:
        return 1 - shift

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        if beside is None:
            raise MissingImatrix("IQ1_S cannot be quantized without an importance matrix")
        supers = len(packed)
        weight = importance_weights(x, beside, mean_square(x, 2))
        scale, point, shift = self._fit(x, weight)
        d, code = scale_codes(scale.reshape(8, supers), 15, 7)
        code |= ((shift == 1).reshape(8, supers) & (d > 0)).astype(np.uint8) << 3
        high = (point >> 8).astype(np.uint16).reshape(4, 8, supers)
        words = high[0] | high[1] << 3 | high[2] << 6 | high[3] << 9 | code.astype(np.uint16) << 12
        write_halves(d * np.float32(1.125), packed, 0)
        packed[:, 2:34] = by_super_block(point, supers) & 255
        packed[:, 34:50] = np.ascontiguousarray(words.T).astype("<u2").view(np.uint8)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 34:50]).view("<u2")
        high = words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7
        index = packed[:, 2:34] | high.reshape(-1, 32).astype(np.intp) << 8
        scale = read_halves(packed, 0) * (2 * (words >> 12 & 7) + 1).astype(np.float32)
        down = np.repeat(words >> 15, 4, axis=1).astype(bool)
        _shifted_points(index, down, scale, values)


class IQ1M(_IQ1):
    """IQ1_M: w = d * (2 s + 1) * (grid[q] + 1/8 or - 1/8).

    Super-block, 256 weights in 56 bytes: qs[32], low 8 bits of q of each 8 weights; qh[16], for each 8 weights 4 bits:
    the 3 high bits of q and the sign of the shift; 4 words of 16 bits: s of each 16 weights in 3 bits, and on top 4
    bits of d, an f16, the lowest first. Without an importance matrix a weight counts x^2.
    """

    name = "IQ1_M"
    column = 16
    splits = TwoShifts
    smallest = np.float32(1e-7)

    def _down(self, shift: Ints) -> Mask:
        return np.stack([shift >= 2, (shift & 1 == 1) & (shift >= 0)])

    def _mirrored(self, shift: Ints) -> Ints:
        return 3 - shift

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        supers = len(packed)
        weight = x * x if beside is None else importance_weights(x, beside, mean_square(x, 2))
        scale, point, shift = self._fit(x, weight)
        d, code = scale_codes(scale.reshape(16, supers), 15, 7)
        some = d > 0
        down = self._down(shift)
        d = np.where(some, self._solved(x, weight, point, down, code, d), np.float32(0))
        half = (d * np.float32(1.1125)).astype("<f2").view("<u2")
        packed[:, 0:32] = by_super_block(point, supers) & 255
        high = (point >> 8).astype(np.uint8) | (down & np.tile(some, 16)).astype(np.uint8) << 3
        packed[:, 32:48] = by_super_block(high[:1] | high[1:] << 4, supers)
        three = code.astype(np.uint16).reshape(4, 4, supers)
        words = three[:, 0] | three[:, 1] << 3 | three[:, 2] << 6 | three[:, 3] << 9
        words |= (half >> np.array([[0], [4], [8], [12]], np.uint16) & 15) << 12
        packed[:, 48:56] = np.ascontiguousarray(words.T).astype("<u2").view(np.uint8)

    @staticmethod
    def _solved(x: Floats, weight: Floats, point: Points, down: Mask, code: Bytes, d: Floats) -> Floats:
        """The d of each super-block that fits its points and codes best, added in the order of the weights."""
        supers = len(d)
        q = _values(book("IQ1_S"), point, down)
        q *= (2 * code.astype(np.float32) + 1).reshape(-1)
        wq = weight * q
        q *= wq
        wq *= x
        sumqx, sumq2 = block_sums(wq, supers), block_sums(q, supers)
        return np.where(sumq2 > 0, sumqx / sumq2, d)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 48:56]).view("<u2")
        half = np.bitwise_or.reduce(words >> 12 << np.array([0, 4, 8, 12], np.uint16), axis=1)
        code = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
        high = (packed[:, 32:48, None] >> np.array([0, 4], np.uint8)).reshape(-1, 32)
        index = packed[:, 0:32] | (high & 7).astype(np.intp) << 8
        scale = half.astype("<u2").view("<f2").astype(np.float32)[:, None] * (2 * code + 1).astype(np.float32)
        _shifted_points(index, (high & 8).astype(bool), scale, values)


def _shifted_points(index: Ints, down: Mask, scale: Floats, out: Floats) -> None:
    """Write scale * (grid point + shift) to `out` (B, 256); index and down (B, 32), scale (B, blocks)."""
    eights = out.reshape(-1, 8)
    np.take(decoded_grid("IQ1_S"), index.reshape(-1), axis=0, out=eights)
    eights += np.where(down.reshape(-1, 1), -DELTA, DELTA)
    blocks = out.reshape(len(out), scale.shape[1], -1)
    blocks *= scale[:, :, None]
