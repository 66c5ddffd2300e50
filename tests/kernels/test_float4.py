"""MXFP4 and NVFP4: the borders between their scales and between their values."""

from __future__ import annotations

import numpy as np
import pytest

from support.exact import assert_exact


def leading(values: np.ndarray, k: int, rest: float = 0.0) -> np.ndarray:
    """One row of `k` weights for each value: the value first, then `rest` times it."""
    x = np.repeat((values * np.float32(rest))[:, None], k, axis=1)
    x[:, 0] = values
    return np.ascontiguousarray(x, np.float32)


def test_scales_at_powers_of_two() -> None:
    """log2f rounds some numbers just below a power of two up to the whole number: every neighbour, every exponent."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    near = powers.view(np.int32)[:, None] + np.arange(-100, 101)
    values = near[(near > 0) & (near < 0x7F800000)].astype(np.int32).view(np.float32)
    assert_exact(leading(values, 32, 0.3), "MXFP4")


def test_scales_of_every_size() -> None:
    """NVFP4's scale through denormal, normal and saturated, at and around its rounding midpoints."""
    bits = np.arange(0x39000000, 0x46000000, 0x2000, dtype=np.int64)
    values = (bits[:, None] + np.arange(-2, 3)).astype(np.int32).reshape(-1).view(np.float32)
    x = leading(np.concatenate([values, values * np.float32(6), -values]), 64, 0.4)
    assert_exact(x, "NVFP4")


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_weights_at_midpoints(name: str) -> None:
    rng = np.random.default_rng(5)
    midpoints = np.float32([0.5, 1.5, 2.5, 3.5, 5, 7, 10])
    x = rng.choice(midpoints, (500, 64)) * rng.choice([-1, 1], (500, 64))
    x[:, ::16] = 12
    x = (x * np.ldexp(1.0, rng.integers(-120, 120, (500, 1)))).astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-1, 2, x.shape)).astype(np.int32).view(np.float32)
    assert_exact(x, name)
    assert_exact((x.astype(np.float64) * rng.uniform(1e-3, 1, (500, 1))).astype(np.float32), name)


def test_weights_beyond_the_largest_scale() -> None:
    """NVFP4's scale ends at 448: far beyond it C finds several values equally near and takes the first."""
    rng = np.random.default_rng(6)
    x = rng.choice([-1, 1], (400, 64)) * 10.0 ** rng.uniform(3, 37, (400, 64))
    assert_exact(x.astype(np.float32), "NVFP4")
    x = rng.choice([-1, 1], (4000, 64)) * 2.0 ** rng.uniform(20, 40, (4000, 1))
    assert_exact(x.astype(np.float32), "NVFP4")
