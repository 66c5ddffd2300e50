"""The grid types IQ1 to IQ3: where their searches come close to a tie, and the code books behind them."""

from __future__ import annotations

import numpy as np
import pytest

from quantdeck.kernels import KernelError, grid_search, quantize
from quantdeck.kernels.grid_books import book
from quantdeck.kernels.grid_quants import CODECS
from support import rows
from support.exact import assert_exact


@pytest.mark.parametrize("name", CODECS)
def test_importances_and_weights_over_many_orders_of_magnitude(name: str) -> None:
    """Scales far from those of most weights in the block, and choices that hang on the last bits of a sum."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        levels = rng.integers(-16, 17, (6, 512)) * 10.0 ** rng.uniform(-6, 1, (6, 1))
        wide = rng.normal(size=(6, 512)) * 10.0 ** rng.uniform(-8, 8, (6, 512))
        for imatrix in (np.exp(rng.normal(0, 6, 512)), np.ones(512), np.round(rng.random(512) * 3)):
            assert_exact(levels.astype(np.float32), name, imatrix.astype(np.float32))
            assert_exact(wide.astype(np.float32), name, imatrix.astype(np.float32))


@pytest.mark.parametrize("name", ["IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"])
def test_steps_summed_up_one_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy adds up a single column pairwise, like a row, where C adds one weight after the other."""
    monkeypatch.setattr(grid_search, "_PAIRS", 1)
    monkeypatch.setattr(grid_search, "_CHANGES", 1)
    for kind in ("gaussian", "heavy_tailed", "sparse"):
        assert_exact(rows.make(kind, 2, 1024), name, rows.imatrix(1024))


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
