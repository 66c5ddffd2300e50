"""Which grid point a group takes: its own state, or else the best of the state's neighbour list.

The reference takes the nearest point of the list by the float32 sum over the weights, in order, of w (s q - x)^2. Here:

- A group keeps one state over several steps of the ladder of scales (a *run*). Over a run, d2 / s is a line in s for
  each neighbour: s C - 2 B + const with C = sum w q^2 and B = sum w q x, so B and C are worked out once a run.
- Only neighbours that no other one dominates are looked at (`grid_books.Book.useful`).
- Where a second neighbour comes within the rounding error of the best one, or a weight lies within rounding of the
  border between two levels, the choice is made again with the reference's own sums in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .grid_books import Book, Floats, Ints, Lists, Table
from .grid_states import BORDER, LARGE, SMALL, States, remainder
from .registry import KernelError

Points = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]

# How far rounding can move the difference of two d2 / s, ours and the reference's together, as part of
# (sum w x^2 + d2) / s. Sums of 8 terms with 3 roundings each are off by at most 9 * 2^-24 of the sum of magnitudes, and
# s C is at most 2 (sum w x^2 + d2) / s; worked out for two neighbours, 6e-6.
_ERROR = np.float32(7e-6)

# Elements of the scratch arrays of a search.
_SCRATCH = 1 << 18


class Overflow(KernelError):
    """Values so large that float32 sums of the search overflow, where the reference aborts."""

    def __init__(self) -> None:
        super().__init__("the rows hold values too large for this type: its sums of squares overflow float32")


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
        sure &= (self.energy > SMALL) & (self.energy < LARGE)
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
        later = np.floor(self._rung(runs.top / np.maximum(s - reach, SMALL))) + 1
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
