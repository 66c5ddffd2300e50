"""Rows of every kind that a quantizer meets, named, from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _gaussian(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.normal(0, 0.02, (n, k))


def _heavy_tailed(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.clip(rng.standard_t(2, (n, k)) * 0.01, -60000, 60000)


def _sparse(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.where(rng.random((n, k)) < 0.9, 0.0, rng.normal(0, 0.05, (n, k)))


def _constant(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.broadcast_to(rng.normal(0, 1, (n, 1)), (n, k))


def _zero(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.zeros((n, k))


def _denormal(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.normal(0, 1e-39, (n, k))


def _tiny(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.normal(0, 1e-20, (n, k))


def _huge(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.uniform(-65504, 65504, (n, k))


def _one_outlier(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    rows = rng.normal(0, 0.01, (n, k))
    rows[np.arange(n), rng.integers(0, k, n)] = 20.0
    return rows


def _alternating(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.where(np.arange(k) % 2, 1.0, -1.0) * rng.uniform(0.01, 1, (n, 1))


def _bf16_grid(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Few distinct magnitudes, so that the largest one appears with both signs: what BF16 checkpoints look like."""
    return (rng.normal(0, 0.02, (n, k)).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def _mixed_blocks(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Zero, constant, positive-only and ordinary blocks of 16 beside one another."""
    rows = rng.normal(0, 0.02, (n, k)).reshape(n, -1, 16)
    kind = rng.integers(0, 5, rows.shape[:2])
    rows[kind == 0] = 0.0
    rows[kind == 1] = 0.5
    rows[kind == 2] = np.abs(rows[kind == 2])
    rows[kind == 3] = -0.0
    return rows.reshape(n, k)


KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    function.__name__[1:]: function
    for function in (
        _gaussian,
        _heavy_tailed,
        _sparse,
        _constant,
        _zero,
        _denormal,
        _tiny,
        _huge,
        _one_outlier,
        _alternating,
        _bf16_grid,
        _mixed_blocks,
    )
}


def make(kind: str, n: int, k: int, seed: int = 0) -> np.ndarray:
    """float32 (n, k) rows of the named kind."""
    rows = KINDS[kind](np.random.default_rng(seed), n, k)
    return np.ascontiguousarray(rows, np.float32)


def imatrix(k: int, seed: int = 0, zeros: bool = False) -> np.ndarray:
    """float32 (k,) importances as calibration gives them: positive, over several orders of magnitude."""
    rng = np.random.default_rng(seed + 1000)
    values = np.exp(rng.normal(0, 2, k)).astype(np.float32)
    if zeros:
        values[rng.random(k) < 0.2] = 0.0
    return values
