"""F32, F16 and BF16 against libggml: rounding, ties, overflow, denormal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.exact import assert_exact

NAMES = ("F32", "F16", "BF16")


@pytest.mark.parametrize("name", NAMES)
def test_any_bits(name: str) -> None:
    values = np.random.default_rng(1).integers(0, 2**32, 1_000_000, dtype=np.uint32).view(np.float32)
    assert_exact(values[np.isfinite(values)][None], name)


@pytest.mark.parametrize("name", NAMES)
def test_midpoints_and_their_neighbours(name: str) -> None:
    """Every midpoint between two numbers of the type, one float32 below and above it, and the numbers themselves."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    numbers = bits.astype(np.uint16).view(np.float16) if name == "F16" else (bits << 16).view(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)].astype(np.float64))
    middle = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    largest = np.float32(numbers[-1])
    ends = np.float32([largest, np.nextafter(largest, np.float32(np.inf)), 65519.996, 65520, 65536, 3.4e38, 2**-25])
    around = [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    x = np.concatenate([*around, numbers.astype(np.float32), ends, -ends])
    assert_exact(x[np.isfinite(x)][None], name)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(NAMES))
@settings(max_examples=200, deadline=None)
def test_drawn_floats(values: list[float], name: str) -> None:
    assert_exact(np.array([values], np.float32), name)
