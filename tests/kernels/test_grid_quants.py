"""The grid types IQ1 to IQ3 against libggml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, KernelError, quantize
from quantdeck.kernels.grid_books import book
from quantdeck.kernels.grid_quants import CODECS
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

NAMES = tuple(CODECS)
SHAPES = ((1, 256), (3, 768), (3, 4096))

# Larger weights make the sums of the searches overflow, and libggml end the process.
LARGEST = 1e9


def usable(name: str, k: int) -> list[np.ndarray | None]:
    return importances(k)[1 if TYPES[name].needs_imatrix else 0 :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", rows.KINDS)
def test_every_kind_of_rows(name: str, kind: str) -> None:
    for n, k in SHAPES:
        for imatrix in usable(name, k):
            assert_exact(rows.make(kind, n, k, seed=k), name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_several_chunks(name: str) -> None:
    x = rows.make("gaussian", 2 * CODECS[name].chunk // 3 + 1, 768)
    for imatrix in usable(name, 768)[:2]:
        assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights(name: str) -> None:
    for x in sample_tensors(256)[::5]:
        for imatrix in usable(name, x.shape[1])[:2]:
            assert_exact(x[:128], name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_odd_blocks(name: str) -> None:
    for seed in range(24):
        x = np.clip(odd_rows(np.random.default_rng(seed), 12, 512), -LARGEST, LARGEST)
        for imatrix in usable(name, 512):
            assert_exact(x, name, imatrix)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_drawn_rows(name: str, data: st.DataObject) -> None:
    x, imatrix = data.draw(drawn_rows(256))
    if imatrix is None and TYPES[name].needs_imatrix:
        imatrix = rows.imatrix(x.shape[1])
    assert_exact(np.clip(x, -LARGEST, LARGEST), name, imatrix)


@pytest.mark.parametrize("name", NAMES)
def test_importances_and_weights_over_many_orders_of_magnitude(name: str) -> None:
    """Scales far from those of most weights in the block, and choices that hang on the last bits of a sum."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        levels = rng.integers(-16, 17, (6, 512)) * 10.0 ** rng.uniform(-6, 1, (6, 1))
        wide = rng.normal(size=(6, 512)) * 10.0 ** rng.uniform(-8, 8, (6, 512))
        for imatrix in (np.exp(rng.normal(0, 6, 512)), np.ones(512), np.round(rng.random(512) * 3)):
            assert_exact(levels.astype(np.float32), name, imatrix.astype(np.float32))
            assert_exact(wide.astype(np.float32), name, imatrix.astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_reads_any_bytes(name: str) -> None:
    assert_reads_alike(random_bytes(name, 768), name, 768)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str) -> None:
    assert quantize(np.zeros((0, 256), np.float32), name, rows.imatrix(256)).shape == (0, TYPES[name].block_bytes)


@pytest.mark.parametrize("name", ["IQ3_S", "IQ3_XXS"])
def test_values_whose_sums_overflow_are_refused(name: str) -> None:
    with pytest.raises(KernelError, match="too large"):
        quantize(rows.make("gaussian", 1, 256) * np.float32(1e20), name)


def test_gaps_of_empty_blocks_close_as_in_c() -> None:
    x = rows.make("gaussian", 256, 256)
    x.reshape(256, 8, 32)[np.random.default_rng(0).random((256, 8)) < 0.5] = 0
    assert_exact(x, "IQ3_S")


@pytest.mark.parametrize("name", ["IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S"])
def test_neighbours_are_the_nearest_shells_in_order(name: str) -> None:
    shells = {"IQ3_S": 3, "IQ3_XXS": 2, "IQ2_S": 1, "IQ2_XS": 2, "IQ2_XXS": 2, "IQ1_S": 3}[name]
    grid = book(name)
    for state in np.random.default_rng(0).choice(np.flatnonzero(grid.index < 0), 40, replace=False):
        levels = [int(state) // grid.levels**i % grid.levels for i in range(grid.group)]
        distance = [(int(((np.array(levels) - point) ** 2).sum()), j) for j, point in enumerate(grid.level.astype(int))]
        reach = sorted({d for d, _ in distance})[shells - 1]
        expected = [j for d, j in sorted(distance) if d <= reach]
        start = grid.full.start[state]
        assert grid.full.members[start : start + grid.full.length[state]].tolist() == expected
