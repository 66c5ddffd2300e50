"""The splits of IQ1's blocks: of all ways to give sorted weights the levels -1, 0, 1, the one that fits best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np

from .grid_books import Ints
from .grid_neighbours import parts
from .registry import Floats

DELTA = np.float32(0.125)

# Levels -1, 0, 1 with the shift upwards and downwards.
VALUES = np.array([[-1], [0], [1]], np.float32) + np.array([DELTA, -DELTA])

# Splits whose score comes within this part of the best one are compared again, in the order of the reference.
_NEAR = np.float32(1 - 1e-4)
# Where score * sum of w, about (sum w q x)^2, is outside of these bounds, float32 underflows or overflows somewhere.
_SMALL, _LARGE = np.float32(1e-30), np.float32(1e34)

# Blocks whose splits are searched at once, better not a power of two, see `BlockCodec.batch`; and pairs of block and
# `low` that are looked at again at once.
_COLUMNS = 4160
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


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows of values (m, n): (m + 1, n), added in order."""
    sums = np.zeros((len(values) + 1, values.shape[1]), np.float32)
    for value, before, after in zip(values, sums[:-1], sums[1:], strict=True):
        np.add(before, value, out=after)
    return sums


class Splits(ABC):
    """Sums over all splits of sorted weights: `low` of them at level -1, `middle` of them at level -1 or 0.

    With levels one apart, sum w q x is total - x[low] - x[middle], and sum w q^2 is first[low] + second[middle].

    Attributes:
        x: running sum of w x, (size + 1, blocks).
        weight: sum of w of each block, (blocks,).
        total: of each shift, (shifts, blocks).
        first, second: of each shift, (shifts, size + 1, blocks).
    """

    x: Floats
    weight: Floats
    total: Floats
    first: Floats
    second: Floats

    def rough(self) -> Floats:
        """Nearly the best score sum(w q x)^2 / sum(w q^2) of the splits of each `low`, (size + 1, blocks)."""
        best = np.empty(self.x.shape, np.float32)
        sumqx, sumq2 = np.empty((2, *self.first.shape), np.float32)
        for low, scores in enumerate(best):
            qx, q2 = sumqx[:, low:], sumq2[:, low:]
            np.subtract(self.total[:, None], self.x[low:] + self.x[low], out=qx)
            np.add(self.second[:, low:], self.first[:, low, None], out=q2)
            qx *= qx
            qx /= q2
            np.fmax.reduce(qx, axis=(0, 1), out=scores)
        return best

    @abstractmethod
    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        """sum w q x and sum w q^2 as the reference computes them: (shifts, size + 1, pairs of block and low)."""


def best_split(kind: type[OneShift] | type[TwoShifts], order: Ints, weight: Floats, wx: Floats) -> Split:
    """The split that fits each block best.

    Args:
        kind: which shifts there are.
        order: flat places of the weights of each block sorted ascending, (size, blocks).
        weight: their importance, (size, blocks), unsorted.
        wx: weight * x, same shape.
    """
    starts = range(0, order.shape[1], _COLUMNS)
    splits = [_best_split(kind(order[:, i : i + _COLUMNS], weight, wx)) for i in starts]
    return Split(*(np.concatenate([getattr(split, f.name) for split in splits]) for f in fields(Split)))


def _best_split(splits: Splits) -> Split:
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


def _look_again(splits: Splits, block: Ints, low: Ints, threshold: Floats, best: Split) -> None:
    """Go through the splits of these pairs of block and low in the reference's order; write the winners to `best`."""
    sumqx, sumq2 = splits.exact(block, low)
    eligible = sumqx * sumqx
    eligible /= sumq2
    near = ~(eligible < threshold[block])
    near &= sumq2 > 0
    shifts, middles, pairs = near.shape
    shift, middle, pair = np.unravel_index(np.flatnonzero(near), near.shape)
    in_order = np.sort((pair * middles + middle) * shifts + shift)
    pair, middle, shift = np.unravel_index(in_order, (pairs, middles, shifts))
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


class OneShift(Splits):
    """The whole block shifts upwards (0) or downwards (1)."""

    def __init__(self, order: Ints, weight: Floats, wx: Floats) -> None:
        self.x, self._w = _running(wx.reshape(-1).take(order)), _running(weight.reshape(-1).take(order))
        self.weight = self._w[-1]
        v0, v1, v2 = VALUES[:, :, None, None]
        self.total = v2[:, 0] * self.x[-1]
        self.first = (v0 * v0 - v1 * v1) * self._w
        self.second = (v1 * v1 - v2 * v2) * self._w
        self.second += v2 * v2 * self.weight

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        """One pair of sums for each shift."""
        x, w = self.x.take(block, axis=1), self._w.take(block, axis=1)
        pairs = np.arange(len(block))
        x1, w1 = x[low, pairs], w[low, pairs]
        dx, dw, rest_x, rest_w = x - x1, w - w1, x[-1] - x, w[-1] - w
        sumqx, sumq2 = np.empty((2, 2, *x.shape), np.float32)
        for shift, (v0, v1, v2) in enumerate(VALUES.T):
            sumqx[shift] = dx * v1 + x1 * v0
            sumqx[shift] += rest_x * v2
            sumq2[shift] = dw * v1 * v1 + w1 * v0 * v0
            sumq2[shift] += rest_w * v2 * v2
        return sumqx, sumq2


class TwoShifts(Splits):
    """Either half of the unsorted block shifts upwards or downwards: 0 up up, 1 up down, 2 down up, 3 down down."""

    def __init__(self, order: Ints, weight: Floats, wx: Floats) -> None:
        x, w = wx.reshape(-1).take(order), weight.reshape(-1).take(order)
        second = (order >= weight.size // 2).astype(np.float32)
        self._halves = [(_running(x * half), _running(w * half)) for half in (1 - second, second)]
        (x0, w0), (x1, w1) = self._halves
        self.x = x0 + x1
        self.weight = w0[-1] + w1[-1]
        v0, v1, v2 = VALUES[:, :, None]
        self.total = _for_each_pair(v2 * x0[-1], v2 * x1[-1])
        # The squares of neighbouring levels differ by 3/4 and 5/4 upwards, and by -5/4 and -3/4 downwards.
        step = (v0 * v0 - v1 * v1)[:, None]
        self.first = _for_each_pair(step * w0, step * w1)
        sumq2 = _for_each_pair(v2 * v2 * w0[-1], v2 * v2 * w1[-1])
        self.second = sumq2[:, None] - self.first[::-1]

    def exact(self, block: Ints, low: Ints) -> tuple[Floats, Floats]:
        """The sums of both halves, added for each pair of shifts."""
        pairs = np.arange(len(block))
        sums = []
        for x_all, w_all in self._halves:
            x, w = x_all.take(block, axis=1), w_all.take(block, axis=1)
            both = x[low, pairs] + x
            for v0, v1, v2 in VALUES.T:
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


def _for_each_pair(first: Floats, second: Floats) -> Floats:
    """Sums of what the halves have for either shift, (2, ...), for each pair of shifts, (4, ...)."""
    return (first[:, None] + second).reshape(4, *first.shape[1:])
