"""IQ1_S and IQ1_M: groups of 8 weights on a grid of 2048 points of the levels -1, 0, 1, shifted by 1/8 up or down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

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

# Blocks whose splits are searched at once, and pairs of block and `low` that are looked at again at once.
_COLUMNS = 1 << 11
_PAIRS_AT_ONCE = 1 << 11


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


def _joined(splits: list[Split]) -> Split:
    return Split(*(np.concatenate([getattr(s, f.name) for s in splits]) for f in fields(Split)))


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
        """Best split of each column, `order` (size, blocks) being the flat places of the weights sorted ascending."""

    @abstractmethod
    def _down(self, shift: Ints) -> Mask:
        """Whether each group shifts downwards, (groups of a block, blocks)."""

    @abstractmethod
    def _mirrored(self, shift: Ints) -> Ints:
        """The shifts of the block with all signs changed."""

    def _fit(self, x: Floats, weight: Floats) -> tuple[Floats, Points, Ints]:
        """Scale (blocks,), grid points (groups of a block, blocks) and shift (blocks,), -1 for empty blocks."""
        order = _sorted_places(x)
        wx = weight * x
        splits = [self._split(order[:, i : i + _COLUMNS], weight, wx) for i in range(0, x.shape[1], _COLUMNS)]
        split = _joined(splits)
        place = np.arange(self.size, dtype=np.int8)[:, None]
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


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows of values (m, n): (m + 1, n), added in order."""
    sums = np.zeros((len(values) + 1, values.shape[1]), np.float32)
    for value, before, after in zip(values, sums[:-1], sums[1:], strict=True):
        np.add(before, value, out=after)
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
    """Sums over all splits of sorted weights: `low` of them at level -1, `middle` of them at level -1 or 0.

    With levels one apart, sum w q x is total - x[low] - x[middle], and sum w q^2 is first[low] + second[middle], where
    each shift has its total (blocks,) and its running sums first and second (size + 1, blocks).

    Attributes:
        x: running sum of w x, (size + 1, blocks).
        weight: sum of w of each block, (blocks,).
        shifts: total, first and second of each shift.
    """

    x: Floats
    weight: Floats
    shifts: list[tuple[Floats, Floats, Floats]]

    def rough(self) -> Floats:
        """Nearly the best score sum(w q x)^2 / sum(w q^2) of the splits of each `low`, (size + 1, blocks)."""
        best = np.full(self.x.shape, -np.inf, np.float32)
        for low, scores in enumerate(best):
            both = self.x[low:] + self.x[low]
            for total, first, second in self.shifts:
                sumqx = total - both
                sumqx *= sumqx
                sumqx /= second[low:] + first[low]
                np.maximum(scores, np.maximum.reduce(sumqx, axis=0), out=scores)
        return best

    @abstractmethod
    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        """sum w q x and sum w q^2 as the reference computes them: (shifts, size + 1, pairs of block and low)."""


def _best_split(splits: _Splits) -> Split:
    """The split that the reference ends with: it takes one if (sum w q x)^2 exceeds best * sum w q^2.

    Scores decide but for splits that nearly tie; among those its order and rounding do.
    """
    rough = splits.rough()
    top = np.maximum.reduce(rough, axis=0)
    square = top * splits.weight
    tame = (square > _SMALL) & (square < _LARGE) & (splits.weight > _SMALL)
    threshold = np.where(tame, top * _NEAR, np.float32(-np.inf))
    near = ~(rough < threshold).T
    pairs = np.flatnonzero(near)
    block = pairs // near.shape[1]
    low = pairs - block * near.shape[1]
    counts = np.bincount(block, minlength=len(top))
    starts = np.concatenate([[0], np.cumsum(counts)])
    zeros = np.zeros(len(top), np.intp)
    best = Split(np.zeros(len(top), np.float32), zeros, zeros.copy(), zeros - 1)
    for part in parts(counts, _PAIRS_AT_ONCE):
        some = slice(starts[part.start], starts[part.stop])
        _look_again(splits, block[some], low[some], threshold, best)
    return best


