"""Which grid point a group takes: its own state, or else the best of the state's neighbour list.

The reference takes the nearest point of the list by the float32 sum over the weights, in order, of w (s q - x)^2. Here:

- A group keeps one state over several steps of the ladder of scales (a *run*). Over a run, d2 / s is a line in s for
  each neighbour: s C - 2 B + const with C = sum w q^2 and B = sum w q x, so B and C are worked out once a run.
- Only neighbours that no other one dominates are looked at (`grid_books.Book.useful`).
- Where a second neighbour comes within the rounding error of the best one, or a weight lies within rounding of the
  border between two levels, the choice is made again with the reference's own sums in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .columns import add_down, einsum
from .grid_books import Book, Floats, Ints, Lists, Table
from .grid_states import BORDER, LARGE, SMALL, States, remainder
from .registry import KernelError

Points = npt.NDArray[np.int16]
Places = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

# How far rounding can move the difference of two d2 / s, ours and the reference's together, as part of
# (sum w x^2 + d2) / s. Sums of 8 terms with 3 roundings each are off by at most 9 * 2^-24 of the sum of magnitudes, and
# s C is at most 2 (sum w x^2 + d2) / s; worked out for two neighbours, 6e-6.
_ERROR = np.float32(7e-6)

# Bits of a grid index: there are at most 2048 points and 32 steps.
_POINT_BITS = 11
# Lists up to these lengths are followed together when they are few.
_JOINED_LENGTHS = (20, 40, 96, 320)
# In the place of a list's number: a border state.
_BORDERING = np.int16(np.iinfo(np.int16).max)

# Elements of the scratch arrays of a search.
_SCRATCH = 1 << 18


class Overflow(KernelError):
    """Values so large that float32 sums of the search overflow, where the reference aborts."""

    def __init__(self) -> None:
        super().__init__("the rows hold values too large for this type: its sums of squares overflow float32")


def likely_points(book: Book, state: States, rows: Floats, ladder: Floats, top: Floats) -> tuple[Points, Places, Ints]:
    """Grid point of each group at each step: the state itself, or else the best of its neighbour list.

    Args:
        book: the code book.
        state: (groups, steps) from `states`.
        rows: the weights of each group, and their importance, (groups, 2 * group).
        ladder: (steps,), ascending by equal steps.
        top: (blocks,); the scale is top / ladder.

    Returns:
        int16 (steps, groups), and as flat places in it: where the point may differ from that of the step before, and
        where rounding errors may decide otherwise.
    """
    groups = np.int32(len(state))
    place, length, run_state = _runs(state)
    code = book.code.take(run_state & np.uint16(BORDER - 1))
    search = _RunSearch(book.useful.members, ladder, groups)
    search.begin(place, place // groups, np.maximum(-1 - code, 0))
    search.starts.append(place)
    # Runs of one list stand beside one another; border states, last of all, use no list.
    code[(run_state >= BORDER) & (code >= 0)] = _BORDERING
    order = np.flatnonzero(code >= 0)
    order = order.take(np.argsort(code[order], kind="stable"))
    code, place, length = code.take(order), place.take(order), length.take(order)
    bordering = slice(np.searchsorted(code, _BORDERING), None)
    search.doubt(place[bordering], length[bordering])
    bounds = np.searchsorted(code, np.array([table.first for table in book.tables], np.int16))
    for table, low, high in zip(book.tables, bounds, [*bounds[1:], bordering.start], strict=True):
        for part in spans(low, high, max(_SCRATCH // (book.group * table.odd.shape[1]), 1)):
            first = place[part] // groups
            group = place[part] - first * groups
            x, weight = np.ascontiguousarray(rows.take(group, axis=0).T).reshape(2, book.group, -1)
            lines = _lines(table, code[part], x, weight, book.begin.take(code[part]))
            run_top = top.take(remainder(group, np.int32(len(top))))
            search.follow(lines, _Runs(place[part], first, first + (length[part] - np.int32(1)), run_top))
    search.follow_the_rest()
    return search.points(), np.concatenate(search.starts), search.unsure()


def _runs(state: States) -> tuple[Places, Places, States]:
    """Place in (steps, groups) of each run's first step, its length and its state, (runs,) each, group after group."""
    groups, steps = state.shape
    flat = state.reshape(-1)
    begins = np.ones(state.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::steps] = True
    at = np.flatnonzero(begins)
    run_state = flat.take(at)
    at = at.astype(np.int32)
    group = at // np.int32(steps)
    step = at - group * np.int32(steps)
    return step * np.int32(groups) + group, np.diff(at, append=np.int32(state.size)), run_state


