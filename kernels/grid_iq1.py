"""IQ1_S and IQ1_M: groups of 8 weights on a grid of 2048 points of the levels -1, 0, 1, shifted by 1/8 up or down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ._blocks import add_down, from_halves, halves
from .grid_books import Book, Ints, book
from .grid_parts import GridCodec, by_super_block, decoded_grid, importance, mean_square, scale_codes, to_columns
from .grid_search import BORDER, Mask, Overflow, Points, States, group_wise, likely_points, parts, settled
from .registry import Bytes, Floats, MissingImatrix

_DELTA = np.float32(0.125)

# Levels -1, 0, 1 with the shift upwards and downwards.
_VALUES = np.array([[-1], [0], [1]], np.float32) + np.array([_DELTA, -_DELTA])

# Splits whose score comes within this part of the best one are compared again, in the order of the reference.
_NEAR = np.float32(1 - 1e-4)
# Where score * sum of w, about (sum w q x)^2, is outside of these bounds, float32 underflows or overflows somewhere.
_SMALL, _LARGE = np.float32(1e-30), np.float32(1e34)

# Elements of the scratch arrays of the second look at splits.
_SCRATCH = 1 << 13


@dataclass(frozen=True)
class Split:
    """The best split of the sorted weights of each block into three levels.

    Attributes:
        scale: float32 (blocks,); negative if the levels are to be mirrored.
        low: how many weights have level -1, (blocks,).
        middle: how many have level -1 or 0, (blocks,).
        shift: number of the shift (or pair of shifts), (blocks,); -1 where no split has a positive sum of squares.
    """

    scale: Floats
    low: Ints
    middle: Ints
    shift: Ints


class _IQ1(GridCodec):
    """Blocks are split exhaustively: of all ways to give sorted weights the levels -1, 0, 1, the one that fits best.

    Of equal weights in a block the first one in memory sorts first, as with a stable sort in the reference. (The C
    standard does not promise that for `qsort`; glibc's is a merge sort for arrays of this size.)
    """

    size: int
    """Weights of a block."""
    smallest: np.float32
    """Blocks whose largest magnitude is below this have scale 0."""

    @abstractmethod
    def _split(self, order: Ints, weight: Floats, wx: Floats) -> Split:
        """Best split of each column, `order` (size, blocks) being the places of the weights sorted ascending."""

    @abstractmethod
    def _down(self, shift: Ints) -> Mask:
        """Whether each group shifts downwards, (groups of a block, blocks)."""

    @abstractmethod
    def _mirrored(self, shift: Ints) -> Ints:
        """The shifts of the block with all signs changed."""

    def _fit(self, x: Floats, weight: Floats) -> tuple[Floats, Points, Ints]:
        """Scale (blocks,), grid points (groups of a block, blocks) and shift (blocks,), -1 for empty blocks."""
        order = _sorted_places(x)
        split = self._split(order, weight, weight * x)
        place = np.arange(self.size)[:, None]
        sorted_level = (place >= split.low).astype(np.uint8) + (place >= split.middle)
        level = np.empty_like(sorted_level)
        np.put_along_axis(level, order, sorted_level, axis=0)
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
        offset = np.where(moved_down, np.float32(1.5) + _DELTA, np.float32(1.5) - _DELTA)
        s = np.tile(scale, len(down))
        centred = columns + s * offset
        # q = (odd - 3) / 2 + shift, so that s q - x is s / 2 * odd - centred.
        half = s * np.float32(0.5)
        states |= np.where(_rounds_to(level, centred, half), 0, BORDER).astype(np.uint16)
        states[np.tile(shift < 0, len(down))] = grid.first_state
        importance = group_wise(weight, 8)
        point, unsure = likely_points(grid, states[:, None], centred, importance, np.ones(1, np.float32), half)
        point = point.reshape(groups)
        for which, values in enumerate(_VALUES.T):
            here = unsure[moved_down[unsure] == bool(which)]
            point[here] = settled(grid, values[grid.level.T], states[here], columns, importance, here, s[here])
        point = point.reshape(down.shape)
        off = (grid.index[states & np.uint16(BORDER - 1)] < 0).reshape(down.shape).any(axis=0)
        sumqx, sumq2 = _sums(grid, point, down, x, weight)
        solved = scale.copy()
        np.divide(sumqx, sumq2, out=solved, where=off & (sumqx > 0) & (sumq2 > 0))
        return solved, point


def _sorted_places(x: Floats) -> Ints:
    """Which weight comes where when each column of x is sorted, stably: intp, shape of x."""
    # As an integer, a positive float32 sorts like itself and a negative one backwards; -0 is made +0.
    bits = np.ascontiguousarray(x.T + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64) << 32
    keys |= np.arange(len(x))
    keys.sort(axis=1)
    places: Ints = np.ascontiguousarray((keys & 0xFFFFFFFF).T).astype(np.intp)
    return places


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows of values (m, n): (m + 1, n), added in order."""
    sums = np.zeros((len(values) + 1, values.shape[1]), np.float32)
    np.add.accumulate(values, axis=0, out=sums[1:])
    return sums


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
        np.take(grid.odd, points, axis=1, out=values)
    q *= np.float32(0.5)
    q -= np.where(down, np.float32(1.5) + _DELTA, np.float32(1.5) - _DELTA)[:, None]
    return q.reshape(-1, point.shape[1])


def _sums(grid: Book, point: Points, down: Mask, x: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """sum w q x and sum w q^2 over each block, added in order."""
    q = _values(grid, point, down)
    wq = weight * q
    q *= wq
    wq *= x
    return add_down(wq), add_down(q)


class _Splits(ABC):
    """Sums over all splits of sorted weights: `low` of them at level -1, `middle` of them at level -1 or 0."""

    size: int
    blocks: int
    total: Floats
    """Sum of w of each block, (blocks,)."""

    @abstractmethod
    def rough(self, low: int) -> Floats:
        """Nearly the best score sum(w q x)^2 / sum(w q^2) of the splits with this `low`, (blocks,)."""

    @abstractmethod
    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        """sum w q x and sum w q^2 as the reference computes them: (shifts, size + 1, pairs of block and low)."""


def _best_split(splits: _Splits) -> Split:
    """The split that the reference ends with: it takes one if (sum w q x)^2 exceeds best * sum w q^2.

    Scores decide but for splits that nearly tie; among those its order and rounding do.
    """
    rough = np.stack([splits.rough(low) for low in range(splits.size + 1)])
    top = rough.max(axis=0)
    square = top * splits.total
    tame = (square > _SMALL) & (square < _LARGE) & (splits.total > _SMALL)
    threshold = np.where(tame, top * _NEAR, np.float32(-np.inf))
    near = ~(rough < threshold)
    block, low = np.nonzero(near.T)
    counts = near.sum(axis=0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    best = Split(
        np.zeros(splits.blocks, np.float32),
        np.zeros(splits.blocks, np.intp),
        np.zeros(splits.blocks, np.intp),
        np.full(splits.blocks, -1),
    )
    for part in parts(counts, _SCRATCH):
        pairs = slice(starts[part.start], starts[part.stop])
        _look_again(splits, block[pairs], low[pairs], threshold, best)
    return best


def _look_again(splits: _Splits, block: Ints, low: Ints, threshold: Floats, best: Split) -> None:
    """Go through the splits of these pairs of block and low in the reference's order; write the winners to `best`."""
    sumqx, sumq2 = splits.exact(block, low)
    eligible = ~(sumqx * sumqx / sumq2 < threshold[block]) & (sumq2 > 0)
    eligible &= np.arange(splits.size + 1)[:, None] >= low
    pair, middle, shift = np.nonzero(eligible.transpose(2, 1, 0))
    if not len(pair):
        return
    owner, qx, q2 = block[pair], sumqx[shift, middle, pair], sumq2[shift, middle, pair]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    count = np.diff(first, append=len(owner))
    score = np.full(len(first), -np.finfo(np.float32).max)
    winner = np.full(len(first), -1)
    for rank in range(count.max()):
        (alive,) = np.nonzero(count > rank)
        at = first[alive] + rank
        better = qx[at] * qx[at] > score[alive] * q2[at]
        at, alive = at[better], alive[better]
        score[alive] = qx[at] / q2[at] * qx[at]
        winner[alive] = at
    winner = winner[winner >= 0]
    to = owner[winner]
    best.scale[to] = qx[winner] / q2[winner]
    best.low[to], best.middle[to], best.shift[to] = low[pair[winner]], middle[winner], shift[winner]


class _OneShift(_Splits):
    """The whole block shifts upwards (0) or downwards (1)."""

    def __init__(self, order: Ints, weight: Floats, wx: Floats) -> None:
        self.size, self.blocks = order.shape
        self._x = _running(np.take_along_axis(wx, order, axis=0))
        self._w = _running(np.take_along_axis(weight, order, axis=0))
        self.total = self._w[-1]
        square = _VALUES * _VALUES
        self._total = [value * self._x[-1] for value in _VALUES[2]]
        self._first = [a * self._w for a in square[0] - square[1]]
        self._second = [a * self._w + b * self._w[-1] for a, b in zip(square[1] - square[2], square[2], strict=True)]

    def rough(self, low: int) -> Floats:
        both = self._x[low:] + self._x[low]
        best = np.full(self.blocks, -np.inf, np.float32)
        for total, first, second in zip(self._total, self._first, self._second, strict=True):
            sumqx = total - both
            sumqx *= sumqx
            sumqx /= second[low:] + first[low]
            np.maximum(best, sumqx.max(axis=0), out=best)
        return best

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        x, w = self._x[:, block], self._w[:, block]
        pairs = np.arange(len(block))
        x1, w1 = x[low, pairs], w[low, pairs]
        sumqx, sumq2 = np.empty((2, 2, self.size + 1, len(block)), np.float32)
        for shift, (v0, v1, v2) in enumerate(_VALUES.T):
            sumqx[shift] = x1 * v0 + (x - x1) * v1 + (x[-1] - x) * v2
            sumq2[shift] = w1 * v0 * v0 + (w - w1) * v1 * v1 + (w[-1] - w) * v2 * v2
        return sumqx, sumq2


class _TwoShifts(_Splits):
    """Either half of the unsorted block shifts upwards or downwards: 0 up up, 1 up down, 2 down up, 3 down down."""

    def __init__(self, order: Ints, weight: Floats, wx: Floats) -> None:
        self.size, self.blocks = order.shape
        x, w = np.take_along_axis(wx, order, axis=0), np.take_along_axis(weight, order, axis=0)
        second_half = order >= self.size // 2
        self._x = [_running(np.where(second_half == half, x, np.float32(0))) for half in (False, True)]
        self._w = [_running(np.where(second_half == half, w, np.float32(0))) for half in (False, True)]
        self.total = self._w[0][-1] + self._w[1][-1]

    def rough(self, low: int) -> Floats:
        sumqx, sumq2 = _both_halves([x[low:] for x in self._x], [w[low:] for w in self._w], *self._firsts(low))
        sumqx *= sumqx
        sumqx /= sumq2
        best: Floats = sumqx.max(axis=(0, 1))
        return best

    def _firsts(self, low: int) -> tuple[list[Floats], list[Floats]]:
        return [x[low] for x in self._x], [w[low] for w in self._w]

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        x, w = [x[:, block] for x in self._x], [w[:, block] for w in self._w]
        pairs = np.arange(len(block))
        return _both_halves(x, w, [half[low, pairs] for half in x], [half[low, pairs] for half in w])


def _both_halves(x: list[Floats], w: list[Floats], x1: list[Floats], w1: list[Floats]) -> tuple[Floats, Floats]:
    """sum w q x and sum w q^2 (4, middle, blocks), from the running sums of both halves, and those at `low`.

    With levels one apart, sum q = total v2 - sum_low - sum_middle.
    """
    sumqx, sumq2 = [], []
    for half in range(2):
        both = x1[half] + x[half]
        for v0, v1, v2 in _VALUES.T:
            sumqx.append(x[half][-1] * v2 - both)
            first = w[half][-1] * v2 * v2 + w1[half] * (v0 * v0 - v1 * v1)
            sumq2.append(first + w[half] * (v1 * v1 - v2 * v2))
    pairs = ((0, 2), (0, 3), (1, 2), (1, 3))
    return np.stack([sumqx[a] + sumqx[b] for a, b in pairs]), np.stack([sumq2[a] + sumq2[b] for a, b in pairs])


class IQ1S(_IQ1):
    """IQ1_S: w = d * (2 s + 1) * (grid[q] + 1/8 or - 1/8). Needs an importance matrix.

    Super-block, 256 weights in 50 bytes: d f16; qs[32], low 8 bits of q of each 8 weights; 8 words of 16 bits, one for
    each 32 weights: four times the 3 high bits of q, s in 3 bits, and the sign of the shift on top.
    """

    name = "IQ1_S"
    size = 32
    smallest = np.float32(1e-12)

    def _split(self, order: Ints, weight: Floats, wx: Floats) -> Split:
        return _best_split(_OneShift(order, weight, wx))

    def _down(self, shift: Ints) -> Mask:
        return np.broadcast_to(shift == 1, (4, len(shift)))

    def _mirrored(self, shift: Ints) -> Ints:
        return 1 - shift

    def _pack(self, blocks: Floats, beside: Floats | None, out: Bytes) -> None:
        if beside is None:
            raise MissingImatrix("IQ1_S cannot be quantized without an importance matrix")
        supers = len(blocks)
        x = to_columns(blocks, 32)
        weight = importance(x, to_columns(beside, 32), mean_square(x, 2))
        scale, point, shift = self._fit(x, weight)
        d, code = scale_codes(scale.reshape(8, supers), 15, 7)
        code |= ((shift == 1).reshape(8, supers) & (d > 0)).astype(np.uint8) << 3
        high = (point >> 8).astype(np.uint16).reshape(4, 8, supers)
        words = high[0] | high[1] << 3 | high[2] << 6 | high[3] << 9 | code.astype(np.uint16) << 12
        out[:, 0:2] = halves(d * np.float32(1.125))
        out[:, 2:34] = by_super_block(point, supers) & 255
        out[:, 34:50] = np.ascontiguousarray(words.T).astype("<u2").view(np.uint8)

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 34:50]).view("<u2")
        high = words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7
        index = packed[:, 2:34] | high.reshape(-1, 32).astype(np.intp) << 8
        scale = from_halves(packed[:, 0:2]) * (2 * (words >> 12 & 7) + 1).astype(np.float32)
        down = np.repeat(words >> 15, 4, axis=1).astype(bool)
        _shifted_points(index, down, scale, out)


class IQ1M(_IQ1):
    """IQ1_M: w = d * (2 s + 1) * (grid[q] + 1/8 or - 1/8).

    Super-block, 256 weights in 56 bytes: qs[32], low 8 bits of q of each 8 weights; qh[16], for each 8 weights 4 bits:
    the 3 high bits of q and the sign of the shift; 4 words of 16 bits: s of each 16 weights in 3 bits, and on top 4
    bits of d, an f16, the lowest first. Without an importance matrix a weight counts x^2.
    """

    name = "IQ1_M"
    size = 16
    smallest = np.float32(1e-7)

    def _split(self, order: Ints, weight: Floats, wx: Floats) -> Split:
        return _best_split(_TwoShifts(order, weight, wx))

    def _down(self, shift: Ints) -> Mask:
        return np.stack([shift >= 2, (shift & 1 == 1) & (shift >= 0)])

    def _mirrored(self, shift: Ints) -> Ints:
        return 3 - shift

    def _pack(self, blocks: Floats, beside: Floats | None, out: Bytes) -> None:
        supers = len(blocks)
        x = to_columns(blocks, 16)
        weight = x * x if beside is None else importance(x, to_columns(beside, 16), mean_square(x, 2))
        scale, point, shift = self._fit(x, weight)
        d, code = scale_codes(scale.reshape(16, supers), 15, 7)
        some = d > 0
        down = self._down(shift)
        d = np.where(some, self._solved(x, weight, point, down, code, d), np.float32(0))
        half = halves(d * np.float32(1.1125)).view("<u2").reshape(supers)
        out[:, 0:32] = by_super_block(point, supers) & 255
        high = (point >> 8).astype(np.uint8) | (down & np.tile(some, 16)).astype(np.uint8) << 3
        out[:, 32:48] = by_super_block(high[:1] | high[1:] << 4, supers)
        three = code.astype(np.uint16).reshape(4, 4, supers)
        words = three[:, 0] | three[:, 1] << 3 | three[:, 2] << 6 | three[:, 3] << 9
        words |= (half >> np.array([[0], [4], [8], [12]], np.uint16) & 15) << 12
        out[:, 48:56] = np.ascontiguousarray(words.T).astype("<u2").view(np.uint8)

    @staticmethod
    def _solved(x: Floats, weight: Floats, point: Points, down: Mask, code: Bytes, d: Floats) -> Floats:
        """The d of each super-block that fits its points and codes best, added in the order of the weights."""
        supers = len(d)
        q = _values(book("IQ1_S"), point, down)
        q *= (2 * code.astype(np.float32) + 1).reshape(-1)
        wq = weight * q
        q *= wq
        wq *= x
        sumqx, sumq2 = (
            add_down(terms.reshape(16, 16, supers).transpose(1, 0, 2).reshape(256, supers)) for terms in (wq, q)
        )
        return np.where(sumq2 > 0, sumqx / sumq2, d)

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        words = np.ascontiguousarray(packed[:, 48:56]).view("<u2")
        half = np.bitwise_or.reduce(words >> 12 << np.array([0, 4, 8, 12], np.uint16), axis=1)
        code = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
        high = (packed[:, 32:48, None] >> np.array([0, 4], np.uint8)).reshape(-1, 32)
        index = packed[:, 0:32] | (high & 7).astype(np.intp) << 8
        scale = half.astype("<u2").view("<f2").astype(np.float32)[:, None] * (2 * code + 1).astype(np.float32)
        _shifted_points(index, (high & 8).astype(bool), scale, out)


def _shifted_points(index: Ints, down: Mask, scale: Floats, out: Floats) -> None:
    """Write scale * (grid point + shift) to `out` (B, 256); index and down (B, 32), scale (B, blocks)."""
    eights = out.reshape(-1, 8)
    np.take(decoded_grid("IQ1_S"), index.reshape(-1), axis=0, out=eights)
    eights += np.where(down.reshape(-1, 1), -_DELTA, _DELTA)
    blocks = out.reshape(len(out), scale.shape[1], -1)
    blocks *= scale[:, :, None]
