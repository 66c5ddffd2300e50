"""What the kernels stand on: sums in C's order, chunks that bound memory, and the way round einsum."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from quantdeck.kernels import TYPES, _blocks, quantize
from support import rows
from support.exact import assert_exact

FAMILIES = ("floats", "legacy", "table_quants", "ternary", "float4", "few_bits")
NAMES = [name for name, kind in TYPES.items() if kind.family in FAMILIES]


def one_after_the_other(*factors: np.ndarray) -> np.ndarray:
    total = np.zeros(factors[0].shape[1], np.float32)
    for row in zip(*factors, strict=True):
        product = row[0]
        for factor in row[1:]:
            product = product * factor
        total = total + product
    return total


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 16, 4064])
@pytest.mark.parametrize("einsum", [True, False])
def test_sums_are_in_order(columns: int, einsum: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "EINSUM_IS_SEQUENTIAL", einsum and _blocks.EINSUM_IS_SEQUENTIAL)
    a, b, c = np.random.default_rng(columns).normal(0, 1, (3, 256, columns)).astype(np.float32)
    assert (_blocks.add_down(a) == one_after_the_other(a)).all()
    assert (_blocks.dot_down(a, b) == one_after_the_other(a, b)).all()
    assert (_blocks.dot_down(a, b, c) == one_after_the_other(a, b, c)).all()


def test_sums_are_never_minus_zero() -> None:
    minus = np.full((32, 3), -0.0, np.float32)
    for total in (_blocks.add_down(minus), _blocks.dot_down(minus, np.ones_like(minus))):
        assert not np.signbit(total).any()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "IQ4_XS"])
def test_without_einsum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "EINSUM_IS_SEQUENTIAL", False)
    for k in (256, 1024):
        assert_exact(rows.make("gaussian", 3, k), name, rows.imatrix(k))


@pytest.mark.parametrize("k", [256, 1 << 16])
@pytest.mark.parametrize("name", NAMES)
def test_scratch_does_not_grow_with_the_rows(name: str, k: int) -> None:
    x = np.tile(rows.make("gaussian", 1, 1 << 16), (32, 1)).reshape(-1, k)
    tracemalloc.start()
    packed = quantize(x, name, rows.imatrix(k))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - packed.nbytes < 8 << 20


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 9), (512, 508), (4096, 4064), (4065, 4064), (99999, 508)])
def test_slices_cover_everything_once(count: int, most: int) -> None:
    parts = list(_blocks.slices(count, most))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= most for part in parts)
    assert len(parts) <= -(-count // most) + 1


def test_rounding_beyond_the_roundable() -> None:
    values = np.array([0.5, 1.5, -2.5, 4194303, np.inf, -np.inf, np.nan], np.float32)
    assert _blocks.nearest_int(values).tolist() == [0, 2, -2, 4194303, -4194304, -4194304, 0]
