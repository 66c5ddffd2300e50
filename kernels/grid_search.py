"""The search that the types IQ2 and IQ3 share: scale of a block and grid point of each of its groups.

The reference tries a ladder of scales. At each it rounds every group to a state (`grid_states`) and takes, for a state
off the grid, the nearest point of its neighbour list (`grid_neighbours`). Here the sums of a step are first worked out
from those of the step before, and once more in the reference's order where the step may be the best one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .columns import dot_down, einsum
from .grid_books import Book, Floats, Ints
from .grid_neighbours import Mask, Overflow, Places, Points, likely_points, settled, spans
from .grid_states import BORDER, States, group_wise, ladder_states, remainder, states

Floats64 = npt.NDArray[np.float64]

# Steps whose scores (sum w x q)^2 / sum w q^2 differ by less than this part of sum w x^2, times how much sum w q^2
# varies over the steps, may be in any order for the reference. A sum over 32 weights with two products each is off by
# at most 33 * 2^-24 of the sum of magnitudes, and a score by three times that part of sum w x^2 (Cauchy and Schwarz):
# for the reference's score and ours, of two steps, 2.4e-5. Importances that were rounded, for a weight always in the
# same way, and the reference's comparison add less than 3e-6.
_NEAR = 4e-5
# Where a scale, a score or (sum w x q)^2 is outside of these bounds, float32 underflows or overflows somewhere.
_TAME = 1e-30, 1e34

# Pairs of block and step whose sums are worked out at once, and changes of points.
_PAIRS = 2000
_CHANGES = 4000


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
    rows = np.ascontiguousarray(np.concatenate([columns, importance]).T)
    state = ladder_states(book, columns, ladder, top)
    point, starts, unsure = likely_points(book, state, rows, ladder, top)
    step, group = np.divmod(unsure, len(state))
    exact_scale = np.float32(1) / (ladder[step] / top[remainder(group, blocks)])
    sure = settled(book, book.odd, state[group, step], rows.take(group, axis=0), exact_scale)
    changes = _changes(point, starts, unsure, sure)
    point[step, group] = sure
    by_step = point.reshape(len(ladder), -1, blocks)
    wx = weight * x
    scale, chosen = _best_step(book, by_step, changes, rows, weight, wx, x, start)
    step = np.maximum(chosen, 0)
    points = np.where(chosen < 0, book.index[0], by_step[step, :, np.arange(blocks)].T)
    last = state.reshape(-1, blocks, len(ladder))[:, np.arange(blocks), step] & np.uint16(BORDER - 1)
    off = (book.index[last] < 0) & (chosen >= 0)
    if redo != "off":
        off[:] = off.any(axis=0) | (chosen < 0) | (redo == "all")
    off &= scale > 0
    scale[empty], points[:, empty], off[:, empty] = 0, 0, False
    known, kept = _known(state, point, unsure, ladder, top, scale)
    points = np.where(off & kept, known, points)
    return _move(book, Fit(scale, points, empty), off & ~kept, off.any(axis=0), rows, weight, wx)


@dataclass(frozen=True)
class _Changes:
    """Groups that have another point at a step than at the one before; (changes,) each.

    Attributes:
        place: step * groups + group.
        before: grid point that they had.
        after: grid point that they have.
    """

    place: Places
    before: Points
    after: Points


def _changes(point: Points, starts: Places, unsure: Ints, sure: Points) -> _Changes:
    """Changes along points (steps, groups), which may change at `starts`, when those at the places `unsure` are `sure`.

    One change may be given as several that add up to it.
    """
    groups = point.shape[1]
    flat = np.concatenate([point[:1], point]).reshape(-1)
    before, after = flat.take(starts), flat.take(starts + np.int32(groups))
    there = np.flatnonzero(before != after)
    likely = flat.take(unsure + groups)
    wrong = np.flatnonzero((likely != sure) & (unsure >= groups))
    ends = np.flatnonzero((likely != sure) & (unsure < point.size - groups))
    return _Changes(
        np.concatenate([starts[there], unsure[wrong], unsure[ends] + groups]).astype(np.int32),
        np.concatenate([before[there], likely[wrong], sure[ends]]),
        np.concatenate([after[there], sure[wrong], likely[ends]]),
    )


def _best_step(
    book: Book, by_step: Points, changes: _Changes, rows: Floats, weight: Floats, wx: Floats, x: Floats, start: Floats
) -> tuple[Floats, Ints]:
    """Scale and step that the reference ends with for each block; `start` and -1 where none succeeds.

    It takes a step if (sum w x q)^2 > best * sum w q^2. So only steps that come close to the highest score count, and
    of consecutive steps with the same points only the first and, if rounding lets them succeed again, the last.

    Args:
        book: the code book.
        by_step: grid points of the groups at each step, (steps, groups of a block, blocks).
        changes: where they change.
        rows: the weights of each group, and their importance, (groups, 2 * group).
        weight, wx, x: importance of the weights, times the weights, and they themselves, (weights of a block, blocks).
        start: (blocks,).
    """
    steps, _, blocks = by_step.shape
    near, changed = _near_steps(book, by_step, changes, rows, weight, wx, dot_down(wx, x))
    fresh = np.flatnonzero(changed.T)
    same = np.diff(fresh, append=steps * blocks)
    close = near.T.reshape(-1)[fresh]
    fresh, same = fresh[close], same[close]
    block = fresh // steps
    step = fresh - block * steps
    sumqx, sumq2 = np.empty((2, len(block)), np.float32)
    for part in spans(0, len(block), _PAIRS):
        columns = block[part]
        points = np.ascontiguousarray(by_step[step[part], :, columns].T)
        sumqx[part], sumq2[part] = _sums(book, points, weight.take(columns, axis=1), wx.take(columns, axis=1))
    scale, best, chosen = start.copy(), np.zeros(blocks, np.float32), np.full(blocks, -1)
    count = np.bincount(block, minlength=blocks)
    first = np.cumsum(count) - count
    for rank in range(count.max(initial=0)):
        (at,) = np.nonzero(count > rank)
        pair = first[at] + rank
        qx, q2 = sumqx[pair], sumq2[pair]
        better = (q2 > 0) & (qx * qx > best[at] * q2)
        at, pair, qx, q2 = at[better], pair[better], qx[better], q2[better]
        scale[at] = qx / q2
        best[at] = scale[at] * qx
        again = qx * qx > best[at] * q2
        chosen[at] = step[pair] + np.where(again, same[pair] - 1, 0)
    return scale, chosen


def _near_steps(
    book: Book, by_step: Points, changes: _Changes, rows: Floats, weight: Floats, wx: Floats, energy: Floats
) -> tuple[Mask, Mask]:
    """Which steps (steps, blocks) may come out best, and at which the points of a block change.

    The sums of a step are those of the step before and what the groups whose points change add to them, in float64.
    """
    steps, groups, blocks = by_step.shape
    step = changes.place // np.int32(groups * blocks)
    group = changes.place - step * np.int32(groups * blocks)
    place = step * np.intp(blocks) + remainder(group, np.int32(blocks))
    changed = np.zeros((steps, blocks), bool)
    changed.reshape(-1)[place] = True
    changed[0] = True
    more_qx, more_q2 = (
        np.bincount(place, more, steps * blocks).reshape(steps, blocks) for more in _added(book, changes, group, rows)
    )
    sumqx, sumq2 = (sums.astype(np.float64) for sums in _sums(book, by_step[0], weight, wx))
    score = np.empty((steps, blocks), np.float32)
    tame = (energy > _TAME[0]) & (energy < _TAME[1])
    least, most = sumq2.copy(), sumq2.copy()
    for rung in range(steps):
        sumqx += more_qx[rung]
        sumq2 += more_q2[rung]
        scale = sumqx / sumq2
        np.multiply(scale, sumqx, out=score[rung])
        for size in (np.abs(scale), sumqx * sumqx):
            tame &= (size > _TAME[0]) & (size < _TAME[1])
        np.minimum(least, sumq2, out=least)
        np.maximum(most, sumq2, out=most)
    margin = _NEAR * energy * (most / least)
    return ~(score < np.where(tame, score.max(axis=0) - margin, -np.inf)), changed


def _added(book: Book, changes: _Changes, group: Places, rows: Floats) -> tuple[Floats64, Floats64]:
    """What the changes, of these groups, add to sum w x q and to sum w q^2: float64 (changes,)."""
    qx, q2 = np.empty((2, len(group)))
    odd = book.odd.astype(np.float64)
    for part in spans(0, len(group), _CHANGES):
        x, importance = rows.take(group[part], axis=0).T.astype(np.float64, order="C").reshape(2, book.group, -1)
        before, after = (odd.take(points[part], axis=1) for points in (changes.before, changes.after))
        more = after - before
        after += before
        more *= importance
        more *= importance
        einsum("ij,ij->j", more, x, out=qx[part])
        einsum("ij,ij->j", more, after, out=q2[part])
    return qx, q2


def _known(
    state: States, point: Points, unsure: Ints, ladder: Floats, top: Floats, scale: Floats
) -> tuple[Points, Mask]:
    """Points that groups (groups of a block, blocks) surely have at the scales (blocks,), and which are known.

    A group that has one state and one point, for sure, at the steps next to a scale on both sides has them there too.
    """
    steps, blocks = len(ladder), len(scale)
    inverse = np.float32(1) / scale
    rung = (inverse * top - ladder[0]) / (ladder[1] - ladder[0])
    low = np.fmax(np.fmin(np.floor(rung), np.float32(steps - 2)), np.float32(0)).astype(np.intp)
    between = (ladder[low] / top <= inverse) & (inverse <= ladder[low + 1] / top)
    group = np.arange(len(state)).reshape(-1, blocks)
    at = group * steps + low
    known = state.take(at) == state.take(at + 1)
    at = low * len(state) + group
    there = point.take(at)
    known &= there == point.take(at + len(state))
    known.reshape(-1)[unsure % len(state)] = False
    known &= between
    return there, known


def _move(book: Book, fit: Fit, off: Mask, moved: Mask, rows: Floats, weight: Floats, wx: Floats) -> Fit:
    """Move the groups `off` to the nearest points at their block's scale; solve for the scale of the blocks `moved`."""
    group = np.flatnonzero(off)
    scale = fit.scale.take(remainder(group, off.shape[1]))
    rows = rows.take(group, axis=0)
    state = states(book, np.ascontiguousarray(rows[:, : book.group].T), np.float32(1) / scale)
    near, _, unsure = likely_points(book, state[:, None], rows, np.ones(1, np.float32), scale)
    near = near.reshape(-1)
    near[unsure] = settled(book, book.odd, state[unsure], rows.take(unsure, axis=0), scale[unsure])
    points = fit.point.copy()
    points.reshape(-1)[group] = near
    sumqx, sumq2 = _sums(book, points, weight, wx)
    solved = fit.scale.copy()
    np.divide(sumqx, sumq2, out=solved, where=moved & (sumq2 > 0))
    if np.isnan(solved).any():
        raise Overflow
    return Fit(solved, points, fit.empty)


def _sums(book: Book, points: Points, weight: Floats, wx: Floats) -> tuple[Floats, Floats]:
    """sum w x q and sum w q^2 over each block, added in order."""
    q = np.empty(weight.shape, np.float32)
    for values, point in zip(q.reshape(len(points), book.group, -1), points, strict=True):
        book.odd.take(point, axis=1, out=values, mode="clip")
    return dot_down(wx, q), dot_down(weight, q, q)
