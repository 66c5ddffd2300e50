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
