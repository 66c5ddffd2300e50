"""The k-quants against libggml where their searches are most easily led astray."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels.k_quants import CODECS
from support import rows
from support.exact import assert_exact, importances


@st.composite
def patched_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of blocks whose structure, scale and sign are drawn: ties, few values, zeros of both signs, denormals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rows.make(draw(st.sampled_from(sorted(rows.KINDS))), 4, 512, int(rng.integers(1000)))
    values = draw(st.sampled_from((0, 2, 3, 5, 9)))
    if values:  # round to a few distinct magnitudes
        x = np.round(x / (np.abs(x).max() or 1) * values) * rng.choice([1, 0.1, 0.37])
    x = x * 10.0 ** rng.integers(-draw(st.integers(0, 12)), 3, (4, 32)).repeat(16, axis=1)
    x[rng.random(x.shape) < draw(st.sampled_from((0.0, 0.3)))] *= -1
    x[rng.random(x.shape) < draw(st.sampled_from((0.0, 0.3)))] = draw(st.sampled_from((0.0, -0.0, 0.5, 1e-38)))
    return np.ascontiguousarray(x, np.float32)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=100, deadline=None)
@given(x=patched_rows())
def test_few_values_and_scales_far_apart(name: str, x: np.ndarray) -> None:
    for imatrix in importances(name, x.shape[1]):
        assert_exact(x, name, imatrix)


@pytest.mark.parametrize("share", [0.02, 1.0])
@pytest.mark.parametrize("name", ["Q3_K", "Q6_K"])
def test_levels_at_both_ends(name: str, share: float) -> None:
    """Magnitudes within 5 % of each other, of both signs: levels leave the range at both ends, seldom or everywhere."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 0.02, (64, 2048 // 16, 16))
    even = rng.choice([-1, 1], x.shape) * rng.uniform(0.95, 1, x.shape)
    x = np.where(rng.random((64, 2048 // 16, 1)) < share, even, x).reshape(64, 2048)
    for imatrix in importances(name, 2048):
        assert_exact(np.ascontiguousarray(x, np.float32), name, imatrix)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K"])
def test_many_moves(name: str) -> None:
    """Enough sub-blocks of large magnitudes that some use up all five rounds of C's refinement, and stop there."""
    rng = np.random.default_rng(2)
    x = (rng.uniform(0.3, 1, (512, 2048)) * rng.choice([-1, 1], (512, 2048))).astype(np.float32)
    assert_exact(x, name, rows.imatrix(2048) if name != "Q3_K" else None)
