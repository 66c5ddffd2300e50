"""Code books of the grid types: which level tuples exist, and the neighbours of those that do not.

A grid type quantizes groups of 8 weights to 3 levels, or of 4 weights to 8, and stores each group as the index of a
grid point. A *state* is any tuple of levels, packed as the number sum(level[i] * levels**i); level l stands for the
odd number 2 l + 1. A state off the grid has a *neighbour list*: the grid points of its nearest few shells (distinct
Euclidean distances), nearest shell first, by index inside a shell. The search takes the first best one of that list, so
the order decides ties and is part of the format that a byte-identical quantizer follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float32]

# Lists are stored in tables of these lengths, so that lists of (nearly) one length are searched together.
_TABLE_LENGTHS = (2, 4, 6, 8, 10, 12, 16, 20, 28, 40, 64, 96, 160, 320)


@dataclass(frozen=True)
class Lists:
    """Neighbour lists of all states, one after the other.

    Attributes:
        members: grid indices, int16 (total,).
        start: where a state's list begins in `members`, intp (states,).
        length: how long it is, intp (states,); 0 for states on the grid.
    """

    members: npt.NDArray[np.int16]
    start: Ints
    length: Ints


@dataclass(frozen=True)
class Table:
    """Neighbour lists of (about) one length, padded to it.

    Attributes:
        first: number of the first list; the others follow it.
        odd: odd values of the neighbours, float32 (group, length, lists).
        padding: infinity where padded, else 0, of the last neighbours of each list, float32 (some of length, lists).
    """

    first: int
    odd: Floats
    padding: Floats


@dataclass(frozen=True)
class Book:
    """The code book of one grid type.

    Attributes:
        group: weights in a group (4 or 8).
        levels: levels of a weight (8 or 3).
        level: levels of each grid point, uint8 (points, group).
        odd: their odd values, float32 (group, points).
        index: grid index of each state, -1 off the grid, int16 (states,).
        full: the neighbour lists.
        useful: the lists without the neighbours that another one beats whatever the weights, see `_undominated`.
        tables: the lists of `useful`, by length.
        code: number of a state's list in `tables`; of states on the grid, -1 less their grid index; int16 (states,).
        begin: where in `useful.members` the list of a number begins, intp (lists,).
    """

    group: int
    levels: int
    level: npt.NDArray[np.uint8]
    odd: Floats
    index: npt.NDArray[np.int16]
    full: Lists
    useful: Lists
    tables: tuple[Table, ...]
    code: npt.NDArray[np.int16]
    begin: Ints

    @property
    def first_state(self) -> int:
        """The state of grid point 0."""
        return int(self.level[0] @ self.levels ** np.arange(self.group))


@cache
def book(name: str) -> Book:
    """The code book of "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS" or "IQ1_S" (IQ1_M shares the last one)."""
    level = _grid(name)
    group, levels, shells = level.shape[1], *_LEVELS_AND_SHELLS[name]
    state_of_point = level.astype(np.intp) @ levels ** np.arange(group)
    index = np.full(levels**group, -1, np.int16)
    index[state_of_point] = np.arange(len(level))
    full = _neighbours(level, levels, shells, index)
    useful = _undominated(full, level, levels)
    odd = np.ascontiguousarray(2 * level.T + 1, np.float32)
    tables, states = _tabulate(useful, odd)
    code = -1 - index
    code[states] = np.arange(len(states))
    return Book(group, levels, level, odd, index, full, useful, tables, code, useful.start[states])


# How many levels a weight has, and how many shells of neighbours the search considers.
_LEVELS_AND_SHELLS = {
    "IQ3_S": (8, 3),
    "IQ3_XXS": (8, 2),
    "IQ2_S": (3, 1),
    "IQ2_XS": (3, 2),
    "IQ2_XXS": (3, 2),
    "IQ1_S": (3, 3),
}


def grid_values(name: str) -> Floats:
    """Values that the grid points of a type decode to, before the block's scale: float32 (points, group)."""
    from gguf import quants

    kind: Any = getattr(quants, name)
    kind.init_grid()
    return np.ascontiguousarray(kind.grid.reshape(kind.grid_shape), np.float32)


