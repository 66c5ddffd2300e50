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
    """What stays fixed of each column (all float32 (n,))."""

    low: Floats
    high: Floats
    sum_w: Floats
    sum_x: Floats


class _Best(NamedTuple):
    """The best step of each column so far; `base` is the minimum that it divided from (all float32 (n,))."""

    error: Floats
    scale: Floats
    minimum: Floats
    inverse: Floats
    base: Floats


class _Trial(NamedTuple):
    """What a step makes of each column, and what its fit takes (all float32 (n,))."""

    error: Floats
    scale: Floats
    minimum: Floats
    inverse: Floats
    sum_l: Floats
    sum_l2: Floats
    sum_xl: Floats
    D: Floats
    term: Floats


class _Columns:
    """Columns x (s, n) on their way through the steps, with weights (s, n) and room for levels (s, n)."""

    def __init__(self, x: Floats, weights: Floats, given: Floats, best: Floats, levels: Floats) -> None:
        self.x, self.weights, self.levels = x, weights, levels
        self.given, self.best = _Given(*given), _Best(*best)
        self.trial = _Trial(*aligned((len(_Trial._fields), x.shape[1])))

    @classmethod
    def begin(cls, x: Floats, weights: Floats) -> _Columns:
        """Columns of which nothing is known yet."""
        n = x.shape[1]
        given, best = aligned((len(_Given._fields), n)), aligned((len(_Best._fields), n))
        return cls(x, weights, given, best, aligned(x.shape))

    def only(self, which: Indices) -> _Columns:
        """Some of the columns; their levels take the place of these."""
        x, weights = self.x.take(which, axis=1), self.weights.take(which, axis=1)
        given, best = (np.stack([row[which] for row in rows]) for rows in (self.given, self.best))
        return _Columns(x, weights, given, best, self.levels.reshape(-1)[: x.size].reshape(x.shape))

    def keep(self, which: Indices) -> None:
        """The trial is the best so far of the columns `which`."""
        error, scale, minimum, inverse, base = self.best
        base[which] = minimum[which]
        error[which] = self.trial.error[which]
        scale[which] = self.trial.scale[which]
        minimum[which] = self.trial.minimum[which]
        inverse[which] = self.trial.inverse[which]


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
        columns = _Columns.begin(x, weights)
        flat = self._plain_range(columns)
        if self._leap:
            self._leap_through(columns)
        else:
            for t in np.arange(self._last + 1, dtype=np.float32):
                self._divide(columns, self._parts(t))
                self._fit(columns)
                self._error(columns, columns.trial)
                columns.keep((columns.trial.error < columns.best.error).nonzero()[0])
        _, scale, minimum, inverse, base = columns.best
        scale[flat] = 0
        return Affine(scale, -minimum, base, inverse)

    def _parts(self, t: Floats) -> Floats:
        """How many parts step t (or the step of each column) makes of the range."""
        parts: Floats = self._first + self._step * t + self._nmax
        return parts

    def _plain_range(self, columns: _Columns) -> Indices:
        """The first trial: from the least value (or 0) to the largest, without a fit. The columns that are flat."""
        x, weights, best = columns.x, columns.weights, columns.best
        low, high, sum_w, sum_x = columns.given
        low[...] = first_smallest(x)
        np.maximum.reduce(x, axis=0, out=high)
        best.minimum[...] = np.where(low > 0, np.float32(0), low)
        # A flat column is 0 above its base, in any range; it must not divide by zero, and nothing improves it.
        flat = np.flatnonzero(high <= best.minimum)
        high[flat] = 1
        add_down(weights, out=sum_w)
        dot_down(weights, x, out=sum_x)
        if self._divide(columns, self._nmax) and self._leap:
            np.rint(columns.levels, out=columns.levels)
        best.base[...] = best.minimum
        best.inverse[...] = columns.trial.inverse
        np.divide(np.float32(1), best.inverse, out=best.scale)
        self._error(columns, best)
        best.error[flat] = -1
        return flat

    def _leap_through(self, whole: _Columns) -> None:
        """All steps, each column at its own pace."""
        columns, places = whole, np.arange(whole.x.shape[1])
        spare = aligned(whole.x.shape)
        t = np.zeros(len(places), np.float32)  # the next step of each column
        while True:
            parts = self._parts(t)
            following = t + np.float32(1)
            if self._divide(columns, parts):
                np.fmax(following, self._look_ahead(columns.levels, spare, parts), out=following)
                columns.levels, spare = spare, columns.levels
            self._fit(columns)
            self._error(columns, columns.trial)
            better = columns.trial.error < columns.best.error
            better &= t <= self._last
            at = better.nonzero()[0]
            columns.keep(at)
            following[at] = t[at] + 1
            t = following
            going = t <= self._last
            left = np.count_nonzero(going)
            if 2 * left > len(t) or 0 < left < _FEW:
                continue
            if columns is not whole:
                for row, part in zip(whole.best, columns.best, strict=True):
                    row[places] = part
            if not left:
                return
            stay = going.nonzero()[0]
            columns, places, t = columns.only(stay), places[stay], t[stay]
            spare = spare.reshape(-1)[: columns.x.size].reshape(columns.x.shape)

    def _divide(self, columns: _Columns, parts: Floats) -> bool:
        """The levels from the best minimum so far: inverse * (x - base) rounded and clipped; with `leap` only clipped.

        Returns False where C's rounding of large values was needed; then the levels are rounded in any case.
        """
        low, high, *_ = columns.given
        base, levels = columns.best.minimum, columns.levels
        inverse, term = columns.trial.inverse, columns.trial.term
        np.subtract(high, base, out=inverse)
        np.divide(parts, inverse, out=inverse)
        np.subtract(columns.x, base, out=levels)
        np.multiply(levels, inverse, out=levels)
        np.subtract(low, base, out=term)
        np.multiply(term, inverse, out=term)
        in_range = bool(np.minimum.reduce(term) >= -ROUNDABLE and np.maximum.reduce(term) <= ROUNDABLE)
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

    def _fit(self, columns: _Columns) -> None:
        """Scale and minimum of the trial from its levels; NaN scale where there is no fit."""
        x, weights, levels = columns.x, columns.weights, columns.levels
        _, _, sum_w, sum_x = columns.given
        _, scale, minimum, _, sum_l, sum_l2, sum_xl, D, term = columns.trial
        dot_down(weights, levels, out=sum_l)
        dot_down(weights, levels, levels, out=sum_l2)
        dot_down(weights, levels, x, out=sum_xl)
        np.multiply(sum_w, sum_l2, out=D)
        np.subtract(D, np.multiply(sum_l, sum_l, out=term), out=D)
        np.multiply(sum_w, sum_xl, out=scale)
        np.subtract(scale, np.multiply(sum_x, sum_l, out=term), out=scale)
        np.divide(scale, D, out=scale)
        np.multiply(sum_l2, sum_x, out=minimum)
        np.subtract(minimum, np.multiply(sum_l, sum_xl, out=term), out=minimum)
        np.divide(minimum, D, out=minimum)
        if np.fmax.reduce(minimum) > 0:
            above = (minimum > 0).nonzero()[0]
            scale[above] = sum_xl[above] / sum_l2[above]
            minimum[above] = 0
        if not np.minimum.reduce(D) > 0:
            scale[~(D > 0)] = np.nan

    def _error(self, columns: _Columns, fit: _Best | _Trial) -> None:
        """Weighted sum of the squared (or absolute) scale * level + minimum - x, into `fit`; spoils the levels."""
        levels = columns.levels
        np.multiply(levels, fit.scale, out=levels)
        np.add(levels, fit.minimum, out=levels)
        np.subtract(levels, columns.x, out=levels)
        if self._absolute:
            dot_down(columns.weights, np.abs(levels, out=levels), out=fit.error)
        else:
            dot_down(levels, levels, columns.weights, out=fit.error)