def _look_again(splits: _Splits, block: Ints, low: Ints, threshold: Floats, best: Split) -> None:
    """Go through the splits of these pairs of block and low in the reference's order; write the winners to `best`."""
    sumqx, sumq2 = splits.exact(block, low)
    eligible = sumqx * sumqx
    eligible /= sumq2
    near = ~(eligible < threshold[block])
    near &= sumq2 > 0
    shifts, middles, pairs = near.shape
    at = np.flatnonzero(near.transpose(2, 1, 0))
    pair = at // (shifts * middles)
    split = at - pair * (shifts * middles)
    middle = split // shifts
    shift = split - middle * shifts
    reached = middle >= low[pair]
    pair, middle, shift = pair[reached], middle[reached], shift[reached]
    if not pair.size:
        return
    source = (shift * middles + middle) * pairs + pair
    owner, qx, q2 = block[pair], sumqx.reshape(-1)[source], sumq2.reshape(-1)[source]
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
        self.x, self._w = _running(wx.reshape(-1).take(order)), _running(weight.reshape(-1).take(order))
        self.weight = self._w[-1]
        self.shifts = [
            (v2 * self.x[-1], (v0 * v0 - v1 * v1) * self._w, (v1 * v1 - v2 * v2) * self._w + v2 * v2 * self.weight)
            for v0, v1, v2 in _VALUES.T
        ]

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        x, w = self.x.take(block, axis=1), self._w.take(block, axis=1)
        pairs = np.arange(len(block))
        x1, w1 = x[low, pairs], w[low, pairs]
        dx, dw, rest_x, rest_w = x - x1, w - w1, x[-1] - x, w[-1] - w
        sumqx, sumq2 = np.empty((2, 2, *x.shape), np.float32)
        for shift, (v0, v1, v2) in enumerate(_VALUES.T):
            sumqx[shift] = dx * v1 + x1 * v0
            sumqx[shift] += rest_x * v2
            sumq2[shift] = dw * v1 * v1 + w1 * v0 * v0
            sumq2[shift] += rest_w * v2 * v2
        return sumqx, sumq2


class _TwoShifts(_Splits):
    """Either half of the unsorted block shifts upwards or downwards: 0 up up, 1 up down, 2 down up, 3 down down."""

    def __init__(self, order: Ints, weight: Floats, wx: Floats) -> None:
        x, w = wx.reshape(-1).take(order), weight.reshape(-1).take(order)
        second = (order >= weight.size // 2).astype(np.float32)
        self._halves = [(_running(x * half), _running(w * half)) for half in (1 - second, second)]
        (x0, w0), (x1, w1) = self._halves
        self.x = x0 + x1
        self.weight = w0[-1] + w1[-1]
        # The squares of neighbouring levels differ by 3/4 and 5/4 upwards, and by -5/4 and -3/4 downwards.
        less, more = np.float32(0.75), np.float32(1.25)
        halves = (less * w0, more * w0), (less * w1, more * w1)
        firsts = [halves[0][a] + halves[1][b] for a, b in _PAIRS]
        self.shifts = []
        for (a, b), first, opposite in zip(_PAIRS, firsts, reversed(firsts), strict=True):
            top = _VALUES[2, [a, b]]
            sumq2 = top[0] * top[0] * w0[-1] + top[1] * top[1] * w1[-1]
            self.shifts.append((top[0] * x0[-1] + top[1] * x1[-1], first, sumq2 - opposite))

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        pairs = np.arange(len(block))
        sums = []
        for x_all, w_all in self._halves:
            x, w = x_all.take(block, axis=1), w_all.take(block, axis=1)
            both = x[low, pairs] + x
            for v0, v1, v2 in _VALUES.T:
                sumq2 = w * (v1 * v1 - v2 * v2)
                sumq2 += w[-1] * v2 * v2 + w[low, pairs] * (v0 * v0 - v1 * v1)
                sums.append((x[-1] * v2 - both, sumq2))
        sumqx, sumq2 = np.empty((2, 4, *both.shape), np.float32)
        for (a, b), qx, q2 in zip(_PAIRS, sumqx, sumq2, strict=True):
            np.add(sums[a][0], sums[2 + b][0], out=qx)
            np.add(sums[a][1], sums[2 + b][1], out=q2)
        return sumqx, sumq2


# Shifts of both halves.
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))


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
