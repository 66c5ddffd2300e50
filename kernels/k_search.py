"""Searches for the scale (and minimum) of a sub-block, all sub-blocks of a chunk at once, one per column.

The comments give C's name for each, in ggml-quants.c. Every float32 operation and sum happens in C's order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .k_columns import ROUNDABLE, dot, dot3, first_largest, nearest
from .registry import Bytes, Floats

EPSILON = np.float32(1e-15)
"""A block whose largest magnitude is below this counts as all zero."""


@dataclass(frozen=True)
class Affine:
    """x = scale * level - minimum, level in 0..nmax, as found for n columns (all float32 (n,)).

    `base` and `inverse` are the step that won: its levels are round(inverse * (x - base)), clipped.
    """

    scale: Floats
    minimum: Floats
    base: Floats
    inverse: Floats

    def levels(self, x: Floats, nmax: int) -> Floats:
        """The levels (s, n) of the step that won."""
        return _affine_levels(x, self.base, self.inverse, nmax)

    def __getitem__(self, which: np.ndarray) -> Affine:
        return Affine(self.scale[which], self.minimum[which], self.base[which], self.inverse[which])


def affine(
    x: Floats, weights: Floats, nmax: int, *, first: float, step: float, steps: int, absolute: bool = False
) -> Affine:
    """Scale and minimum of each column of x (s, n) that minimize the weighted error (`make_qkx2_quants`, `_qkx3_`).

    Step t of 0..steps divides the range into `first + t * step + nmax` parts, rounds, and fits scale and minimum to
    these levels by weighted least squares:

        D = W Sll - Sl^2    scale = (W Sxl - Sx Sl) / D    min = (Sll Sx - Sl Sxl) / D    (W, Sl ...: weighted sums)

    with min <= 0. The best so far is kept, and its minimum is where the next step starts to divide: steps cannot be
    reordered. `absolute` compares the sum of |difference| instead of its square.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    sum_w = np.add.reduce(weights, axis=0)
    sum_x = dot(weights, x)
    base = np.minimum(low, np.float32(0))
    flat = high <= base
    # A flat column is 0 everywhere above its base, in any range; it must not divide by zero.
    high = np.where(flat, np.float32(1), high)
    inverse = np.float32(nmax) / (high - base)
    scale = np.float32(1) / inverse
    levels = _affine_levels(x, base, inverse, nmax)
    best = Affine(scale, base, base, inverse)
    error = _affine_error(x, weights, levels, scale, base, absolute=absolute)
    minimum = base
    for t in range(steps + 1):
        parts = np.float32(first) + np.float32(step) * np.float32(t) + np.float32(nmax)
        trial = parts / (high - minimum)
        levels = _affine_levels(x, minimum, trial, nmax)
        weighted = weights * levels
        sum_l, sum_l2, sum_xl = np.add.reduce(weighted, axis=0), dot(weighted, levels), dot(weighted, x)
        D = sum_w * sum_l2 - sum_l * sum_l
        trial_scale = (sum_w * sum_xl - sum_x * sum_l) / D
        trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / D
        above = trial_min > 0
        trial_scale = np.where(above, sum_xl / sum_l2, trial_scale)
        trial_min = np.where(above, np.float32(0), trial_min)
        trial_error = _affine_error(x, weights, levels, trial_scale, trial_min, absolute=absolute)
        better = (D > 0) & (trial_error < error) & ~flat
        error = np.where(better, trial_error, error)
        best = Affine(
            np.where(better, trial_scale, best.scale),
            best.minimum,
            np.where(better, minimum, best.base),
            np.where(better, trial, best.inverse),
        )
        minimum = np.where(better, trial_min, minimum)
    return Affine(np.where(flat, np.float32(0), best.scale), -minimum, best.base, best.inverse)


def _affine_levels(x: Floats, base: Floats, inverse: Floats, nmax: int) -> Floats:
    """round(inverse * (x - base)) clipped to 0..nmax, as float32."""
    levels = x - base
    levels *= inverse
    if np.abs(levels).max(initial=0) <= ROUNDABLE:
        np.rint(levels, out=levels)
    else:
        levels = nearest(levels).astype(np.float32)
    return np.clip(levels, np.float32(0), np.float32(nmax), out=levels)


def _affine_error(
    x: Floats, weights: Floats, levels: Floats, scale: Floats, minimum: Floats, *, absolute: bool
) -> Floats:
    """Weighted sum of the squared (or absolute) scale * level + minimum - x."""
    difference = levels * scale
    difference += minimum
    difference -= x
    if absolute:
        return dot(weights, np.abs(difference, out=difference))
    return dot3(difference, difference, weights)


