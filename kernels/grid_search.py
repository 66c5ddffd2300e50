"""The search that the grid types share: scale of a block and grid point of each of its groups.

Arrays hold blocks as columns: (32, blocks) and the like, weight by weight, so that a reduction over axis 0 adds in the
order of the scalar loops it must equal bit for bit. "Group-wise" arrays are (group, groups): the i-th weight of every
group, where group g of block b is column g * blocks + b.

The reference tries a ladder of scales. At each it rounds every group to a state and takes, for a state off the grid,
the nearest point of its neighbour list, by the float32 sum over the weights, in order, of w (s q - x)^2. Here:

- A group keeps one state over several steps of the ladder (a *run*). Over a run, d2 / s is a line in s for each
  neighbour: s C - 2 B + const with C = sum w q^2 and B = sum w q x, so B and C are worked out once a run.
- Only neighbours that no other one dominates are looked at (`grid_books.Book.useful`).
- Where a second neighbour comes within the rounding error of the best one, or a weight lies within rounding of the
  border between two levels, the choice is made again with the reference's own sums in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .grid_books import Book, Floats, Ints, Lists, Table
from .registry import KernelError

Points = npt.NDArray[np.int16]
States = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]
_Number = TypeVar("_Number", np.float32, np.uint8)

# Adding 3 * 2**23 to v rounds v / 2 to the nearest integer, ties to even, and leaves it in the low mantissa bits.
_ROUND_HALF = np.float32(25165824.0)
_MANTISSA = np.uint32(0x007FFFFF)
_ZERO = 0x00400000

_WRAPS_FROM = np.float32(1 << 22)

# Bit of a state that says: a weight lies on the border between two levels, within rounding.
BORDER = 1 << 13
_BORDER_FROM = np.float32(1 - 5e-5)

# How far rounding can move the difference of two d2 / s, ours and the reference's together, as part of
# (sum w x^2 + d2) / s. Sums of 8 terms with 3 roundings each are off by at most 9 * 2^-24 of the sum of magnitudes, and
# s C is at most 2 (sum w x^2 + d2) / s; worked out for two neighbours, 6e-6.
_ERROR = np.float32(7e-6)
# Outside of these bounds of sum w x^2 float32 underflows or overflows somewhere.
_SMALL, _LARGE = np.float32(1e-34), np.float32(1e34)

# Elements of the scratch arrays of a search.
_SCRATCH = 1 << 18


class Overflow(KernelError):
    """Values so large that float32 sums of the search overflow, where the reference aborts."""

    def __init__(self) -> None:
        super().__init__("the rows hold values too large for this type: its sums of squares overflow float32")


def states(book: Book, x: Floats, inverse: Floats) -> States:
    """State of each group at the scale 1 / inverse, with `BORDER`.

    Args:
        book: the code book.
        x: group-wise weights (group, groups).
        inverse: (blocks,), the inverse scales.

    Returns:
        uint16 (groups,).
    """
    value = (x.reshape(book.group, -1, len(inverse)) * inverse).reshape(x.shape)
    value -= np.float32(1)
    shifted = value + _ROUND_HALF
    nearest = shifted - _ROUND_HALF
    value -= nearest
    border = ~(np.maximum.reduce(np.abs(value, out=value), axis=0) < _BORDER_FROM)
    # Far from zero the mantissa wraps, and the state is not the nearest one.
    border |= ~(np.maximum.reduce(np.abs(nearest, out=nearest), axis=0) < _WRAPS_FROM)
    bits = shifted.view(np.uint32)
    bits &= _MANTISSA
    np.maximum(bits, np.uint32(_ZERO), out=bits)
    np.minimum(bits, np.uint32(_ZERO + book.levels - 1), out=bits)
    bits -= np.uint32(_ZERO)
    state: States = bits[-1].astype(np.uint16)
    for level in bits[-2::-1]:
        state *= np.uint16(book.levels)
        state += level.astype(np.uint16)
    state[border] |= np.uint16(BORDER)
    return state


@dataclass(frozen=True)
class _Ladder:
    """States of single weights on a whole ladder of scales, looked up by the weight's ratio to the block's `top`.

    Attributes:
        bins: ratio times this is the number of the bin.
        words: level at each step, 16 bits a step, 4 steps a word: uint64 (bins, words).
        unclear: bit t tells whether the level at step t changes, or borders on a change, in the bin: uint32 (bins,).
    """

    bins: np.float32
    words: npt.NDArray[np.uint64]
    unclear: npt.NDArray[np.uint32]


_BINS = 1 << 14
_FAR_OUT = np.float32(1 << 16)


@cache
def _ladder(levels: int, inverse: tuple[float, ...]) -> _Ladder:
    """The table for inverse scales `inverse` / top, ascending. Its last steps repeat the last one to fill a word."""
    steps = np.array(inverse + inverse[-1:] * (-len(inverse) % 4))
    width = 2 * (levels - 1) / steps[0] * (1 + 1e-3) / (_BINS - 2)
    edge = np.arange(_BINS)[:, None] * width
    value = edge * steps
    margin = 0.1 * width * steps + 1e-4
    low, level, high = (
        np.clip(np.floor(edges / 2), 0, levels - 1).astype(np.uint16)
        for edges in (value - margin, value + width / 2 * steps, value + width * steps + margin)
    )
    bit = np.left_shift(np.uint32(1), np.arange(len(steps), dtype=np.uint32))
    return _Ladder(np.float32(1 / width), level.view(np.uint64), ((low != high) * bit).sum(axis=1, dtype=np.uint32))


def ladder_states(book: Book, x: Floats, ladder: Floats, top: Floats) -> States:
    """State of each group at the inverse scales ladder / top.

    Args:
        book: the code book.
        x: group-wise weights (group, groups).
        ladder: (steps,), ascending.
        top: positive, (blocks,).

    Returns:
        uint16 (groups, steps), the steps filled up to a multiple of 4 by repeating the last one.
    """
    group, groups = x.shape
    table = _ladder(book.levels, tuple(ladder.tolist()))
    columns = x.reshape(group, -1, len(top))
    words = np.zeros((groups, table.words.shape[1]), np.uint64)
    peak = np.maximum.reduce(np.abs(columns), axis=(0, 1))
    extreme = (top < _SMALL) | (top > _LARGE) | (peak > top * _FAR_OUT)
    unclear = np.tile(np.where(extreme, np.uint32(0xFFFFFFFF), np.uint32(0)), columns.shape[1])
    to_bin = table.bins / top
    for values in columns[::-1]:
        bins = (values * to_bin).reshape(-1)
        np.maximum(bins, np.float32(0), out=bins)
        np.minimum(bins, np.float32(_BINS - 1), out=bins)
        index = bins.astype(np.int32).astype(np.intp)
        words *= np.uint64(book.levels)
        words += table.words.take(index, axis=0, mode="clip")
        unclear |= table.unclear.take(index, mode="clip")
    state = words.view(np.uint16)
    again = np.flatnonzero(unclear)
    bits = np.unpackbits(unclear[again].astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    which, step = np.nonzero(bits[:, : state.shape[1]])
    which = again[which]
    rungs = np.pad(ladder, (0, state.shape[1] - len(ladder)), mode="edge")
    if which.size:
        state[which, step] = states(book, x.take(which, axis=1), rungs[step] / top[remainder(which, len(top))])
    return state


def remainder(values: Ints, divisor: int) -> Ints:
    """values % divisor, faster: numpy divides by one number with multiplications, but not for remainders."""
    return values - values // divisor * divisor


def likely_points(
    book: Book, state: States, x: Floats, weight: Floats, ladder: Floats, top: Floats
) -> tuple[Points, Ints]:
    """Grid point of each group at each step: the state itself, or else the best of its neighbour list.

    Args:
        book: the code book.
        state: (groups, steps) from `states`.
        x: group-wise weights (group, groups).
        weight: group-wise importance (group, groups).
        ladder: (steps,), ascending by equal steps; the last one may be repeated.
        top: (blocks,); the scale is top / ladder.

    Returns:
        int16 (groups, steps), and intp flat positions in it where rounding errors may decide otherwise.
    """
    groups, steps = state.shape
    begins = np.ones((groups, steps), bool)
    np.not_equal(state[:, 1:], state[:, :-1], out=begins[:, 1:])
    at = np.flatnonzero(begins)
    length = np.diff(at, append=state.size)
    run_state = state.reshape(-1)[at]
    bare = run_state & np.uint16(BORDER - 1)
    run_point = book.index[bare]
    off = np.flatnonzero(run_point < 0)
    # Runs of one table stand beside one another; border states, last of all, use no table.
    kind = np.where(run_state[off] < BORDER, book.table_of[bare[off]], 255).astype(np.uint8)
    order = off[np.argsort(kind, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(kind, minlength=256))])
    bordering = order[bounds[255] :]
    search = _RunSearch(ladder, top)
    search.unsure.append(_positions(at[bordering], length[bordering]))
    for number, table in enumerate(book.tables):
        stride = max(_SCRATCH // (book.group * len(table.members)), 1)
        for low in range(bounds[number], bounds[number + 1], stride):
            part = order[low : min(low + stride, bounds[number + 1])]
            group = at[part] // steps
            step = at[part] - group * steps
            lines = _lines(table, book.column_of[bare[part]], x.take(group, axis=1), weight.take(group, axis=1))
            run_point[part] = search.follow(lines, _Runs(at[part], length[part], step, top[remainder(group, len(top))]))
    point = np.repeat(run_point, length)
    for positions, points in search.changes:
        point[positions] = points
    return point.reshape(groups, steps), np.concatenate(search.unsure)


@dataclass(frozen=True)
class _Runs:
    """Runs to search in one table.

    Attributes:
        at: flat position of the first step in (groups, steps), (runs,).
        length: (runs,).
        step: first step, (runs,).
        top: scale times rung of the ladder, (runs,).
    """

    at: Ints
    length: Ints
    step: Ints
    top: Floats

    def __getitem__(self, which: Ints) -> _Runs:
        return _Runs(self.at[which], self.length[which], self.step[which], self.top[which])


@dataclass(frozen=True)
class _Lines:
    """d2 / s of each neighbour of each run, as s C - B2 + energy / s.

    Attributes:
        C: sum w q^2, infinite for padding, (neighbours, runs).
        B2: 2 sum w q x, (neighbours, runs).
        energy: sum w x^2, (runs,).
        members: grid indices of the neighbours, (neighbours, lists).
        column: which list, (runs,).
    """

    C: Floats
    B2: Floats
    energy: Floats
    members: Points
    column: Ints

    def __getitem__(self, which: Ints) -> _Lines:
        C, B2 = self.C.take(which, axis=1), self.B2.take(which, axis=1)
        return _Lines(C, B2, self.energy[which], self.members, self.column[which])

    def scores(self, s: Floats) -> Floats:
        """d2 / s - energy / s of each neighbour at the scales s, (runs,)."""
        score = self.C * s
        score -= self.B2
        return score

    def error(self, s: Floats, score: Floats) -> Floats:
        """How far rounding can move the difference of two scores around `score`, (runs,)."""
        error = self.energy / s
        error *= 2
        error += score
        error *= _ERROR
        return error

    def best(self, s: Floats) -> tuple[Ints, Mask]:
        """Rank of the best neighbour at the scales s, and whether it is sure to be."""
        score = self.scores(s)
        low = np.minimum.reduce(score, axis=0)
        near = (score <= low + self.error(s, low)).view(np.uint8)
        sure = np.add.reduce(near, axis=0, dtype=np.uint8) == 1
        sure &= (self.energy > _SMALL) & (self.energy < _LARGE)
        near *= np.arange(len(near), dtype=np.uint8)[:, None]
        return np.maximum.reduce(near, axis=0).astype(np.intp), sure

    def points(self, rank: Ints) -> Points:
        """Grid indices of the neighbours of these ranks, (runs,)."""
        points: Points = self.members.reshape(-1).take(rank * self.members.shape[1] + self.column)
        return points


def _lines(table: Table, column: Ints, x: Floats, weight: Floats) -> _Lines:
    q = table.odd.take(column, axis=2)
    wq = q * weight[:, None]
    q *= wq
    C = np.add.reduce(q, axis=0)
    C += table.padding.take(column, axis=1)
    wx = weight * x
    wq *= (x * np.float32(2))[:, None]
    B2 = np.add.reduce(wq, axis=0)
    wx *= x
    return _Lines(C, B2, np.add.reduce(wx, axis=0), table.members, column)


class _RunSearch:
    """Follows the best neighbour along runs, and collects where it changes and where it is not sure.

    Attributes:
        changes: flat positions, with the points that are best there instead of the run's first.
        unsure: flat positions that need the reference's own sums.
    """

    def __init__(self, ladder: Floats, top: Floats) -> None:
        self._ladder = ladder
        self.changes: list[tuple[Ints, Points]] = []
        self.unsure: list[Ints] = []

    def _rung(self, inverse: Floats) -> Floats:
        """Place on the ladder, as a fraction of steps, of inverse scales times top."""
        rung: Floats = (inverse - self._ladder[0]) / (self._ladder[1] - self._ladder[0])
        return rung

    def follow(self, lines: _Lines, runs: _Runs) -> Points:
        """Best neighbour at the first step of each run.

        Two lines cross but once. So where a run begins and ends with one best neighbour, it has no other; where they
        differ, and no third line comes close to the crossing, the change is there.
        """
        first, sure = lines.best(runs.top / self._ladder.take(runs.step))
        self.unsure.append(runs.at[~sure])
        if len(self._ladder) == 1:
            return lines.points(first)
        last, last_sure = lines.best(runs.top / self._ladder.take(runs.step + runs.length - 1))
        sure &= last_sure
        changing = np.flatnonzero((first != last) & sure)
        if changing.size:
            crossing = self._cross(lines[changing], runs[changing], first[changing], last[changing])
            sure[changing[~crossing]] = False
        open_ = np.flatnonzero(~sure & (runs.length > 1))
        if open_.size:
            self._step(lines, runs, open_)
        return lines.points(first)

    def _cross(self, lines: _Lines, runs: _Runs, first: Ints, last: Ints) -> Mask:
        """Record the change from one neighbour to another; False for runs where there is more to it."""
        before, after = (rank * len(first) + np.arange(len(first)) for rank in (first, last))
        flat_C, flat_B2 = lines.C.reshape(-1), lines.B2.reshape(-1)
        C, B2 = flat_C.take(before), flat_B2.take(before)
        slope = flat_C.take(after) - C
        s = (flat_B2.take(after) - B2) / slope
        score = s * C - B2
        error = lines.error(s, score)
        near = (lines.scores(s) <= score + 2 * error).view(np.uint8)
        simple: Mask = np.add.reduce(near, axis=0, dtype=np.uint8) == 2
        reach = 2 * error / slope
        # Steps from `cut` on have changed; those before `clear` are within rounding of the crossing.
        last_step = runs.step + runs.length - 1
        cut = np.clip(np.ceil(self._rung(runs.top / (s + reach))), runs.step + 1, last_step).astype(np.intp)
        later = np.floor(self._rung(runs.top / np.maximum(s - reach, _SMALL))) + 1
        clear = np.clip(later, cut, last_step).astype(np.intp)
        begin = (runs.at + cut - runs.step)[simple]
        size = (last_step + 1 - cut)[simple]
        self.changes.append((_positions(begin, size), np.repeat(lines.points(last)[simple], size)))
        self.unsure.append(_positions(begin, (clear - cut)[simple]))
        return simple

    def _step(self, lines: _Lines, runs: _Runs, which: Ints) -> None:
        """Search all later steps of some runs one by one."""
        size = runs.length[which] - 1
        run = np.repeat(which, size)
        step = _positions(runs.step[which] + 1, size)
        for part in _slices(len(run), max(_SCRATCH // len(lines.C), 1)):
            these = run[part]
            some = lines[these]
            rank, sure = some.best(runs.top[these] / self._ladder.take(step[part]))
            at = runs.at[these] + step[part] - runs.step[these]
            self.changes.append((at, some.points(rank)))
            self.unsure.append(at[~sure])


def _positions(begin: Ints, length: Ints) -> Ints:
    """begin, begin + 1, ... of each run in turn."""
    return np.repeat(begin, length) + _counting(length)


def _counting(lengths: Ints) -> Ints:
    """0, 1, ... up to each of the lengths in turn."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _slices(size: int, most: int) -> list[slice]:
    return [slice(low, low + most) for low in range(0, size, most)]


