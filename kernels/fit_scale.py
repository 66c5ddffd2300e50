"""Searches for the scale of blocks without a minimum, all blocks of a batch at once, one per column.

Every float32 operation and sum happens in C's order; the docstrings give C's name for each, in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .columns import EPSILON, aligned, clip, dot_down, first_largest, nearest_int, round_in_place
from .registry import Bytes, Floats

Places = npt.NDArray[np.intp]


def symmetric(x: Floats, weights: Floats, nmax: int, *, finite: bool = True) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x that fit best (`make_qx_quants`, type 1).

    19 scales around max / -nmax are tried (the largest magnitude keeps its sign, the first one wins); each trial's
    levels fit the scale Sxl / Sll, and the largest Sxl^2 / Sll wins. C also asks for Sll > 0; with Sll = 0, Sxl is 0.
    Scales of sub-blocks need not be `finite`: then values are rounded with all of C's quirks.
    """
    rounding = np.rint if finite else _round_as_c
    peak = first_largest(x)
    flat = np.flatnonzero(np.abs(peak) < EPSILON)
    peak[flat] = 1
    weighted = weights * x
    levels = aligned(x.shape)
    best, scale, sum_xl, sum_l2, inverse = aligned((5, x.shape[1]))
    lowest, highest = np.float32(-nmax), np.float32(nmax - 1)
    near: Places | None = None
    for trial in _TRIALS:
        np.divide(-(np.float32(nmax) + np.float32(0.1) * np.float32(trial)), peak, out=inverse)
        np.multiply(x, inverse, out=levels)
        rounding(levels, out=levels)
        # Below nmax - 1/2 nothing can round out of range, and below nmax + 1/2 only what is `near` its upper end.
        if near is not None and trial < 5:
            levels.reshape(-1)[near] = np.minimum(levels.take(near), highest)
        elif trial > -6 or not finite:
            clip(levels, lowest, highest, out=levels)
        dot_down(weighted, levels, out=sum_xl)
        dot_down(weights, levels, levels, out=sum_l2)
        if trial == 0:
            won = inverse.copy()
            np.divide(sum_xl, sum_l2, out=scale)
            scale[sum_l2 == 0] = 0
            np.multiply(scale, sum_xl, out=best)
            if finite:
                near = _seldom(levels == highest)
            continue
        at = (sum_xl * sum_xl > best * sum_l2).nonzero()[0]
        better_xl = sum_xl.take(at)
        scale[at] = better = better_xl / sum_l2.take(at)
        best[at] = better * better_xl
        won[at] = inverse.take(at)
    _symmetric_levels(x, won, nmax, levels, rounding=rounding)
    # C gives an all-zero block the lowest code, as if each level were -nmax.
    scale[flat] = 0
    levels[:, flat] = -nmax
    return scale, levels


_TRIALS = (0, *range(-9, 0), *range(1, 10))


def _seldom(flags: npt.NDArray[np.bool_]) -> Places | None:
    """Where flags are set, if they are so few that to go to each is quicker than a pass over all elements."""
    return np.flatnonzero(flags) if 64 * np.count_nonzero(flags) < flags.size else None