def symmetric(x: Floats, weights: Floats, nmax: int) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x that fit best (`make_qx_quants`, type 1).

    19 scales around max / -nmax are tried (the largest magnitude keeps its sign, the first one wins); each trial's
    levels fit the scale Sxl / Sll, and the largest Sxl^2 / Sll wins.
    """
    peak = first_largest(x)
    flat = np.abs(peak) < EPSILON
    divisor = np.where(flat, np.float32(1), peak)
    weighted = weights * x
    inverse = np.float32(-nmax) / divisor
    levels = _symmetric_levels(x, inverse, nmax)
    sum_xl, sum_l2 = dot(weighted, levels), dot(weights * levels, levels)
    scale = np.where(sum_l2 != 0, sum_xl / sum_l2, np.float32(0))
    best = scale * sum_xl
    for trial in range(-9, 10):
        if trial == 0:
            continue
        trial_inverse = -(np.float32(nmax) + np.float32(0.1) * np.float32(trial)) / divisor
        levels = _symmetric_levels(x, trial_inverse, nmax)
        sum_xl, sum_l2 = dot(weighted, levels), dot(weights * levels, levels)
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        scale = np.where(better, sum_xl / sum_l2, scale)
        best = np.where(better, scale * sum_xl, best)
        inverse = np.where(better, trial_inverse, inverse)
    scale = np.where(flat, np.float32(0), scale)
    # C gives an all-zero block the lowest code, as if each level were -nmax.
    levels = np.where(flat, np.float32(-nmax), _symmetric_levels(x, inverse, nmax))
    return scale, levels


def _symmetric_levels(x: Floats, inverse: Floats, nmax: int) -> Floats:
    levels = x * inverse
    np.rint(levels, out=levels)
    return np.clip(levels, np.float32(-nmax), np.float32(nmax - 1), out=levels)


def positive(x: Floats, weights: Floats, nmax: int) -> tuple[Floats, Bytes]:
    """Scale (n,) and codes uint8 (m, n), 0..nmax, of each column of x (m, n) >= 0 (`make_qp_quants`).

    Nine scales around max / nmax compete by weighted squared error. The winner's codes are then refined one by one: a
    code moves to round(x Sll / Sxl), the sums taken without it, if Sxl^2 / Sll grows; at most five rounds.
    """
    top = np.maximum(x.max(axis=0), np.float32(0))
    flat = top < EPSILON
    divisor = np.where(flat, np.float32(1), top)
    inverse = np.float32(nmax) / divisor
    # The first trial's codes alone are not clipped, and wrap like C's uint8.
    codes = (nearest(x * inverse) & 255).astype(np.float32)
    error = _positive_error(x, weights, codes, inverse)
    for trial in (-4, -3, -2, -1, 1, 2, 3, 4):
        trial_inverse = (np.float32(0.1) * np.float32(trial) + np.float32(nmax)) / divisor
        codes = np.minimum(nearest(x * trial_inverse), nmax).astype(np.float32)
        trial_error = _positive_error(x, weights, codes, trial_inverse)
        inverse = np.where(trial_error < error, trial_inverse, inverse)
        error = np.fmin(error, trial_error)
    codes = np.minimum(nearest(x * inverse), nmax).astype(np.float32)
    sum_xl, sum_l2 = dot3(weights, x, codes), dot3(weights, codes, codes)
    codes = (codes.astype(np.int32) & 255).astype(np.float32)
    _refine(x, weights, codes, sum_xl, sum_l2, nmax=nmax, signed=False)
    scale = np.where((sum_l2 > 0) & ~flat, sum_xl / sum_l2, np.float32(0))
    codes[:, flat] = 0
    return scale, codes.astype(np.uint8)


def _positive_error(x: Floats, weights: Floats, codes: Floats, inverse: Floats) -> Floats:
    difference = x - np.float32(1) / inverse * codes
    return dot3(weights, difference, difference)


def signed_refined(x: Floats, nmax: int) -> tuple[Floats, Floats]:
    """Scale (n,) and levels (s, n) in -nmax..nmax-1 of each column of x, weighted by x^2 (`make_q3_quants`).

    One scale, max / -nmax, then the levels are refined one by one as in `positive`.
    """
    peak = first_largest(x)
    flat = np.abs(peak) < EPSILON
    weights = x * x
    levels = _symmetric_levels(x, np.float32(-nmax) / np.where(flat, np.float32(1), peak), nmax)
    sum_xl, sum_l2 = dot3(weights, x, levels), dot3(weights, levels, levels)
    _refine(x, weights, levels, sum_xl, sum_l2, nmax=nmax, signed=True)
    scale = np.where((sum_l2 > 0) & ~flat, sum_xl / sum_l2, np.float32(0))
    levels[:, flat] = -nmax
    return scale, levels


def _refine(
    x: Floats, weights: Floats, levels: Floats, sum_xl: Floats, sum_l2: Floats, *, nmax: int, signed: bool
) -> None:
    """Move levels one by one, in place with their sums, wherever that makes sum_xl^2 / sum_l2 grow."""
    weighted = weights * x
    for _ in range(5):
        settled = True
        for w, wx, value, level in zip(weights, weighted, x, levels, strict=True):
            rest_xl = sum_xl - wx * level
            rest_l2 = sum_l2 - w * level * level
            moved = nearest(value * rest_l2 / rest_xl)
            moved = np.clip(moved, -nmax, nmax - 1) if signed else np.minimum(moved, nmax)
            trial = moved.astype(np.float32)
            trial_xl = rest_xl + wx * trial
            trial_l2 = rest_l2 + w * trial * trial
            better = (rest_xl > 0) & ((trial_l2 if signed else rest_l2) > 0) & (trial != level)
            better &= trial_xl * trial_xl * sum_l2 > sum_xl * sum_xl * trial_l2
            if better.any():
                settled = False
                level[better] = trial[better] if signed else moved[better] & 255
                sum_xl[better] = trial_xl[better]
                sum_l2[better] = trial_l2[better]
        if settled:
            return