def settled(book: Book, values: Floats, state: States, x: Floats, weight: Floats, group: Ints, scale: Floats) -> Points:
    """Best neighbours by the reference's own sums.

    Args:
        book: the code book.
        values: what the levels of the grid points stand for, (group, points).
        state: off the grid, with `BORDER`, (n,).
        x: group-wise weights (group, groups).
        weight: their importance, same shape.
        group: which group each state belongs to, (n,).
        scale: (n,).

    Returns:
        int16 (n,), grid indices.
    """
    point = np.empty(len(state), np.int16)
    for lists, chosen in ((book.useful, state < BORDER), (book.full, state >= BORDER)):
        here = np.flatnonzero(chosen)
        bare = state[here] & np.uint16(BORDER - 1)
        for part in parts(lists.length[bare], _SCRATCH):
            at = here[part]
            columns = group[at]
            point[at] = _exact_best(
                lists, bare[part], values, x.take(columns, axis=1), weight.take(columns, axis=1), scale[at]
            )
    return point


def parts(sizes: Ints, most: int) -> list[slice]:
    """Slices of about equal total size, little more than `most`."""
    if not len(sizes):
        return []
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // most)) + 1
    return [slice(low, high) for low, high in pairwise([0, *cuts.tolist(), len(sizes)])]


