"""TQ1_0 and TQ2_0 against libggml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, quantize
from support import rows
from support.exact import assert_exact, assert_reads_alike, drawn_rows, odd_rows, random_bytes, sample_tensors

NAMES = ("TQ1_0", "TQ2_0")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", rows.KINDS)
def test_every_kind_of_rows(name: str, kind: str) -> None:
    for n, k in ((1, 256), (1, 768), (7, 768), (5, 4096)):
        x = rows.make(kind, n, k, seed=k)
        assert_exact(x, name)
        assert_exact(x, name, rows.imatrix(k))


@pytest.mark.parametrize("name", NAMES)
def test_several_chunks(name: str) -> None:
    assert_exact(rows.make("gaussian", 129, 2304), name)


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights(name: str) -> None:
    for x in sample_tensors(256):
        assert_exact(x, name)


@pytest.mark.parametrize("name", NAMES)
def test_odd_blocks(name: str) -> None:
    for seed in range(60):
        assert_exact(odd_rows(np.random.default_rng(seed), 24, 1024), name)


@pytest.mark.parametrize("name", NAMES)
def test_halves_of_the_scale(name: str) -> None:
    """Weights at and around half the largest magnitude, in every binade."""
    rng = np.random.default_rng(4)
    largest = np.ldexp(rng.uniform(1, 2, (500, 1)), rng.integers(-148, 127, (500, 1))).astype(np.float32)
    half = (largest * np.float32(0.5)).repeat(256, axis=1)
    x = (half.view(np.int32) + rng.integers(-2, 3, half.shape)).astype(np.int32).view(np.float32)
    x = np.where(np.isfinite(x), x, 0) * rng.choice(np.float32([-1, 1]), x.shape)
    x[:, ::64] = largest
    assert_exact(np.ascontiguousarray(x, np.float32), name)


@pytest.mark.parametrize("name", NAMES)
def test_ternary_weights(name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(-1, 2, (50, 512)) * rng.uniform(0.01, 1, (50, 1))
    assert_exact(x.astype(np.float32), name)


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
