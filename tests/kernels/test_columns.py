"""What the kernels stand on: sums in C's order, batches that cover everything, and the way round einsum."""

from __future__ import annotations

import numpy as np
import pytest

from quantdeck.kernels import columns
from quantdeck.kernels.blocks import Importances, slices
from support import rows
from support.exact import assert_exact


def one_after_the_other(*factors: np.ndarray) -> np.ndarray:
    total = np.zeros(factors[0].shape[1], np.float32)
    for row in zip(*factors, strict=True):
        product = row[0]
        for factor in row[1:]:
            product = product * factor
        total = total + product
    return total


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 4064])
@pytest.mark.parametrize("einsum", [True, False])
def test_sums_are_in_order(n: int, einsum: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "EINSUM_IS_SEQUENTIAL", einsum and columns.EINSUM_IS_SEQUENTIAL)
    a, b, c = np.random.default_rng(n).normal(0, 1, (3, 256, n)).astype(np.float32)
    out = np.empty(n, np.float32)
    for given in (None, out):
        assert (columns.add_down(a, given) == one_after_the_other(a)).all()
        assert (columns.dot_down(a, b, out=given) == one_after_the_other(a, b)).all()
        assert (columns.dot_down(a, b, c, out=given) == one_after_the_other(a, b, c)).all()
    assert (out == one_after_the_other(a, b, c)).all()


def test_sums_are_never_minus_zero() -> None:
    minus = np.full((32, 3), -0.0, np.float32)
    for total in (columns.add_down(minus), columns.dot_down(minus, np.ones_like(minus))):
        assert not np.signbit(total).any()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "IQ4_XS", "Q2_K", "Q4_K", "Q6_K", "IQ2_XXS"])
def test_without_einsum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "EINSUM_IS_SEQUENTIAL", False)
    for k in (256, 1024):
        assert_exact(rows.make("gaussian", 3, k), name, rows.imatrix(k))


@pytest.mark.parametrize("blocks", [1, 5])
def test_sums_of_blocks_run_over_their_sub_blocks_in_order(blocks: int) -> None:
    x = rows.make("gaussian", blocks, 256)
    sums = columns.block_sums(columns.to_columns(x, 16), blocks)
    assert (sums == one_after_the_other(x.T)).all()


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 9), (512, 508), (4096, 4064), (4065, 4064), (99999, 508)])
def test_slices_cover_everything_once(count: int, most: int) -> None:
    parts = list(slices(count, most))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= most for part in parts)
    assert len(parts) <= -(-count // most) + 1


def test_importances_stand_beside_their_weights() -> None:
    imatrix = rows.imatrix(3 * 64)
    beside = Importances(imatrix, 64, 16, most=7).beside(slice(4, 11))
    across = np.tile(imatrix.reshape(3, 64), (4, 1))[4:11]
    assert (beside.reshape(16, -1) == columns.to_columns(across, 16)).all()


def test_rounding_beyond_the_roundable() -> None:
    values = np.array([0.5, 1.5, -2.5, 4194303, np.inf, -np.inf, np.nan], np.float32)
    expected = [0, 2, -2, 4194303, -4194304, -4194304, 0]
    assert columns.nearest_int(values).tolist() == expected
    columns.round_in_place(values)
    assert values.tolist() == expected


def test_the_first_of_the_largest_keeps_its_sign() -> None:
    x = np.float32([[1, -3, -0.0, np.nan, np.nan], [-2, 3, 0.0, np.nan, -1], [2, 1, -0.0, np.nan, 1]])
    assert columns.first_largest(x).tolist() == [-2, -3, 0, 0, -1]
    assert not np.signbit(columns.first_largest(x)[2:4]).any()
