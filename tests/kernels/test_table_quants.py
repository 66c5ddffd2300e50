"""IQ4_NL and IQ4_XS against libggml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, quantize
from support import rows
from support.exact import (
    assert_exact,
    assert_reads_alike,
    drawn_rows,
    importances,
    odd_rows,
    random_bytes,
    sample_tensors,
)

NAMES = ("IQ4_NL", "IQ4_XS")
VALUES = np.float32([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", rows.KINDS)
def test_every_kind_of_rows(name: str, kind: str) -> None:
    for n, k in ((1, 256), (1, 768), (7, 768), (5, 4096)):
        for imatrix in importances(k):
            assert_exact(rows.make(kind, n, k, seed=k), name, imatrix)


def test_rows_of_one_block() -> None:
    for kind in rows.KINDS:
        for imatrix in importances(32):
            assert_exact(rows.make(kind, 1, 32), "IQ4_NL", imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_several_chunks(name: str) -> None:
    x = rows.make("gaussian", 129, 2304)
    assert_exact(x, name)
    assert_exact(x, name, rows.imatrix(2304))


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights(name: str) -> None:
    for x in sample_tensors(TYPES[name].block_size):
        assert_exact(x[:256], name)
        assert_exact(x[:64], name, rows.imatrix(x.shape[1]))


@pytest.mark.parametrize("name", NAMES)
def test_odd_blocks(name: str) -> None:
    for seed in range(24):
        x = odd_rows(np.random.default_rng(seed), 24, 512)
        for imatrix in importances(512):
            assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_drawn_rows(name: str, data: st.DataObject) -> None:
    x, imatrix = data.draw(drawn_rows(TYPES[name].block_size))
    assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_reads_any_bytes(name: str) -> None:
    assert_reads_alike(random_bytes(name, 1280), name, 1280)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str) -> None:
    assert quantize(np.zeros((0, 256), np.float32), name).shape[0] == 0
