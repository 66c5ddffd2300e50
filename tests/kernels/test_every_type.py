"""What holds for every type: our bytes are libggml's, our reading of any bytes too, and scratch stays bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, quantize
from quantdeck.kernels.floats import CHUNK
from quantdeck.kernels.registry import codec
from support import rows
from support.exact import (
    assert_exact,
    assert_reads_alike,
    drawn_rows,
    importances,
    odd_rows,
    random_bytes,
    sample_tensors,
    unit,
)

every_type = pytest.mark.parametrize("name", TYPES)

SCRATCH = {"k_quants": 17, "grid_quants": 24}
"""MB that a family may take beside its result; others 8."""


def at_once(name: str) -> int:
    """How many weights the type's kernel quantizes together."""
    return getattr(codec(name), "batch", CHUNK)


@every_type
@pytest.mark.parametrize("kind", rows.KINDS)
def test_every_kind_of_rows(name: str, kind: str) -> None:
    for seed, (n, k) in enumerate(((1, unit(name)), (5, 3 * unit(name)), (3, 4096))):
        for imatrix in importances(name, k):
            assert_exact(rows.make(kind, n, k, seed), name, imatrix)


@every_type
def test_one_block_more_than_a_batch(name: str) -> None:
    block = unit(name)
    for imatrix in importances(name, block)[:2]:
        assert_exact(rows.make("gaussian", at_once(name) // block + 1, block), name, imatrix)
    k = at_once(name) // block * block + block
    for imatrix in importances(name, k)[:2]:
        assert_exact(rows.make("gaussian", 1, k), name, imatrix)


@pytest.mark.parametrize("name", [name for name in TYPES if TYPES[name].quantized])
@pytest.mark.parametrize("blocks", [1, 2, 17])
def test_batches_of_one_block(name: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy adds up a single column pairwise, like a row, where C adds one weight after the other."""
    block = TYPES[name].block_size
    monkeypatch.setattr(type(codec(name)), "batch", min(blocks, 16) * block)
    for kind in ("gaussian", "heavy_tailed", "sparse"):
        for imatrix in importances(name, block):
            assert_exact(rows.make(kind, blocks, block), name, imatrix)
        for imatrix in importances(name, blocks * block):
            assert_exact(rows.make(kind, 1, blocks * block), name, imatrix)


@every_type
def test_rows_of_three_lengths_in_several_batches(name: str) -> None:
    k = 9 * unit(name)
    for imatrix in importances(name, k)[:2]:
        assert_exact(rows.make("gaussian", at_once(name) // k + 3, k), name, imatrix)


@every_type
def test_trained_weights(name: str) -> None:
    for x in sample_tensors(TYPES[name].block_size)[::5]:
        for imatrix in importances(name, x.shape[1])[:2]:
            assert_exact(x[:128], name, imatrix)


@every_type
def test_odd_blocks(name: str) -> None:
    for seed in range(24):
        x = odd_rows(np.random.default_rng(seed), name, 12, 512)
        for imatrix in importances(name, 512):
            assert_exact(x, name, imatrix)


@every_type
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_drawn_rows(name: str, data: st.DataObject) -> None:
    x, imatrix = data.draw(drawn_rows(name))
    assert_exact(x, name, imatrix)


@every_type
def test_any_bytes_read_as_in_c(name: str) -> None:
    assert_reads_alike(random_bytes(name, 2304), name, 2304)


@every_type
def test_no_rows(name: str) -> None:
    k = 3 * unit(name)
    for imatrix in importances(name, k):
        packed = quantize(np.zeros((0, k), np.float32), name, imatrix)
        assert (packed.shape, packed.dtype) == ((0, TYPES[name].row_bytes(k)), np.uint8)
    assert_reads_alike(packed, name, k)


@every_type
@pytest.mark.parametrize("k", [256, 1 << 16])
def test_scratch_is_bounded(name: str, k: int) -> None:
    n = 3 * at_once(name) // k
    x, imatrix = np.tile(rows.make("gaussian", 1, k), (n, 1)), rows.imatrix(k)
    quantize(x[:1], name, imatrix)  # tables that are made once
    tracemalloc.start()
    packed = quantize(x, name, imatrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - packed.nbytes < SCRATCH.get(TYPES[name].family, 8) << 20
