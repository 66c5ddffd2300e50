"""TQ1_0, TQ2_0, Q1_0 and Q2_0: what they are made for, and the borders of their few levels."""

from __future__ import annotations

import numpy as np
import pytest

from support.exact import assert_exact

few_levels = pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0", "Q1_0", "Q2_0"])


@few_levels
def test_halves_of_the_scale(name: str) -> None:
    """Weights at and around half the largest magnitude, in every binade."""
    rng = np.random.default_rng(4)
    largest = np.ldexp(rng.uniform(1, 2, (500, 1)), rng.integers(-148, 127, (500, 1))).astype(np.float32)
    half = (largest * np.float32(0.5)).repeat(256, axis=1)
    x = (half.view(np.int32) + rng.integers(-2, 3, half.shape)).astype(np.int32).view(np.float32)
    x = np.where(np.isfinite(x), x, 0) * rng.choice(np.float32([-1, 1]), x.shape)
    x[:, ::64] = largest
    assert_exact(np.ascontiguousarray(x, np.float32), name)


@few_levels
def test_ternary_weights(name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(-1, 2, (50, 512)) * rng.uniform(0.01, 1, (50, 1))
    assert_exact(x.astype(np.float32), name)
