"""Search for the scale and minimum of sub-blocks, all those of a tile at once, one per column.

Every float32 operation and sum happens in C's order (`make_qkx2_quants` and `make_qkx3_quants` in ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .k_columns import ROUNDABLE, aligned, clip, dot, dot3, nearest
from .registry import Floats

Rounding = Callable[..., object]
"""`np.rint`, or what C does with values too large for it."""


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
        levels = np.empty_like(x)
        _affine_levels(x, self.base, self.inverse, nmax, _round_as_c, levels)
        return levels

    def __getitem__(self, which: np.ndarray) -> Affine:
        return Affine(self.scale[which], self.minimum[which], self.base[which], self.inverse[which])


def affine(
    x: Floats,
    weights: Floats,
    nmax: int,
    *,
    first: float,
    step: float,
    steps: int,
    absolute: bool = False,
    rounding: Rounding = np.rint,
) -> Affine:
    """Scale and minimum of each column of x (s, n) that minimize the weighted error (`make_qkx2_quants`, `_qkx3_`).

    Step t of 0..steps divides the range into `first + t * step + nmax` parts, rounds, and fits scale and minimum to
    these levels by weighted least squares:

        D = W Sll - Sl^2    scale = (W Sxl - Sx Sl) / D    min = (Sll Sx - Sl Sxl) / D    (W, Sl ...: weighted sums)

    with min <= 0. The best so far is kept, and its minimum is where the next step starts to divide: steps cannot be
    reordered. `absolute` compares the sum of |difference| instead of its square.
    """
    n = x.shape[1]
    low, high = np.minimum.reduce(x, axis=0), np.maximum.reduce(x, axis=0)
    base = np.minimum(low, np.float32(0))
    # A flat column is 0 everywhere above its base, in any range; it must not divide by zero, and nothing improves it.
    flat = np.flatnonzero(high <= base)
    high[flat] = 1
    # What each step tried; row 0 is the plain division of the range, which needs no fit.
    inverse, scale, minimum, bases = (aligned((steps + 2, n)) for _ in range(4))
    bases[0] = minimum[0] = base
    np.divide(np.float32(nmax), high - base, out=inverse[0])
    np.divide(np.float32(1), inverse[0], out=scale[0])
    levels, weighted = aligned(x.shape), aligned(x.shape)
    _affine_levels(x, base, inverse[0], nmax, rounding, levels)
    error = _affine_error(x, weights, levels, scale[0], base, absolute=absolute)
    error[flat] = -1
    won = np.zeros(n, np.uint8)
    # Rows Sll, Sxl, Sl, Sx: so arranged, D and the numerator of the scale are W * (Sll, Sxl) - Sl * (Sl, Sx).
    sums, products, numerators = aligned((4, n)), aligned((2, n)), aligned((2, n))
    sum_l2, sum_xl, sum_l, sum_x = sums
    D, numerator = numerators
    sum_w = np.add.reduce(weights, axis=0)
    dot(weights, x, out=sum_x)
    for t in range(1, steps + 2):
        bases[t] = base
        np.subtract(high, base, out=inverse[t])
        np.divide(_parts(first, step, t - 1, nmax), inverse[t], out=inverse[t])
        _affine_levels(x, base, inverse[t], nmax, rounding, levels)
        np.multiply(weights, levels, out=weighted)
        np.add.reduce(weighted, axis=0, out=sum_l)
        dot(weighted, levels, out=sum_l2)
        dot(weighted, x, out=sum_xl)
        np.multiply(sums[:2], sum_w, out=numerators)
        np.multiply(sums[2:], sum_l, out=products)
        numerators -= products
        np.divide(numerator, D, out=scale[t])
        np.multiply(sum_l2, sum_x, out=minimum[t])
        minimum[t] -= np.multiply(sum_l, sum_xl, out=products[0])
        minimum[t] /= D
        if np.fmax.reduce(minimum[t]) > 0:
            above = minimum[t] > 0
            np.divide(sum_xl, sum_l2, out=scale[t], where=above)
            minimum[t, above] = 0
        trial_error = _affine_error(x, weights, levels, scale[t], minimum[t], absolute=absolute)
        if not np.minimum.reduce(D) > 0:
            trial_error[~(D > 0)] = np.inf
        better = trial_error < error
        np.fmin(error, trial_error, out=error)
        np.copyto(base, minimum[t], where=better)
        np.maximum(won, better.view(np.uint8) * np.uint8(t), out=won)
    farthest = (low - bases) * inverse
    if rounding is np.rint and not max(farthest.max(), -farthest.min()) <= ROUNDABLE:
        return affine(x, weights, nmax, first=first, step=step, steps=steps, absolute=absolute, rounding=_round_as_c)
    winner = (won.astype(np.intp), np.arange(n))
    found = scale[winner]
    found[flat] = 0
    return Affine(found, -minimum[winner], bases[winner], inverse[winner])


def _parts(first: float, step: float, t: int, nmax: int) -> np.float32:
    """The parts that step t divides the range into, in float32 arithmetic."""
    parts: np.float32 = np.float32(first) + np.float32(step) * np.float32(t) + np.float32(nmax)
    return parts


def _round_as_c(x: Floats, *, out: Floats) -> None:
    out[...] = nearest(x)


def _affine_levels(x: Floats, base: Floats, inverse: Floats, nmax: int, rounding: Rounding, out: Floats) -> None:
    """round(inverse * (x - base)) clipped to 0..nmax, into `out`."""
    np.subtract(x, base, out=out)
    out *= inverse
    rounding(out, out=out)
    clip(out, np.float32(0), np.float32(nmax), out=out)


def _affine_error(
    x: Floats, weights: Floats, levels: Floats, scale: Floats, minimum: Floats, *, absolute: bool
) -> Floats:
    """Weighted sum of the squared (or absolute) scale * level + minimum - x; overwrites the levels."""
    levels *= scale
    levels += minimum
    levels -= x
    if absolute:
        return dot(weights, np.abs(levels, out=levels))
    return dot3(levels, levels, weights)
