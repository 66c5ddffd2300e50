"""Search for the scale and minimum of sub-blocks, all those of a batch at once, one per column.

Every float32 operation and sum happens in C's order (`make_qkx2_quants` and `make_qkx3_quants` in ggml-quants.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .columns import ROUNDABLE, add_down, aligned, clip, dot_down, first_smallest, nearest_int
from .registry import Floats

Indices = npt.NDArray[np.intp]

_FEW = 64
"""Columns that are not worth a smaller array."""


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
        levels = nearest_int((x - self.base) * self.inverse).astype(np.float32)
        return np.clip(levels, np.float32(0), np.float32(nmax), out=levels)

    def __getitem__(self, which: Indices) -> Affine:
        return Affine(self.scale[which], self.minimum[which], self.base[which], self.inverse[which])


class _Given(NamedTuple):
    """What stays fixed of each column, and room for the sums over its levels (all float32 (n,))."""

    low: Floats
    high: Floats
    sum_w: Floats
    sum_x: Floats
    sum_l: Floats
    sum_l2: Floats
    sum_xl: Floats


class _Trial(NamedTuple):
    """A step of each column: its error, what it fitted, and what its levels are (all float32 (n,))."""

    error: Floats
    scale: Floats
    minimum: Floats
    base: Floats
    inverse: Floats


class AffineSearch:
    """Scale and minimum of columns x (s, n) that minimize the weighted error (`make_qkx2_quants`, `make_qkx3_quants`).

    Step t of 0..steps divides the range into `first + t * step + nmax` parts, rounds, and fits scale and minimum to
    these levels by weighted least squares:

        D = W Sll - Sl^2    scale = (W Sxl - Sx Sl) / D    min = (Sll Sx - Sl Sxl) / D    (W, Sl ...: weighted sums)

    with min <= 0. The best so far is kept, and its minimum is where the next step starts to divide: steps cannot be
    reordered. `absolute` compares the sum of |difference| instead of its square.

    A step whose levels are those of the last step, from the same base, cannot be better. With `leap` each column goes
    straight to the first step where one of its levels changes; columns at the end of their steps are taken out as
    soon as they are half of all.
    """

    def __init__(
        self, nmax: int, *, first: float, step: float, steps: int, absolute: bool = False, leap: bool = False
    ) -> None:
        self._nmax, self._first, self._step = np.float32(nmax), np.float32(first), np.float32(step)
        self._last = np.float32(steps)
        self._absolute = absolute
        self._leap = leap

    def __call__(self, x: Floats, weights: Floats) -> Affine:
        """The best fit of each column of x, weights (s, n) >= 0."""
        scratch = aligned((2, *x.shape))
        given, best = self._plain_range(x, weights, scratch[0])
        flat = np.flatnonzero(best.error < 0)
        found, columns = best, np.arange(x.shape[1])
        t = np.zeros(x.shape[1] if self._leap else 1, np.float32)  # the next step of each column
        while True:
            trial, following = self._trial(x, weights, given, best.minimum, t, scratch)
            better = trial.error < best.error
            if self._leap:
                better &= t <= self._last
            at = better.nonzero()[0]
            if self._leap:
                following[at] = t[at] + 1
            for kept, tried in zip(best, trial, strict=True):
                kept[at] = tried[at]
            t = following
            going = t <= self._last
            left = np.count_nonzero(going)
            if 2 * left > len(t) or 0 < left < _FEW:
                continue
            if best is not found:
                for whole, part in zip(found, best, strict=True):
                    whole[columns] = part
            if not left:
                break
            stay = going.nonzero()[0]
            columns, t = columns[stay], t[stay]
            given, best = _Given(*(row[stay] for row in given)), _Trial(*(row[stay] for row in best))
            x, weights = x.take(stay, axis=1), weights.take(stay, axis=1)
            scratch = scratch.reshape(-1)[: 2 * x.size].reshape(2, *x.shape)
        found.scale[flat] = 0
        return Affine(found.scale, -found.minimum, found.base, found.inverse)

    def _plain_range(self, x: Floats, weights: Floats, levels: Floats) -> tuple[_Given, _Trial]:
        """What stays fixed of each column, and the first trial: from the least value (or 0) to the largest, no fit."""
        given, best = _Given(*aligned((7, x.shape[1]))), _Trial(*aligned((5, x.shape[1])))
        given.low[...] = first_smallest(x)
        np.maximum.reduce(x, axis=0, out=given.high)
        best.base[...] = np.where(given.low > 0, np.float32(0), given.low)
        # A flat column is 0 above its base, in any range; it must not divide by zero, and nothing improves it.
        flat = np.flatnonzero(given.high <= best.base)
        given.high[flat] = 1
        add_down(weights, out=given.sum_w)
        dot_down(weights, x, out=given.sum_x)
        best.minimum[...] = best.base
        np.divide(self._nmax, given.high - best.base, out=best.inverse)
        np.divide(np.float32(1), best.inverse, out=best.scale)
        self._divide(x, given.low, best, levels)
        if self._leap:
            np.rint(levels, out=levels)
        self._error(x, weights, levels, best)
        best.error[flat] = -1
        return given, best

    def _trial(
        self, x: Floats, weights: Floats, given: _Given, base: Floats, t: Floats, scratch: Floats
    ) -> tuple[_Trial, Floats]:
        """Step t, its error NaN without a fit; the next step that may be better."""
        levels, spare = scratch
        error, scale, minimum, inverse = np.empty((4, len(base)), np.float32)
        trial = _Trial(error, scale, minimum, base.copy(), inverse)
        parts = self._first + self._step * t + self._nmax
        np.divide(parts, given.high - base, out=inverse)
        following = t + np.float32(1)
        in_range = self._divide(x, given.low, trial, levels)
        if self._leap and in_range:
            np.fmax(following, self._look_ahead(levels, spare, parts), out=following)
            levels = spare
        self._fit(x, weights, levels, given, trial)
        self._error(x, weights, levels, trial)
        return trial, following

    def _divide(self, x: Floats, low: Floats, trial: _Trial, levels: Floats) -> bool:
        """The levels, inverse * (x - base) rounded and clipped to 0..nmax; with `leap` only clipped.

        Returns False where C's rounding of large values was needed; then the levels are rounded in any case.
        """
        np.subtract(x, trial.base, out=levels)
        np.multiply(levels, trial.inverse, out=levels)
        farthest = low - trial.base
        farthest *= trial.inverse
        in_range = bool(np.minimum.reduce(farthest) >= -ROUNDABLE and np.maximum.reduce(farthest) <= ROUNDABLE)
        if not in_range:
            levels[...] = nearest_int(levels)
        elif not self._leap:
            np.rint(levels, out=levels)
        clip(levels, np.float32(0), self._nmax, out=levels)
        return in_range

    def _look_ahead(self, values: Floats, rounded: Floats, parts: Floats) -> Floats:
        """Round the values into `rounded`, and spoil them; the first step at which a level changes if the base stays.

        A value v rounded to r grows with the parts and leaves r at r + 1/2, when they are parts * (r + 1/2) / v.
        Rounding errors move that by less than a millionth, and a step too early does no harm.
        """
        np.rint(values, out=rounded)
        np.add(rounded, np.float32(0.5), out=rounded)
        np.divide(values, rounded, out=values)
        change: Floats = parts / np.maximum.reduce(values, axis=0)
        np.subtract(rounded, np.float32(0.5), out=rounded)
        change *= np.float32(1 - 1e-6)
        change -= self._first + self._nmax
        change /= self._step
        change -= np.float32(1e-3)
        np.ceil(change, out=change)
        return change

    def _fit(self, x: Floats, weights: Floats, levels: Floats, given: _Given, trial: _Trial) -> None:
        """Scale and minimum from the levels, into `trial`; NaN scale where there is no fit."""
        _, _, sum_w, sum_x, sum_l, sum_l2, sum_xl = given
        _, scale, minimum, _, _ = trial
        dot_down(weights, levels, out=sum_l)
        dot_down(weights, levels, levels, out=sum_l2)
        dot_down(weights, levels, x, out=sum_xl)
        D = sum_w * sum_l2
        D -= sum_l * sum_l
        np.multiply(sum_w, sum_xl, out=scale)
        scale -= sum_x * sum_l
        scale /= D
        np.multiply(sum_l2, sum_x, out=minimum)
        minimum -= sum_l * sum_xl
        minimum /= D
        if np.fmax.reduce(minimum) > 0:
            above = (minimum > 0).nonzero()[0]
            scale[above] = sum_xl[above] / sum_l2[above]
            minimum[above] = 0
        if not np.minimum.reduce(D) > 0:
            scale[~(D > 0)] = np.nan

    def _error(self, x: Floats, weights: Floats, levels: Floats, trial: _Trial) -> None:
        """Weighted sum of the squared (or absolute) scale * level + minimum - x, into `trial`; spoils the levels."""
        np.multiply(levels, trial.scale, out=levels)
        np.add(levels, trial.minimum, out=levels)
        np.subtract(levels, x, out=levels)
        if self._absolute:
            dot_down(weights, np.abs(levels, out=levels), out=trial.error)
        else:
            dot_down(levels, levels, weights, out=trial.error)
