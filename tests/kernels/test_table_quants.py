"""IQ4_NL and IQ4_XS: the borders between their uneven values."""

from __future__ import annotations

import numpy as np
import pytest

from support import rows
from support.exact import assert_exact

VALUES = np.float32([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


@pytest.mark.parametrize("name", ["IQ4_NL", "IQ4_XS"])
def test_weights_at_midpoints(name: str) -> None:
    """Weights at, just below and just above the midpoints between two values, for each of the search's scales."""
    rng = np.random.default_rng(3)
    midpoints = (VALUES[1:] + VALUES[:-1]) / 2
    for tried in range(-134, -119):
        x = rng.choice(midpoints, (40, 512)).astype(np.float32)
        x[:, ::32] = tried
        x *= np.float32(2.0) ** rng.integers(-20, 20, (40, 1)).astype(np.float32)
        x = (x.view(np.int32) + rng.integers(-1, 2, x.shape)).astype(np.int32).view(np.float32)
        assert_exact(x, name)
        assert_exact(x, name, rows.imatrix(512))