@dataclass(frozen=True)
class _Runs:
    """Runs to search in one table; int32 (runs,) where nothing else is said.

    Attributes:
        place: flat place of the first step in (steps, groups).
        first: first step.
        last: last step.
        top: scale times rung of the ladder, float32 (runs,).
    """

    place: Places
    first: Places
    last: Places
    top: Floats

    def __getitem__(self, which: Ints) -> _Runs:
        return _Runs(self.place[which], self.first[which], self.last[which], self.top[which])


@dataclass(frozen=True)
class _Lines:
    """d2 / s of each neighbour of each run, as s C - B2 + energy / s.

    Attributes:
        C: sum w q^2, infinite for padding, (neighbours, runs).
        B2: 2 sum w q x, (neighbours, runs).
        energy: sum w x^2, (runs,); NaN, which makes all sums unsure, where float32 may underflow or overflow.
        list: where the list of neighbours begins, (runs,).
    """

    C: Floats
    B2: Floats
    energy: Floats
    list: Ints

    def __getitem__(self, which: Ints) -> _Lines:
        C, B2 = self.C.take(which, axis=1), self.B2.take(which, axis=1)
        return _Lines(C, B2, self.energy[which], self.list[which])

    def scores(self, s: Floats) -> Floats:
        """d2 / s - energy / s of each neighbour at the scales s, (runs,)."""
        score = self.C * s
        score -= self.B2
        return score

    def error(self, s: Floats, score: Floats) -> Floats:
        """How far rounding can move the difference of two scores around `score`, (runs,)."""
        error = self.energy / s
        error *= np.float32(2)
        error += score
        error *= _ERROR
        return error

    def best(self, s: Floats) -> tuple[Ints, Mask]:
        """Rank of the best neighbour at the scales s, and whether it is sure to be."""
        score = self.scores(s)
        low = np.minimum.reduce(score, axis=0)
        near = (score <= low + self.error(s, low)).view(np.uint8)
        sure = np.add.reduce(near, axis=0, dtype=np.uint8) == 1
        near *= np.arange(len(near), dtype=np.uint8)[:, None]
        return np.maximum.reduce(near, axis=0).astype(np.intp), sure


def _lines(table: Table, code: Points, x: Floats, weight: Floats, begin: Ints) -> _Lines:
    """Lines of runs in the lists `code` (runs,), ascending, of a table; x and weight (group, runs)."""
    first = int(code[0])
    count = np.bincount(code - code[0])
    lists = slice(first - table.first, first - table.first + len(count))
    q = np.repeat(table.odd[:, :, lists], count, axis=2)
    C = einsum("gln,gln,gn->ln", q, q, weight)
    C[len(C) - len(table.padding) :] += np.repeat(table.padding[:, lists], count, axis=1)
    wx = weight * x
    energy = np.add.reduce(wx * x, axis=0)
    energy[~((energy > SMALL) & (energy < LARGE))] = np.nan
    wx += wx
    return _Lines(C, einsum("gln,gn->ln", q, wx), energy, begin)