def sign_bytes() -> npt.NDArray[np.uint8]:
    """The 128 sign patterns of the types that store 7 of 8 signs: bit 7 makes the number of minus signs even."""
    low = np.arange(128, dtype=np.uint8)
    odd = np.unpackbits(low[:, None], axis=1).sum(axis=1) & 1
    signs: npt.NDArray[np.uint8] = low | (odd << 7).astype(np.uint8)
    return signs


def _grid(name: str) -> npt.NDArray[np.uint8]:
    """Levels of the grid points: the rank of each decoded value among the values in use, uint8 (points, group)."""
    values = grid_values(name)
    return np.searchsorted(np.unique(values), values).astype(np.uint8)


def _neighbours(level: npt.NDArray[np.uint8], levels: int, shells: int, index: npt.NDArray[np.int16]) -> Lists:
    group = level.shape[1]
    off = np.flatnonzero(index < 0)
    point = level.astype(np.float32)
    norms = (point * point).sum(axis=1)
    length = np.zeros(len(index), np.intp)
    members = []
    for some in np.array_split(off, len(off) // 512 + 1):
        place = (some[:, None] // levels ** np.arange(group) % levels).astype(np.float32)
        distance = (norms - 2 * (place @ point.T) + (place * place).sum(axis=1)[:, None]).astype(np.int16)
        reach = distance.min(axis=1)
        for _ in range(shells - 1):
            reach = np.where(distance > reach[:, None], distance, np.iinfo(np.int16).max).min(axis=1)
        row, column = np.nonzero(distance <= reach[:, None])
        order = np.argsort(row * 1024 + distance[row, column], kind="stable")
        members.append(column[order].astype(np.int16))
        length[some] = np.bincount(row, minlength=len(some))
    return Lists(np.concatenate(members), np.cumsum(length) - length, length)


def _undominated(lists: Lists, level: npt.NDArray[np.uint8], levels: int) -> Lists:
    """The lists without dominated neighbours.

    A state holds the nearest level of each weight. So if neighbour a moves a subset of the levels that b moves, each in
    the same direction and at most as far, a's error is at most b's in every weight. a is also in a nearer shell, thus
    earlier in the list, and wins a tie. Rounding can break this only for a weight on the border between two levels.
    """
    moves = _moves(lists, level, levels)
    keep = np.ones(len(lists.members), bool)
    for length in np.unique(lists.length[lists.length > 1]):
        at = lists.start[lists.length == length][:, None] + np.arange(length)
        for some in np.array_split(at, len(at) * length * length // 500_000 + 1):
            move = moves[some]
            subset = (move[:, :, None] & ~move[:, None, :]) == 0
            subset[:, np.arange(length), np.arange(length)] = False
            keep[some] = ~subset.any(axis=1)
    kept = np.concatenate([[0], np.cumsum(keep)])
    start = kept[lists.start]
    return Lists(lists.members[keep], start, kept[lists.start + lists.length] - start)


def _moves(lists: Lists, level: npt.NDArray[np.uint8], levels: int) -> npt.NDArray[np.uint64]:
    """How each neighbour differs from its state: per weight a bit for each level passed upwards and downwards."""
    group = level.shape[1]
    state = np.repeat(np.arange(len(lists.length)), lists.length)
    bits = np.zeros(len(state), np.uint64)
    shift = 0
    for weight in range(group):
        move = level[lists.members, weight].astype(np.int8) - (state // levels**weight % levels).astype(np.int8)
        for way in (move, -move):
            for step in range(1, levels):
                bits |= (way >= step).astype(np.uint64) << np.uint64(shift)
                shift += 1
    return bits


def _tabulate(lists: Lists, odd: Floats) -> tuple[tuple[Table, ...], Ints]:
    """Tables of all lists, and the states that they belong to, in their order."""
    table_of = np.searchsorted(_TABLE_LENGTHS, lists.length)
    tables = []
    in_order = [np.flatnonzero((table_of == number) & (lists.length > 0)) for number in range(len(_TABLE_LENGTHS))]
    first = 0
    for length, states in zip(_TABLE_LENGTHS, in_order, strict=True):
        rank = np.arange(length)[:, None]
        inside = rank < lists.length[states]
        members = lists.members[lists.start[states] + np.minimum(rank, lists.length[states] - 1)]
        padding = np.where(inside[inside.all(axis=1).sum() :], 0, np.inf).astype(np.float32)
        tables.append(Table(first, np.ascontiguousarray(odd[:, members]), padding))
        first += len(states)
    return tuple(tables), np.concatenate(in_order)
