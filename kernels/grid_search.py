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
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .grid_books import Book, Floats, Ints, Lists
from .registry import KernelError

Points = npt.NDArray[np.int16]
States = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]
_Number = TypeVar("_Number", np.float32, np.uint8)

# Adding 3 * 2**23 to v rounds v / 2 to the nearest integer, ties to even, and leaves it in the low mantissa bits.
_ROUND_HALF = np.float32(25165824.0)
_MANTISSA = np.uint32(0x007FFFFF)
_ZERO = 0x00400000

# Bit of a state that says: a weight lies on the border between two levels, within rounding.
BORDER = 1 << 13
_BORDER_FROM = np.float32(1 - 5e-5)

# Error of d2 / s, relative to its parts: 2 sums of 8 terms with 3 roundings each, on both sides, and a margin.
_ERROR = np.float32(3e-6)
# Outside of these bounds of sum w x^2 float32 underflows or overflows somewhere.
_SMALL, _LARGE = np.float32(1e-34), np.float32(1e34)

# Elements of the scratch arrays of a search.
_SCRATCH = 1 << 16


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
    group, groups = x.shape
    columns = x.reshape(group, -1, len(inverse))
    state = np.zeros(columns.shape[1:], np.uint32)
    border = np.zeros(columns.shape[1:], np.float32)
    top = np.uint32(_ZERO + book.levels - 1)
    for weight in reversed(range(group)):
        value = columns[weight] * inverse
        value -= np.float32(1)
        shifted = value + _ROUND_HALF
        value -= shifted - _ROUND_HALF
        np.abs(value, out=value)
        np.maximum(border, value, out=border)
        bits = shifted.view(np.uint32)
        bits &= _MANTISSA
        np.maximum(bits, np.uint32(_ZERO), out=bits)
        np.minimum(bits, top, out=bits)
        state *= np.uint32(book.levels)
        state += bits
    state -= np.uint32(_ZERO * ((book.levels**group - 1) // (book.levels - 1)) & 0xFFFFFFFF)
    inner = border < _BORDER_FROM
    packed: States = (state + np.uint32(BORDER) * ~inner).astype(np.uint16).reshape(groups)
    return packed


def on_grid(book: Book, state: States) -> Points:
    """Grid index of each state, -1 off the grid."""
    index: Points = book.index[state & np.uint16(BORDER - 1)]
    return index


def nearest_points(book: Book, state: States, x: Floats, weight: Floats, scale: Floats) -> Points:
    """Grid point of each group at each step: the state itself, or else the best of its neighbour list.

    Args and result as for `likely_points`.
    """
    point, unsure = likely_points(book, state, x, weight, scale)
    group = unsure % point.shape[1]
    s = scale.reshape(-1)[unsure // point.shape[1] * scale.shape[1] + group % scale.shape[1]]
    flat_state = state.reshape(-1)[unsure]
    point.reshape(-1)[unsure] = settled(book, book.odd, flat_state, x, weight, group, s)
    return point


def likely_points(book: Book, state: States, x: Floats, weight: Floats, scale: Floats) -> tuple[Points, Ints]:
    """Grid point of each group at each step, and the flat positions where rounding errors may decide otherwise.

    Args:
        book: the code book.
        state: (steps, groups) from `states`.
        x: group-wise weights (group, groups).
        weight: group-wise importance (group, groups).
        scale: (steps, blocks).

    Returns:
        int16 (steps, groups), and intp positions in it.
    """
    steps, groups = state.shape
    point = on_grid(book, state)
    turned = np.ascontiguousarray(state.T)
    begins = np.ones((groups, steps), bool)
    np.not_equal(turned[:, 1:], turned[:, :-1], out=begins[:, 1:])
    at = np.flatnonzero(begins)
    run_state = turned.ravel()[at]
    run_length = np.diff(at, append=turned.size)
    bare = run_state & np.uint16(BORDER - 1)
    off = np.flatnonzero(book.index[bare] < 0)
    # Runs of one table beside one another, the long ones first; border states, which come last, use no table.
    kind = np.where(run_state < BORDER, book.table_of[bare], 255)[off]
    order = off[np.argsort((kind * np.uint16(64) + np.uint16(63) - run_length[off]).astype(np.uint16), kind="stable")]
    group, step = np.divmod(at[order], steps)
    column = book.column_of[bare[order]]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(kind, minlength=256))])
    unsure = [_positions(step, group, run_length[order], groups, slice(bounds[255], None))]
    for number, table in enumerate(book.tables):
        stride = max(_SCRATCH // len(table.members), 1)
        for low in range(bounds[number], bounds[number + 1], stride):
            part = slice(low, min(low + stride, bounds[number + 1]))
            runs = _Runs(group[part], step[part], run_length[order[part]], column[part])
            unsure.append(_best_of_table(table.members, table.odd, runs, x, weight, scale, point))
    return point, np.concatenate(unsure)


@dataclass(frozen=True)
class _Runs:
    """Runs to search in one table, longest first: group, first step, steps, and column of the table; intp (runs,)."""

    group: Ints
    step: Ints
    length: Ints
    column: Ints


def _positions(step: Ints, group: Ints, length: Ints, groups: int, part: slice) -> Ints:
    """Flat positions in a (steps, groups) array of all steps of some runs."""
    step, group, length = step[part], group[part], length[part]
    run = np.repeat(np.arange(len(step)), length)
    within = np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    return (step[run] + within) * groups + group[run]


def _best_of_table(
    members: Points, odd: Floats, runs: _Runs, x: Floats, weight: Floats, scale: Floats, point: Points
) -> Ints:
    """Write the best neighbour of each run at each of its steps into `point`; return the positions left unsure."""
    groups, blocks = point.shape[1], scale.shape[1]
    C, B2, energy = _lines(odd, runs, x, weight)
    tame = (energy > _SMALL) & (energy < _LARGE)
    rank = np.arange(len(members), dtype=np.uint8)[:, None]
    position = runs.step * groups + runs.group
    source = runs.step * blocks + runs.group % blocks
    flat, flat_scale = point.reshape(-1), scale.reshape(-1)
    unsure = []
    for later in range(int(runs.length[0])):
        active = int(np.searchsorted(-runs.length, -later, side="left"))
        s = flat_scale.take(source[:active] + later * blocks)
        score = C[:, :active] * s
        score -= B2[:, :active]
        low = score.min(axis=0)
        bound = energy[:active] / s
        bound *= 5 * _ERROR
        bound += np.abs(low) * (2 * _ERROR)
        bound += low
        near = (score <= bound).view(np.uint8)
        sure = (np.add.reduce(near, axis=0, dtype=np.uint8) == 1) & tame[:active]
        near *= rank
        best = np.maximum.reduce(near, axis=0)
        where = position[:active] + later * groups
        flat[where] = members.reshape(-1).take(best * np.intp(members.shape[1]) + runs.column[:active])
        if not sure.all():
            unsure.append(where[~sure])
    return np.concatenate(unsure) if unsure else np.zeros(0, np.intp)


def _lines(odd: Floats, runs: _Runs, x: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """C = sum w q^2 and 2 B = 2 sum w q x of each neighbour of each run (length, runs), and sum w x^2 (runs,)."""
    C = np.zeros((odd.shape[1], len(runs.group)), np.float32)
    B2 = np.zeros_like(C)
    energy = np.zeros(len(runs.group), np.float32)
    for i, values in enumerate(odd):
        q = values.take(runs.column, axis=1)
        w = weight[i].take(runs.group)
        xi = x[i].take(runs.group)
        wq = q * w
        q *= wq
        C += q
        wx2 = xi * np.float32(2)
        wq *= wx2
        B2 += wq
        w *= xi
        w *= xi
        energy += w
    return C, B2, energy


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
            point[at] = _exact_best(lists, bare[part], values, x[:, columns], weight[:, columns], scale[at])
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
    member = lists.members[np.repeat(lists.start[state] - start, length) + np.arange(len(owner))]
    s = scale[owner]
    d2 = np.zeros(len(owner), np.float32)
    for i, value in enumerate(values):
        diff = s * value[member]
        diff -= x[i][owner]
        term = weight[i][owner] * diff
        term *= diff
        d2 += term
    # NaN is never smaller than the best so far, as in the reference.
    d2[np.isnan(d2)] = np.inf
    best = np.minimum.reduceat(d2, start)
    if not np.isfinite(best).all():
        raise Overflow
    hit = np.flatnonzero(d2 == best[owner])
    first = np.searchsorted(owner[hit], np.arange(len(state)))
    return member[hit[first]]


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
    inverse = ladder[:, None] / np.where(empty, np.float32(1), top)
    columns, importance = group_wise(x, book.group), group_wise(np.sqrt(weight), book.group)
    state = np.stack([states(book, columns, step) for step in inverse])
    point = nearest_points(book, state, columns, importance, np.float32(1) / inverse)
    wx = weight * x
    scale, best, chosen = start.copy(), np.zeros(blocks, np.float32), np.full(blocks, -1)
    for step, points in enumerate(point.reshape(len(inverse), -1, blocks)):
        sumqx, sumq2 = _sums(book, points, weight, wx)
        better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
        np.divide(sumqx, sumq2, out=scale, where=better)
        np.multiply(scale, sumqx, out=best, where=better)
        chosen[better] = step
    at = (np.maximum(chosen, 0), slice(None), np.arange(blocks))
    points = point.reshape(len(inverse), -1, blocks)[at].T
    off = on_grid(book, state).reshape(len(inverse), -1, blocks)[at].T < 0
    points = np.where(chosen < 0, book.index[0], points)
    off &= chosen >= 0
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
    near = nearest_points(book, state[None], x, importance, scale[None]).reshape(off.shape)
    points = np.where(off, near, fit.point)
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
