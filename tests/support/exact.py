"""What every kernel test demands: our bytes are libggml's, and our reading of any bytes too."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from hypothesis import strategies as st

from quantdeck.kernels import TYPES, dequantize, quantize

from . import ggml, rows

SAMPLE = Path(__file__).parents[2] / "workbench" / "sample" / "sample-f16.gguf"


def assert_exact(x: np.ndarray, name: str, imatrix: np.ndarray | None = None) -> None:
    """Both libraries pack `x` into the same bytes, read them back alike, and ours leaves `x` as it was."""
    before = x.copy()
    ours, theirs = quantize(x, name, imatrix), ggml.quantize(x, name, imatrix)
    assert (x.view(np.uint32) == before.view(np.uint32)).all(), "the kernel wrote into its input"
    kind = TYPES[name]
    wrong = (ours != theirs).reshape(-1, kind.block_bytes)
    bad = np.flatnonzero(wrong.any(axis=1))
    if bad.size:
        block = x.reshape(-1, kind.block_size)[bad[0]]
        bytes_ = [packed.reshape(-1, kind.block_bytes)[bad[0]].tolist() for packed in (ours, theirs)]
        raise AssertionError(f"{bad.size} of {len(wrong)} {name} blocks differ; first {bad[0]}: {bytes_} {block!r}")
    assert_reads_alike(theirs, name, x.shape[1])


def assert_reads_alike(packed: np.ndarray, name: str, k: int) -> None:
    """Both libraries unpack `packed` into the same floats, bit by bit (of NaN only that it is NaN)."""
    ours = dequantize(packed, name, k)
    # ggml has no conversion for F32: its bytes are the floats.
    theirs = packed.view(np.float32) if name == "F32" else ggml.dequantize(packed, name, k)
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all(), f"{(~same).sum()} of {same.size} {name} weights differ"


def random_bytes(name: str, k: int, n: int = 64, seed: int = 0) -> np.ndarray:
    """Packed rows that no quantizer wrote: (n, row_bytes)."""
    return np.random.default_rng(seed).integers(0, 256, (n, TYPES[name].row_bytes(k)), np.uint8)


def unit(name: str) -> int:
    """Weights of a block, or of the smallest row that has the structure of `rows`."""
    return max(TYPES[name].block_size, 16)


def largest(name: str) -> float:
    """Magnitude up to which libggml can quantize: the sums of the grid types overflow, and it ends the process."""
    return 1e9 if TYPES[name].family == "grid_quants" else 3e38


def importances(name: str, k: int) -> list[np.ndarray | None]:
    """No importance matrix (where the type can do without), a usual one, one with zeros, one of zeros alone."""
    matrices = [rows.imatrix(k), rows.imatrix(k, 1, zeros=True), np.zeros(k, np.float32)]
    return matrices if TYPES[name].needs_imatrix else [None, *matrices]


def sample_tensors(multiple: int) -> list[np.ndarray]:
    """Trained weights: the sample model's matrices whose rows are a whole number of blocks of `multiple`."""
    tensors = gguf.GGUFReader(SAMPLE).tensors
    matrices = [t.data for t in tensors if len(t.shape) == 2 and t.shape[0] % multiple == 0]
    assert matrices
    return [np.ascontiguousarray(matrix, np.float32) for matrix in matrices]


def odd_rows(rng: np.random.Generator, name: str, n: int, k: int) -> np.ndarray:
    """float32 (n, k) of blocks of 16 with odd structure: few values, ties, zeros of both signs, far-apart scales.

    Magnitudes go up to the largest that the type can take.
    """
    x = rng.normal(0, 1, (n, k // 16, 16))
    shape = (n, k // 16, 1)
    kinds = rng.integers(0, 9, shape)
    steps = rng.integers(1, 17, shape)
    variants = [
        x,
        np.round(x * steps) / steps,
        np.round(x * steps) / (2 * steps) + 0.25,
        np.sign(x),
        np.abs(x),
        -np.abs(x),
        np.where(np.abs(x) < 1, np.copysign(0.0, x), x),
        rng.integers(-127, 128, x.shape) / rng.choice([8, 127, 254, 15, 31], shape),
        np.broadcast_to(x[:, :, :1], x.shape),
    ]
    x = np.choose(kinds, variants)
    spread = rng.choice([0, 0, 0, 1, 3], (n, 1, 1))
    x = x * 10.0 ** (spread * rng.normal(0, 2, shape)) * 10.0 ** rng.choice([0, -2, -10, -19, -36, -39, -43, 4, 15, 30])
    x = x.reshape(n, k)
    flip = rng.random((n, k)) < rng.choice([0, 0.5], (n, 1))
    return np.ascontiguousarray(np.clip(np.where(flip, -x, x), -largest(name), largest(name)), np.float32)


@st.composite
def drawn_rows(draw: st.DrawFn, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of a drawn kind, shape, scale and sign, with or without an importance matrix."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 9)), unit(name) * draw(st.integers(1, 9))
    kind = draw(st.sampled_from([*sorted(rows.KINDS), "odd", "odd"]))
    x = odd_rows(rng, name, n, k) if kind == "odd" else rows.make(kind, n, k, int(rng.integers(1 << 30)))
    scale = np.float32(draw(st.sampled_from([1, -1, 0.5, 3, 1e-4, 1e-12])))
    most = np.float32(largest(name) / 3)
    return np.clip(x, -most, most) * scale, draw(st.sampled_from(importances(name, k)))