def _exact_best(lists: Lists, state: States, values: Floats, x: Floats, weight: Floats, scale: Floats) -> Points:
    """First neighbour of each state with the smallest d2, by the float32 operations of the reference in their order.

    Args:
        lists: neighbour lists.
        state: off the grid, (n,).
        values: what the levels of the grid points stand for, (group, points).
        x, weight: (group, n).
        scale: (n,).

    Returns:
        int16 (n,), grid indices.

    Raises:
        Overflow: no neighbour has a finite distance.
    """
    length = lists.length[state]
    start = np.cumsum(length) - length
    owner = np.repeat(np.arange(len(state)), length)
    member = lists.members[np.repeat(lists.start[state], length) + _counting(length)]
    s = scale.take(owner)
    d2 = np.zeros(len(owner), np.float32)
    for value, xi, w in zip(values, x, weight, strict=True):
        diff = value.take(member)
        diff *= s
        diff -= xi.take(owner)
        term = w.take(owner)
        term *= diff
        term *= diff
        d2 += term
    # NaN is never smaller than the best so far, as in the reference.
    np.fmin(d2, np.float32(np.inf), out=d2)
    best = np.minimum.reduceat(d2, start)
    if not np.isfinite(best).all():
        raise Overflow
    hit = np.flatnonzero(d2 == best[owner])
    first = np.searchsorted(owner[hit], np.arange(len(state)))
    point: Points = member[hit[first]]
    return point