class _RunSearch:
    """Follows the best neighbour along runs, and collects where it changes and where it is not sure.

    Attributes:
        starts: flat places in (steps, groups) where the point may change.
    """

    def __init__(self, members: Points, ladder: Floats, groups: np.int32) -> None:
        self._members = members
        self._ladder = ladder
        self._inverse = np.float32(1) / ladder
        self._groups = groups
        self._rest: list[tuple[_Lines, _Runs]] = []
        self.starts: list[Places] = []
        # Number of the step, and below it the point that the group has from there on: the latest is the largest.
        self._keys = np.zeros((len(ladder), groups), np.uint16)
        self._doubts: list[tuple[Places, Places]] = []

    def begin(self, place: Places, step: Places, point: Points) -> None:
        """From these places on, which are in these steps, the groups have the points."""
        key = step.astype(np.uint16) << np.uint16(_POINT_BITS)
        # Other integers would take three times as long as places.
        self._keys.reshape(-1)[place.astype(np.intp)] = key | point.view(np.uint16)

    def doubt(self, place: Places, size: Places) -> None:
        """From these places on, the points at `size` steps are not sure."""
        self._doubts.append((place, size))

    def points(self) -> Points:
        """The point of each group at each step, (steps, groups)."""
        for before, after in pairwise(self._keys):
            np.maximum(before, after, out=after)
        self._keys &= np.uint16((1 << _POINT_BITS) - 1)
        return self._keys.view(np.int16)

    def unsure(self) -> Ints:
        """Flat places that need the reference's own sums."""
        place = np.concatenate([place for place, _ in self._doubts])
        size = np.concatenate([size for _, size in self._doubts])
        unsure: Ints = np.repeat(place, size) + _counting(size) * self._groups
        return unsure

    def follow(self, lines: _Lines, runs: _Runs) -> None:
        """Find the best neighbours along each run.

        Two lines cross but once. So where a run surely begins and ends with one best neighbour, it has no other.
        """
        first, sure = lines.best(runs.top * self._inverse.take(runs.first))
        self.begin(runs.place, runs.first, self._points(lines, first))
        changing = np.zeros(0, np.intp)
        if len(self._ladder) > 1:
            last, last_sure = lines.best(runs.top * self._inverse.take(runs.last))
            sure &= last_sure
            changing = np.flatnonzero((first != last) & sure)
        (unsure,) = np.nonzero(~sure)
        self.doubt(runs.place[unsure], runs.last[unsure] - runs.first[unsure] + np.int32(1))
        if changing.size:
            self._split(lines[changing], runs[changing], first[changing], last[changing])

    def _split(self, lines: _Lines, runs: _Runs, first: Ints, last: Ints) -> None:
        """Split runs where the first neighbour gives way to the last one; both parts stay open if a third is near."""
        before, after = (rank * len(first) + np.arange(len(first)) for rank in (first, last))
        flat_C, flat_B2 = lines.C.reshape(-1), lines.B2.reshape(-1)
        C, B2 = flat_C.take(before), flat_B2.take(before)
        slope = flat_C.take(after) - C
        s = (flat_B2.take(after) - B2) / slope
        score = s * C - B2
        error = lines.error(s, score)
        near = (lines.scores(s) <= score + 2 * error).view(np.uint8)
        simple = np.add.reduce(near, axis=0, dtype=np.uint8) == 2
        reach = 2 * error / slope
        # Steps from `cut` on have changed; those before `clear` are within rounding of the crossing.
        cut = np.ceil(self._rung(runs.top / (s + reach)))
        cut = np.maximum(np.fmin(cut, runs.last), runs.first + np.int32(1)).astype(np.int32)
        later = np.floor(self._rung(runs.top / np.maximum(s - reach, SMALL))) + np.float32(1)
        clear = np.maximum(np.fmin(later, runs.last), cut).astype(np.int32)
        place = runs.place + (cut - runs.first) * self._groups
        self.starts.append(place)
        (to,) = simple.nonzero()
        self.begin(place[to], cut[to], self._points(lines, last)[to])
        (to,) = (simple & (clear > cut)).nonzero()
        self.doubt(place[to], (clear - cut)[to])
        (again,) = (~simple).nonzero()
        if again.size:
            lines, runs, place, cut = lines[again], runs[again], place[again], cut[again]
            self._rest.append((lines, _Runs(runs.place, runs.first, cut - np.int32(1), runs.top)))
            self._rest.append((lines, _Runs(place, cut, runs.last, runs.top)))

    def follow_the_rest(self) -> None:
        """Follow the parts of runs that were split at a third neighbour, many at once, until none is left."""
        while self._rest:
            longest = next(length for length in _JOINED_LENGTHS if length >= len(self._rest[0][0].C))
            together = [part for part in self._rest if len(part[0].C) <= longest]
            self._rest = [part for part in self._rest if len(part[0].C) > longest]
            self.follow(_joined_lines([lines for lines, _ in together]), _joined_runs([runs for _, runs in together]))

    def _points(self, lines: _Lines, rank: Ints) -> Points:
        """Grid indices of the neighbours of these ranks, (runs,)."""
        return self._members.take(lines.list + rank, mode="clip")

    def _rung(self, inverse: Floats) -> Floats:
        """Place on the ladder, as a fraction of steps, of inverse scales times top."""
        rung: Floats = (inverse - self._ladder[0]) / (self._ladder[1] - self._ladder[0])
        return rung


