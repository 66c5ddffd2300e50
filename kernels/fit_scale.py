"""Searches for the scale of blocks without a minimum, all blocks of a batch at once, one per column.

Every float32 operation and sum happens in C's order; the docstrings give C's name for each, in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .columns import EPSILON, aligned, clip, dot_down, first_largest, nearest_int, round_in_place
from .registry import Bytes, Floats


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
    for trial in _TRIALS:
        np.divide(-(np.float32(nmax) + np.float32(0.1) * np.float32(trial)), peak, out=inverse)
        # Below nmax - 1/2 nothing can round out of range.
        _symmetric_levels(x, inverse, nmax, levels, clipped=trial > -6 or not finite, rounding=rounding)
        dot_down(weighted, levels, out=sum_xl)
        dot_down(weights, levels, levels, out=sum_l2)
        if trial == 0:
            won = inverse.copy()
            np.divide(sum_xl, sum_l2, out=scale)
            scale[sum_l2 == 0] = 0
            np.multiply(scale, sum_xl, out=best)
            continue
        at = (sum_xl * sum_xl > best * sum_l2).nonzero()[0]
        better_xl = sum_xl[at]
        scale[at] = better = better_xl / sum_l2[at]
        best[at] = better * better_xl
        won[at] = inverse[at]
    _symmetric_levels(x, won, nmax, levels, rounding=rounding)
    # C gives an all-zero block the lowest code, as if each level were -nmax.
    scale[flat] = 0
    levels[:, flat] = -nmax
    return scale, levels


_TRIALS = (0, *range(-9, 0), *range(1, 10))


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


def _symmetric_levels(
    x: Floats,
    inverse: Floats,
    nmax: int,
    out: Floats,
    *,
    clipped: bool = True,
    rounding: Callable[..., object] = np.rint,
) -> None:
    np.multiply(x, inverse, out=out)
    rounding(out, out=out)
    if clipped:
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


def _refined(x: Floats, weights: Floats, levels: Floats, *, nmax: int, signed: bool) -> Floats:
    """Move levels (s, n) one by one, in place, wherever that makes Sxl^2 / Sll grow; the scale Sxl / Sll (n,).

    Signed levels lie in -nmax..nmax-1. Others have no lower bound in the sums, but are stored as C's uint8.
    """
    sums = np.stack((dot_down(weights, x, levels), dot_down(weights, levels, levels)))
    if not signed and levels.min(initial=0) < 0:
        levels %= np.float32(256)
    _refine(x, weights, levels, sums, nmax=nmax, signed=signed, rounds=5)
    sum_xl, sum_l2 = sums
    scale: Floats = np.where(sum_l2 > 0, sum_xl / sum_l2, np.float32(0))
    return scale


def _refine(x: Floats, weights: Floats, levels: Floats, sums: Floats, *, nmax: int, signed: bool, rounds: int) -> None:
    """One round over all elements, then the rounds that are left for the columns in which something moved."""
    lowest, highest = np.float32(-nmax if signed else -np.inf), np.float32(nmax - 1 if signed else nmax)
    sum_xl, sum_l2 = sums
    moving = np.zeros(len(sum_xl), np.bool_)
    weighted = weights * x
    # What each element has in the sums; C adds these products too.
    parts_xl, parts_l2 = weighted * levels, weights * levels
    parts_l2 *= levels
    moved, rest_xl, rest_l2 = aligned((3, len(sum_xl)))
    for xi, w, wx, level, part_xl, part_l2 in zip(x, weights, weighted, levels, parts_xl, parts_l2, strict=True):
        np.subtract(sum_xl, part_xl, out=rest_xl)
        np.subtract(sum_l2, part_l2, out=rest_l2)
        np.multiply(xi, rest_l2, out=moved)
        moved /= rest_xl
        round_in_place(moved)
        clip(moved, lowest, highest, out=moved)
        at = (moved != level).nonzero()[0]
        to = moved[at]
        trial_xl = rest_xl[at] + wx[at] * to
        trial_l2 = rest_l2[at] + w[at] * to * to
        before_xl = sum_xl[at]
        better = trial_xl * trial_xl * sum_l2[at] > before_xl * before_xl * trial_l2
        better &= rest_xl[at] > 0
        better &= (trial_l2 if signed else rest_l2[at]) > 0
        won = better.nonzero()[0]
        at = at[won]
        sum_xl[at], sum_l2[at] = trial_xl[won], trial_l2[won]
        level[at] = to[won] if signed else to[won] % np.float32(256)
        moving[at] = True
    again = moving.nonzero()[0]
    if rounds > 1 and len(again):
        few = levels.take(again, axis=1)
        few_sums = sums.take(again, axis=1)
        few_x, few_weights = x.take(again, axis=1), weights.take(again, axis=1)
        _refine(few_x, few_weights, few, few_sums, nmax=nmax, signed=signed, rounds=rounds - 1)
        levels[:, again] = few
        sums[:, again] = few_sums
