"""The k-quants against libggml: every byte, and every decoded float, equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, dequantize, quantize
from support import ggml, rows

SAMPLE = Path(__file__).parents[2] / "workbench" / "sample" / "sample-f16.gguf"
NAMES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
LENGTHS = ((5, 256), (3, 768), (4, 4096))
CASES = [(name, weights) for name in NAMES for weights in ("none", "positive", "zeros")]


def importance(kind: str, k: int, seed: int = 0) -> np.ndarray | None:
    return None if kind == "none" else rows.imatrix(k, seed, zeros=kind == "zeros")


def assert_exact(x: np.ndarray, name: str, imatrix: np.ndarray | None) -> None:
    """Our bytes are C's, and our decoding of them too."""
    ours, theirs = quantize(x, name, imatrix), ggml.quantize(x, name, imatrix)
    wrong = (ours != theirs).reshape(-1, TYPES[name].block_bytes)
    assert not wrong.any(), (
        f"{wrong.any(axis=1).sum()} of {len(wrong)} blocks differ in bytes {wrong.any(0).nonzero()[0]}"
    )
    assert_decoded(theirs, name, x.shape[1])


def assert_decoded(packed: np.ndarray, name: str, k: int) -> None:
    ours, theirs = dequantize(packed, name, k), ggml.dequantize(packed, name, k)
    number = ~np.isnan(theirs)
    assert (np.isnan(ours) == ~number).all()
    assert (ours.view(np.uint32)[number] == theirs.view(np.uint32)[number]).all()


@pytest.mark.parametrize("kind", rows.KINDS)
@pytest.mark.parametrize(("name", "weights"), CASES)
def test_every_kind_of_rows(name: str, weights: str, kind: str) -> None:
    for seed, (n, k) in enumerate(LENGTHS):
        assert_exact(rows.make(kind, n, k, seed), name, importance(weights, k, seed))


@pytest.mark.parametrize("blocks", [1, 2, 3, 257, 513, 2049])
@pytest.mark.parametrize(("name", "weights"), CASES)
def test_any_number_of_blocks(name: str, weights: str, blocks: int) -> None:
    for kind in ("gaussian", "sparse"):
        assert_exact(rows.make(kind, blocks, 256), name, importance(weights, 256))


@pytest.mark.parametrize(("name", "weights"), CASES)
def test_more_rows_than_a_batch(name: str, weights: str) -> None:
    assert_exact(rows.make("gaussian", 1100, 768), name, importance(weights, 768))


@pytest.mark.parametrize(("name", "weights"), CASES)
def test_trained_weights(name: str, weights: str) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = [t for t in gguf.GGUFReader(SAMPLE).tensors if len(t.shape) == 2 and t.shape[0] % 256 == 0]
    assert tensors
    for tensor in tensors[::5]:
        x = np.ascontiguousarray(tensor.data[:256], np.float32)
        assert_exact(x, name, importance(weights, x.shape[1]))


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_decode_as_in_c(name: str) -> None:
    rng = np.random.default_rng(3)
    packed = rng.integers(0, 256, (64, 2 * TYPES[name].block_bytes), np.uint8)
    assert_decoded(packed, name, 512)


@st.composite
def odd_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of blocks whose structure, scale and sign are drawn: ties, few values, zeros of both signs, denormals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rows.make(draw(st.sampled_from(sorted(rows.KINDS))), 4, 512, int(rng.integers(1000)))
    values = draw(st.sampled_from((0, 2, 3, 5, 9)))
    if values:  # round to a few distinct magnitudes
        x = np.round(x / (np.abs(x).max() or 1) * values) * rng.choice([1, 0.1, 0.37])
    x = x * 10.0 ** rng.integers(-draw(st.integers(0, 12)), 3, (4, 32)).repeat(16, axis=1)
    x[rng.random(x.shape) < draw(st.sampled_from((0.0, 0.3)))] *= -1
    x[rng.random(x.shape) < draw(st.sampled_from((0.0, 0.3)))] = draw(st.sampled_from((0.0, -0.0, 0.5, 1e-38)))
    return np.ascontiguousarray(x, np.float32)


@pytest.mark.parametrize(("name", "weights"), CASES)
@settings(max_examples=100, deadline=None)
@given(x=odd_rows(), seed=st.integers(0, 1000))
def test_drawn_rows(name: str, weights: str, x: np.ndarray, seed: int) -> None:
    assert_exact(x, name, importance(weights, x.shape[1], seed))
