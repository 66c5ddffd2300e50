"""The search that the types IQ2 and IQ3 share: scale of a block and grid point of each of its groups.

The reference tries a ladder of scales. At each it rounds every group to a state (`grid_states`) and takes, for a state
off the grid, the nearest point of its neighbour list (`grid_neighbours`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .grid_books import Book, Floats
from .grid_neighbours import Mask, Overflow, Points, likely_points, settled
from .grid_states import BORDER, group_wise, ladder_states, remainder, states


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


def _sums(book: Book, points: Points, weight: Floats, wx: Floats) -> tuple[Floats, Floats]:
    """sum w x q and sum w q^2 over each block, added in order."""
    q = np.empty(weight.shape, np.float32)
    for values, point in zip(q.reshape(len(points), book.group, -1), points, strict=True):
        np.take(book.odd, point, axis=1, out=values)
    sumqx = np.add.reduce(wx * q, axis=0)
    wq = weight * q
    wq *= q
    return sumqx, np.add.reduce(wq, axis=0)