def signed_refined(x: Floats, nmax: int) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x, weighted by x^2 (`make_q3_quants`).

    One scale, max / -nmax, then the levels are refined one by one as in `positive`.
    """
    peak = first_largest(x)
    flat = np.abs(peak) < EPSILON
    peak[flat] = 1
    levels = aligned(x.shape)
    _symmetric_levels(x, np.float32(-nmax) / peak, nmax, levels)
    scale = _refined(x, None, levels, nmax=nmax, signed=True)
    scale[flat] = 0
    levels[:, flat] = -nmax
    return scale, levels


def _symmetric_levels(
    x: Floats, inverse: Floats, nmax: int, out: Floats, *, rounding: Callable[..., object] = np.rint
) -> None:
    np.multiply(x, inverse, out=out)
    rounding(out, out=out)
    clip(out, np.float32(-nmax), np.float32(nmax - 1), out=out)


def _round_as_c(x: Floats, *, out: Floats) -> None:
    out[...] = nearest_int(x)


def positive(x: Floats, weights: Floats, nmax: int) -> tuple[Floats, Bytes]:
    """Scale (n,) and codes uint8 (m, n), 0..nmax, of each column of x (m, n) >= 0 (`make_qp_quants`).

    Nine scales around max / nmax compete by weighted squared error. The winner's codes are then refined one by one: a
    code moves to round(x Sll / Sxl), the sums taken without it, if Sxl^2 / Sll grows; at most five rounds.
    """
    top = np.maximum(x.max(axis=0), np.float32(0))
    flat = top < EPSILON
    top[flat] = 1
    inverse = np.float32(nmax) / top
    # The first trial's codes alone are not clipped, and wrap like C's uint8.
    codes = (nearest_int(x * inverse) & 255).astype(np.float32)
    error = _positive_error(x, weights, codes, inverse)
    for trial in (-4, -3, -2, -1, 1, 2, 3, 4):
        trial_inverse = (np.float32(0.1) * np.float32(trial) + np.float32(nmax)) / top
        codes = np.minimum(nearest_int(x * trial_inverse), nmax).astype(np.float32)
        trial_error = _positive_error(x, weights, codes, trial_inverse)
        np.copyto(inverse, trial_inverse, where=trial_error < error)
        np.fmin(error, trial_error, out=error)
    codes = np.minimum(nearest_int(x * inverse), nmax).astype(np.float32)
    scale = _refined(x, weights, codes, nmax=nmax, signed=False)
    scale[flat] = 0
    codes[:, flat] = 0
    return scale, codes.astype(np.uint8)


def _positive_error(x: Floats, weights: Floats, codes: Floats, inverse: Floats) -> Floats:
    difference = x - np.float32(1) / inverse * codes
    return dot_down(weights, difference, difference)


def _refined(x: Floats, weights: Floats | None, levels: Floats, *, nmax: int, signed: bool) -> Floats:
    """Move levels (s, n) one by one, in place, wherever that makes Sxl^2 / Sll grow; the scale Sxl / Sll (n,).

    Weights None stand for x^2. Signed levels lie in -nmax..nmax-1. Others have no lower bound in the sums, but are
    stored as C's uint8.

    As long as no level of a column moves, its sums stay the same, so that all of its elements can be tested at once.
    Of those that would move, the first in C's order does; columns without any are done, after five rounds all.
    """
    s, n = x.shape
    w = x * x if weights is None else weights
    sum_xl, sum_l2 = dot_down(w, x, levels), dot_down(w, levels, levels)
    few_xl, few_l2 = sum_xl, sum_l2
    if signed:
        # The terms of a column's Sxl all have one sign. Where it is minus, nothing positive is left without one, and C
        # moves none; neither do we, for the square root is NaN.
        few_xl = sum_xl + np.float32(0) * np.sqrt(sum_xl)
    elif levels.min(initial=0) < 0:
        levels %= np.float32(256)
    few, few_weights, few_levels = x, weights, levels
    # `due` is the next element for C's loop, counted over all rounds.
    columns, due = np.arange(n), np.zeros(n, np.intp)
    while len(columns):
        row, column, *then = _moves(few, few_weights, few_levels, few_xl, few_l2, nmax=nmax, signed=signed)
        first, due = _first_moves(row, column, due, s)
        row, columns = row.take(first), columns.take(column.take(first))
        to, few_xl, few_l2 = (figure.take(first) for figure in then)
        levels[row, columns] = to if signed else to % np.float32(256)
        sum_xl[columns], sum_l2[columns] = few_xl, few_l2
        few, few_levels = x.take(columns, axis=1), levels.take(columns, axis=1)
        few_weights = None if weights is None else weights.take(columns, axis=1)
    scale: Floats = np.where(sum_l2 > 0, sum_xl / sum_l2, np.float32(0))
    return scale


def _moves(
    x: Floats, weights: Floats | None, levels: Floats, sum_xl: Floats, sum_l2: Floats, *, nmax: int, signed: bool
) -> tuple[Places, Places, Floats, Floats, Floats]:
    """Which levels (s, n) would move, each on its own: row and column, by row, the new level, and both sums then."""
    at = _restless(x, weights, levels, sum_xl, sum_l2)
    row = at // x.shape[1]
    column = at - row * x.shape[1]
    x, levels, sum_xl, sum_l2 = x.take(at), levels.take(at), sum_xl.take(column), sum_l2.take(column)
    w = x * x if weights is None else weights.take(at)
    rest_xl = sum_xl - w * x * levels
    rest_l2 = sum_l2 - w * levels * levels
    to = x * rest_l2
    to /= rest_xl
    round_in_place(to)
    clip(to, np.float32(-nmax if signed else -np.inf), np.float32(nmax - 1 if signed else nmax), out=to)
    then_xl = rest_xl + w * x * to
    then_l2 = rest_l2 + w * to * to
    better = then_xl * then_xl * sum_l2 > sum_xl * sum_xl * then_l2
    better &= (rest_xl > 0) & (to != levels)
    better &= (then_l2 if signed else rest_l2) > 0
    won = np.flatnonzero(better)
    return row.take(won), column.take(won), to.take(won), then_xl.take(won), then_l2.take(won)


def _restless(x: Floats, weights: Floats | None, levels: Floats, sum_xl: Floats, sum_l2: Floats) -> Places:
    """Places in the raveled x where x Sll / Sxl, the sums without that element, is half a step or more from its level.

    Anywhere else it rounds to that level again. Where it is NaN, a sum has overflowed, and C moves nothing.
    """
    away = np.empty(x.shape, np.bool_)
    for start in range(0, x.shape[1], _PART):
        part = slice(start, start + _PART)
        value, level = x[:, part], levels[:, part]
        w = value * value if weights is None else weights[:, part]
        rest_l2 = w * level
        rest_l2 *= level
        np.subtract(sum_l2[part], rest_l2, out=rest_l2)
        rest_xl = w * value
        rest_xl *= level
        np.subtract(sum_xl[part], rest_xl, out=rest_xl)
        distance = np.multiply(value, rest_l2, out=rest_l2)
        distance /= rest_xl
        distance -= level
        np.abs(distance, out=distance)
        np.greater_equal(distance, np.float32(0.5), out=away[:, part])
    return np.flatnonzero(away)


_PART = 2048
"""Columns whose arrays fit in the second-level cache."""


def _first_moves(row: Places, column: Places, due: Places, s: int) -> tuple[Places, Places]:
    """Which of the moves, by row, is the first of its column from `due` on, and which element is due after it.

    Columns come in order. Left out is what C would reach after five rounds alone.
    """
    turn = (due // s * s)[column] + row
    passed = turn < due[column]
    # Of several figures assigned to one place, the last stays.
    order = np.concatenate((np.flatnonzero(passed)[::-1], np.flatnonzero(~passed)[::-1]))
    first = np.full(len(due), -1)
    first[column[order]] = order
    first = first.take(np.flatnonzero(first >= 0))
    turn = turn.take(first) + s * passed.take(first)
    in_time = np.flatnonzero(turn < 5 * s)
    return first.take(in_time), turn.take(in_time) + 1
