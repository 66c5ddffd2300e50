"""Searches for the scale of blocks without a minimum, all blocks of a tile at once, one per column.

Every float32 operation and sum happens in C's order; the docstrings give C's name for each, in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from .k_columns import aligned, clip, dot, dot3, first_largest, nearest, round_in_place
from .registry import Bytes, Floats

EPSILON = np.float32(1e-15)
"""A block whose largest magnitude is below this counts as all zero."""


def symmetric(x: Floats, weights: Floats, nmax: int) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x that fit best (`make_qx_quants`, type 1).

    19 scales around max / -nmax are tried (the largest magnitude keeps its sign, the first one wins); each trial's
    levels fit the scale Sxl / Sll, and the largest Sxl^2 / Sll wins.
    """
    peak = first_largest(x)
    flat = np.abs(peak) < EPSILON
    peak[flat] = 1
    weighted = weights * x
    levels = aligned(x.shape)
    trials = (0, *range(-9, 0), *range(1, 10))
    inverse, sum_xl, sum_l2 = (np.empty((len(trials), x.shape[1]), np.float32) for _ in range(3))
    won = np.zeros(x.shape[1], np.uint8)
    for t, trial in enumerate(trials):
        np.divide(-(np.float32(nmax) + np.float32(0.1) * np.float32(trial)), peak, out=inverse[t])
        # Below nmax - 1/2 nothing can round out of range.
        _symmetric_levels(x, inverse[t], nmax, levels, clipped=trial > -6)
        dot(weighted, levels, out=sum_xl[t])
        dot3(weights, levels, levels, out=sum_l2[t])
        if t == 0:
            best = np.where(sum_l2[0] != 0, sum_xl[0] / sum_l2[0], np.float32(0)) * sum_xl[0]
            continue
        # Sll > 0 wherever this holds: with Sll = 0, Sxl is 0 too.
        better = sum_xl[t] * sum_xl[t] > best * sum_l2[t]
        np.copyto(best, sum_xl[t] / sum_l2[t] * sum_xl[t], where=better)
        np.maximum(won, better.view(np.uint8) * np.uint8(t), out=won)
    winner = (won.astype(np.intp), np.arange(len(won)))
    scale = np.where(flat | (sum_l2[winner] == 0), np.float32(0), sum_xl[winner] / sum_l2[winner])
    _symmetric_levels(x, inverse[winner], nmax, levels)
    # C gives an all-zero block the lowest code, as if each level were -nmax.
    levels[:, flat] = -nmax
    return scale, levels


def signed_refined(x: Floats, nmax: int) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x, weighted by x^2 (`make_q3_quants`).

    One scale, max / -nmax, then the levels are refined one by one as in `positive`.
    """
    peak = first_largest(x)
    flat = np.abs(peak) < EPSILON
    peak[flat] = 1
    levels = aligned(x.shape)
    _symmetric_levels(x, np.float32(-nmax) / peak, nmax, levels)
    scale = _refined(x, x * x, levels, nmax=nmax, signed=True)
    scale[flat] = 0
    levels[:, flat] = -nmax
    return scale, levels


def _symmetric_levels(x: Floats, inverse: Floats, nmax: int, out: Floats, *, clipped: bool = True) -> None:
    np.multiply(x, inverse, out=out)
    np.rint(out, out=out)
    if clipped:
        clip(out, np.float32(-nmax), np.float32(nmax - 1), out=out)


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
    codes = (nearest(x * inverse) & 255).astype(np.float32)
    error = _positive_error(x, weights, codes, inverse)
    for trial in (-4, -3, -2, -1, 1, 2, 3, 4):
        trial_inverse = (np.float32(0.1) * np.float32(trial) + np.float32(nmax)) / top
        codes = np.minimum(nearest(x * trial_inverse), nmax).astype(np.float32)
        trial_error = _positive_error(x, weights, codes, trial_inverse)
        np.copyto(inverse, trial_inverse, where=trial_error < error)
        np.fmin(error, trial_error, out=error)
    codes = np.minimum(nearest(x * inverse), nmax).astype(np.float32)
    scale = _refined(x, weights, codes, nmax=nmax, signed=False)
    scale[flat] = 0
    codes[:, flat] = 0
    return scale, codes.astype(np.uint8)


def _positive_error(x: Floats, weights: Floats, codes: Floats, inverse: Floats) -> Floats:
    difference = x - np.float32(1) / inverse * codes
    return dot3(weights, difference, difference)


def _refined(x: Floats, weights: Floats, levels: Floats, *, nmax: int, signed: bool) -> Floats:
    """Move levels (s, n) one by one, in place, wherever that makes Sxl^2 / Sll grow; the scale Sxl / Sll (n,).

    Signed levels lie in -nmax..nmax-1. Others have no lower bound in the sums, but are stored as C's uint8.
    """
    lowest = np.float32(-nmax) if signed else np.float32(-np.inf)
    highest = np.float32(nmax - 1) if signed else np.float32(nmax)
    weighted = weights * x
    part_xl, part_l2 = weighted * levels, weights * levels
    part_l2 *= levels
    sum_xl, sum_l2 = np.add.reduce(part_xl, axis=0), np.add.reduce(part_l2, axis=0)
    if not signed and levels.min(initial=0) < 0:
        levels %= np.float32(256)
        part_xl, part_l2 = weighted * levels, weights * levels * levels
    for _ in range(5):
        settled = True
        for i, level in enumerate(levels):
            rest_xl, rest_l2 = sum_xl - part_xl[i], sum_l2 - part_l2[i]
            moved = x[i] * rest_l2
            moved /= rest_xl
            round_in_place(moved)
            clip(moved, lowest, highest, out=moved)
            at = np.flatnonzero(moved != level)
            if not len(at):
                continue
            rest_xl, rest_l2, moved = rest_xl[at], rest_l2[at], moved[at]
            w, old_xl, old_l2 = weights[i, at], sum_xl[at], sum_l2[at]
            trial_xl = rest_xl + weighted[i, at] * moved
            trial_l2 = rest_l2 + w * moved * moved
            better = (rest_xl > 0) & ((trial_l2 if signed else rest_l2) > 0)
            better &= trial_xl * trial_xl * old_l2 > old_xl * old_xl * trial_l2
            if not better.any():
                continue
            settled = False
            at, moved, w = at[better], moved[better], w[better]
            sum_xl[at], sum_l2[at] = trial_xl[better], trial_l2[better]
            if not signed:
                moved %= np.float32(256)
            level[at] = moved
            part_xl[i, at] = weighted[i, at] * moved
            part_l2[i, at] = w * moved * moved
        if settled:
            break
    scale: Floats = np.where(sum_l2 > 0, sum_xl / sum_l2, np.float32(0))
    return scale
