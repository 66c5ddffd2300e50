"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 against libggml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import quantize
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

NAMES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SHAPES = ((1, 32), (1, 96), (7, 96), (5, 4096))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", rows.KINDS)
def test_every_kind_of_rows(name: str, kind: str) -> None:
    for n, k in SHAPES:
        for imatrix in importances(k):
            assert_exact(rows.make(kind, n, k, seed=k), name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_several_chunks(name: str) -> None:
    x = rows.make("gaussian", 129, 2080)
    assert_exact(x, name)
    assert_exact(x, name, rows.imatrix(2080))


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights(name: str) -> None:
    for x in sample_tensors(32):
        assert_exact(x, name)
        assert_exact(x[:64], name, rows.imatrix(x.shape[1]))


@pytest.mark.parametrize("name", NAMES)
def test_odd_blocks(name: str) -> None:
    for seed in range(24):
        x = odd_rows(np.random.default_rng(seed), 24, 512)
        for imatrix in importances(512):
            assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_drawn_rows(name: str, data: st.DataObject) -> None:
    x, imatrix = data.draw(drawn_rows(32))
    assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_reads_any_bytes(name: str) -> None:
    assert_reads_alike(random_bytes(name, 320), name, 320)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str) -> None:
    assert quantize(np.zeros((0, 64), np.float32), name).shape[0] == 0