@dataclass(frozen=True)
class Fit:
    """What a search found.

    Attributes:
        scale: of each block, float32 (blocks,).
        point: grid point of each group, int16 (groups, blocks).
        empty: blocks that were not searched, because their weights are next to zero; scale and points are 0.
    """

    scale: Floats
    point: Points
    empty: Mask


def search(
    book: Book, x: Floats, weight: Floats, ladder: Floats, top: Floats, start: Floats, empty: Mask, redo: str
) -> Fit:
    """Best scale of each block on a ladder of scales, and the grid points of its groups at that scale.

    A step replaces the best one so far if it lowers the weighted squared error of x = scale * q. Groups then move to
    the nearest points at the scale found, and the scale is solved for once more.

    Args:
        book: the code book.
        x: magnitudes (or magnitudes and a few negated ones) of the weights, (weights of a block, blocks).
        weight: their importance, same shape.
        ladder: inverse scales to try, times `top`, (steps,).
        top: (blocks,).
        start: scale if no step succeeds, (blocks,).
        empty: blocks to leave out, (blocks,).
        redo: which groups move at the end: "off" the grid, "block" for every group of a block with one off the grid or
            without success, or "all".

    Returns:
        Fit; its scale is negative where only negated weights count.
    """
    blocks = x.shape[1]
    top = np.where(empty, np.float32(1), top)
    columns, importance = group_wise(x, book.group), group_wise(np.sqrt(weight), book.group)
    state = ladder_states(book, columns, ladder, top)
    filled = np.pad(ladder, (0, state.shape[1] - len(ladder)), mode="edge")
    point, unsure = likely_points(book, state, columns, importance, filled, top)
    group, step = np.divmod(unsure, len(filled))
    exact_scale = np.float32(1) / (filled[step] / top[remainder(group, blocks)])
    at = (group, step)
    point[at] = settled(book, book.odd, state[at], columns, importance, group, exact_scale)
    by_step = np.ascontiguousarray(point.T).reshape(len(filled), -1, blocks)
    wx = weight * x
    scale, best, chosen = start.copy(), np.zeros(blocks, np.float32), np.full(blocks, -1)
    for rung, points in enumerate(by_step[: len(ladder)]):
        sumqx, sumq2 = _sums(book, points, weight, wx)
        better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
        np.divide(sumqx, sumq2, out=scale, where=better)
        np.multiply(scale, sumqx, out=best, where=better)
        chosen[better] = rung
    step = np.maximum(chosen, 0)
    points = np.where(chosen < 0, book.index[0], by_step[step, :, np.arange(blocks)].T)
    last = state.reshape(-1, blocks, len(filled))[:, np.arange(blocks), step] & np.uint16(BORDER - 1)
    off = (book.index[last] < 0) & (chosen >= 0)
    if redo != "off":
        off[:] = off.any(axis=0) | (chosen < 0) | (redo == "all")
    off &= scale > 0
    scale[empty], points[:, empty], off[:, empty] = 0, 0, False
    return _move(book, Fit(scale, points, empty), off, columns, importance, weight, wx)


