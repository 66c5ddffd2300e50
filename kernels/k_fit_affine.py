"""Search for the scale and minimum of sub-blocks, all those of a tile at once, one per column.

Every float32 operation and sum happens in C's order (`make_qkx2_quants` and `make_qkx3_quants` in ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .k_columns import ROUNDABLE, aligned, clip, dot, dot3, nearest
from .registry import Floats

Indices = npt.NDArray[np.intp]
_NONE: Indices = np.empty(0, np.intp)

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


class AffineSearch:
    """Scale and minimum of columns x (s, n) that minimize the weighted error (`make_qkx2_quants`, `make_qkx3_quants`).

    Step t of 0..steps divides the range into `first + t * step + nmax` parts, rounds, and fits scale and minimum to
    these levels by weighted least squares:

        D = W Sll - Sl^2    scale = (W Sxl - Sx Sl) / D    min = (Sll Sx - Sl Sxl) / D    (W, Sl ...: weighted sums)

    with min <= 0. The best so far is kept, and its minimum is where the next step starts to divide: steps cannot be
    reordered. `absolute` compares the sum of |difference| instead of its square.

    The object is for one tile after another: it keeps its scratch, 2 s + 4 steps + 20 floats a column.
    """

    def __init__(self, nmax: int, *, first: float, step: float, steps: int, absolute: bool = False) -> None:
        self._nmax = nmax
        self._absolute = absolute
        parts = np.float32(first) + np.float32(step) * np.arange(steps + 1, dtype=np.float32) + np.float32(nmax)
        # The plain division of the range comes first, and is not fitted.
        self._parts = [np.float32(nmax), *parts]
        self._shape = (0, 0)

    def _make_scratch(self, shape: tuple[int, int]) -> None:
        n = shape[1]
        self._shape = shape
        self._levels, self._weighted = aligned(shape), aligned(shape)
        # What each step tried.
        self._inverse, self._scale, self._minimum, self._base = (aligned((len(self._parts), n)) for _ in range(4))
        self._sums, self._products, self._numerators = aligned((4, n)), aligned((2, n)), aligned((2, n))

    def __call__(self, x: Floats, weights: Floats, rounding: Rounding = np.rint) -> Affine:
        """The best fit of each column of x, weights (s, n) >= 0."""
        if x.shape != self._shape:
            self._make_scratch((len(x), x.shape[1]))
        low, high = np.minimum.reduce(x, axis=0), np.maximum.reduce(x, axis=0)
        base = np.minimum(low, np.float32(0))
        # A flat column is 0 above its base, in any range; it must not divide by zero, and nothing improves it.
        flat = np.flatnonzero(high <= base)
        high[flat] = 1
        sum_w = np.add.reduce(weights, axis=0)
        dot(weights, x, out=self._sums[3])
        won = np.zeros(len(low), np.uint8)
        for t, parts in enumerate(self._parts):
            self._base[t] = base
            np.subtract(high, base, out=self._inverse[t])
            np.divide(parts, self._inverse[t], out=self._inverse[t])
            _affine_levels(x, base, self._inverse[t], self._nmax, rounding, self._levels)
            if t == 0:
                np.divide(np.float32(1), self._inverse[0], out=self._scale[0])
                self._minimum[0] = base
                error = self._error(x, weights, 0)
                error[flat] = -1
                continue
            invalid = self._fit(x, weights, sum_w, t)
            trial_error = self._error(x, weights, t)
            trial_error[invalid] = np.inf
            better = trial_error < error
            np.fmin(error, trial_error, out=error)
            np.copyto(base, self._minimum[t], where=better)
            np.maximum(won, better.view(np.uint8) * np.uint8(t), out=won)
        farthest = (low - self._base) * self._inverse
        if rounding is np.rint and not max(farthest.max(), -farthest.min()) <= ROUNDABLE:
            return self(x, weights, _round_as_c)
        winner = (won.astype(np.intp), np.arange(len(won)))
        scale = self._scale[winner]
        scale[flat] = 0
        return Affine(scale, -self._minimum[winner], self._base[winner], self._inverse[winner])

    def _fit(self, x: Floats, weights: Floats, sum_w: Floats, t: int) -> Indices:
        """Scale and minimum of step t from its levels; the columns for which there are none."""
        # Rows Sll, Sxl, Sl, Sx: so arranged, D and the scale's numerator are W * (Sll, Sxl) - Sl * (Sl, Sx).
        sum_l2, sum_xl, sum_l, sum_x = self._sums
        D, numerator = self._numerators
        scale, minimum, spare = self._scale[t], self._minimum[t], self._products[0]
        np.multiply(weights, self._levels, out=self._weighted)
        np.add.reduce(self._weighted, axis=0, out=sum_l)
        dot(self._weighted, self._levels, out=sum_l2)
        dot(self._weighted, x, out=sum_xl)
        np.multiply(self._sums[:2], sum_w, out=self._numerators)
        np.multiply(self._sums[2:], sum_l, out=self._products)
        np.subtract(self._numerators, self._products, out=self._numerators)
        np.divide(numerator, D, out=scale)
        np.multiply(sum_l2, sum_x, out=minimum)
        np.multiply(sum_l, sum_xl, out=spare)
        np.subtract(minimum, spare, out=minimum)
        np.divide(minimum, D, out=minimum)
        if np.fmax.reduce(minimum) > 0:
            above = np.flatnonzero(minimum > 0)
            scale[above] = sum_xl[above] / sum_l2[above]
            minimum[above] = 0
        return _NONE if np.minimum.reduce(D) > 0 else np.flatnonzero(~(D > 0))

    def _error(self, x: Floats, weights: Floats, t: int) -> Floats:
        """Weighted sum of the squared (or absolute) scale * level + minimum - x of step t; overwrites the levels."""
        difference = self._levels
        np.multiply(difference, self._scale[t], out=difference)
        np.add(difference, self._minimum[t], out=difference)
        np.subtract(difference, x, out=difference)
        if self._absolute:
            return dot(weights, np.abs(difference, out=difference))
        return dot3(difference, difference, weights)


def _round_as_c(x: Floats, *, out: Floats) -> None:
    out[...] = nearest(x)


def _affine_levels(x: Floats, base: Floats, inverse: Floats, nmax: int, rounding: Rounding, out: Floats) -> None:
    """round(inverse * (x - base)) clipped to 0..nmax, into `out`."""
    np.subtract(x, base, out=out)
    out *= inverse
    rounding(out, out=out)
    clip(out, np.float32(0), np.float32(nmax), out=out)