def _joined_lines(parts: list[_Lines]) -> _Lines:
    """Lines of lists of several lengths, one beside the other, padded to the longest."""
    energy = np.concatenate([part.energy for part in parts])
    C = np.full((max(len(part.C) for part in parts), len(energy)), np.inf, np.float32)
    B2 = np.zeros(C.shape, np.float32)
    end = 0
    for part in parts:
        start, end = end, end + len(part.energy)
        C[: len(part.C), start:end], B2[: len(part.C), start:end] = part.C, part.B2
    return _Lines(C, B2, energy, np.concatenate([part.list for part in parts]))


def _joined_runs(parts: list[_Runs]) -> _Runs:
    return _Runs(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Runs)))


def _counting(lengths: Places) -> Ints:
    """0, 1, ... up to each of the lengths in turn."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def spans(low: int, high: int, most: int) -> list[slice]:
    """Slices from low to high, at most `most` long."""
    return [slice(start, min(start + most, high)) for start in range(low, high, most)]


def parts(sizes: Ints, most: int) -> list[slice]:
    """Slices of about equal total size, little more than `most`."""
    if not len(sizes):
        return []
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // most)) + 1
    return [slice(low, high) for low, high in pairwise([0, *cuts.tolist(), len(sizes)])]


def settled(book: Book, values: Floats, state: States, rows: Floats, scale: Floats) -> Points:
    """Best neighbours by the reference's own sums.

    Args:
        book: the code book.
        values: what the levels of the grid points stand for, (group, points).
        state: off the grid, with `BORDER`, (n,).
        rows: the weights of each group, and their importance, (n, 2 * group).
        scale: (n,).

    Returns:
        int16 (n,), grid indices.
    """
    point = np.empty(len(state), np.int16)
    for lists, chosen in ((book.useful, state < BORDER), (book.full, state >= BORDER)):
        here = np.flatnonzero(chosen)
        bare = state[here] & np.uint16(BORDER - 1)
        # Lists of about one length beside one another, to be padded to it.
        order = np.argsort(lists.length[bare], kind="stable")
        here, bare = here[order], bare[order]
        for part in parts(lists.length[bare], _SCRATCH // (4 * book.group)):
            at = here[part]
            x, weight = np.ascontiguousarray(rows.take(at, axis=0).T).reshape(2, book.group, -1)
            point[at] = _exact_best(lists, bare[part], values, x, weight, scale[at])
    return point


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
    rank = np.minimum(np.arange(length.max())[:, None], length - 1)
    member = lists.members.take(lists.start[state] + rank)
    diff = values.take(member, axis=1)
    diff *= scale
    diff -= x[:, None]
    terms = diff * weight[:, None]
    terms *= diff
    # NaN is never smaller than the best so far, as in the reference; of equals the first is taken.
    d2 = np.fmin(add_down(terms.reshape(len(x), -1)), np.float32(np.inf)).reshape(member.shape)
    best = d2.argmin(axis=0)
    nearest = np.arange(len(state))
    if not np.isfinite(d2[best, nearest]).all():
        raise Overflow
    point: Points = member[best, nearest]
    return point