def _move(book: Book, fit: Fit, off: Mask, x: Floats, importance: Floats, weight: Floats, wx: Floats) -> Fit:
    """Move the groups `off` to the nearest points at the scale of their block, and solve for the scale again."""
    moved = off.any(axis=0)
    scale = np.where(moved, fit.scale, np.float32(1))
    state = states(book, x, np.float32(1) / scale)
    state[~off.reshape(-1)] = book.first_state
    near, unsure = likely_points(book, state[:, None], x, importance, np.ones(1, np.float32), scale)
    near = near.reshape(-1)
    exact_scale = scale[unsure % len(scale)]
    near[unsure] = settled(book, book.odd, state[unsure], x, importance, unsure, exact_scale)
    points = np.where(off, near.reshape(off.shape), fit.point)
    sumqx, sumq2 = _sums(book, points, weight, wx)
    solved = fit.scale.copy()
    np.divide(sumqx, sumq2, out=solved, where=moved & (sumq2 > 0))
    if np.isnan(solved).any():
        raise Overflow
    return Fit(solved, points, fit.empty)


def group_wise(columns: npt.NDArray[_Number], group: int) -> npt.NDArray[_Number]:
    """Columns (weights of a block, blocks) as (group, groups), group g of block b in column g * blocks + b."""
    blocks = columns.shape[1]
    in_groups: npt.NDArray[_Number] = columns.reshape(-1, group, blocks).transpose(1, 0, 2).reshape(group, -1)
    return in_groups


def _sums(book: Book, points: Points, weight: Floats, wx: Floats) -> tuple[Floats, Floats]:
    """sum w x q and sum w q^2 over each block, added in order."""
    q = np.empty(weight.shape, np.float32)
    for values, point in zip(q.reshape(len(points), book.group, -1), points, strict=True):
        np.take(book.odd, point, axis=1, out=values)
    sumqx = np.add.reduce(wx * q, axis=0)
    wq = weight * q
    wq *= q
    return sumqx, np.add.reduce(wq, axis=0)
