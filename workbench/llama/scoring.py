"""Arithmetic of perplexity and KL divergence, token by token, with llama.cpp's own rounding. Arrays in, arrays out.

Reference probabilities are packed as llama-perplexity packs them (`--save-all-logits`), so that figures compare with
published ones: per token a row of uint16, whose first four hold two float32 (scale, lowest log-probability), then one
number a word, so that log p = scale * number + lowest. Words more than 16 nats below the likeliest are cut off there.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint16]

T = TypeVar("T")

_CUT = np.float32(16)
_NUMBERS_AT_ONCE = 1 << 18  # in one temporary array

FIELDS = ("nll", "nll_reference", "kl", "p_difference", "same_top")


@dataclass(frozen=True)
class Scores:
    """One number per scored token each, float64 (n,): -log p of the token, by the model and by the reference;
    KL divergence from the reference; difference of the token's probability; 1 where both hold the same word likeliest.
    """

    nll: npt.NDArray[np.float64]
    nll_reference: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    p_difference: npt.NDArray[np.float64]
    same_top: npt.NDArray[np.float64]

    def table(self) -> npt.NDArray[np.float64]:
        """All of them, float64 (len(FIELDS), n)."""
        return np.stack([getattr(self, name) for name in FIELDS])


def packed_width(n_vocab: int) -> int:
    """uint16 numbers in a packed row: the vocabulary rounded up to even, and the two floats."""
    return 2 * ((n_vocab + 1) // 2) + 4


def score(logits: Floats, tokens: npt.NDArray[np.int64], reference: Packed | None, threads: int = 1) -> Scores:
    """Scores of `logits` float32 (n, n_vocab), each row against the token (n,) that really came next.

    Without a reference (n, packed_width) everything but `nll` is zero.
    """

    def part(rows: slice) -> npt.NDArray[np.float64]:
        return _score(logits[rows], tokens[rows], None if reference is None else reference[rows])

    return Scores(*np.concatenate(_in_pieces(part, logits, threads), axis=1))


def pack(logits: Floats, threads: int = 1) -> Packed:
    """Packed log-probabilities uint16 (n, packed_width) of `logits` float32 (n, n_vocab)."""
    packed = np.zeros((len(logits), packed_width(logits.shape[1])), np.uint16)
    _in_pieces(lambda rows: _pack(logits[rows], packed[rows]), logits, threads)
    return packed


def _in_pieces(work: Callable[[slice], T], logits: Floats, threads: int) -> list[T]:
    """Do `work` on rows in pieces that fit a cache; numpy lets go of the interpreter's lock, so that threads help."""
    step = max(1, _NUMBERS_AT_ONCE // logits.shape[1])
    pieces = [slice(first, first + step) for first in range(0, len(logits), step)]
    if threads <= 1 or len(pieces) <= 1:
        return [work(piece) for piece in pieces]
    return list(_pool(threads).map(work, pieces))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _log_sum(logits: Floats, highest: Floats) -> Floats:
    """log of the sum of exp(logits - highest) over words, float32 (n, 1)."""
    sums: npt.NDArray[np.float64] = np.exp(logits - highest).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log(sums).astype(np.float32)


def _pack(logits: Floats, packed: Packed) -> None:
    highest = logits.max(axis=1, keepdims=True)
    lowest = np.maximum(logits.min(axis=1, keepdims=True), highest - _CUT)
    scale = (highest - lowest) / np.float32(65535)
    floats = np.concatenate([scale, lowest - highest - _log_sum(logits, highest)], axis=1)
    packed[:, :4] = np.ascontiguousarray(floats).view(np.uint16)
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = np.rint(np.float32(1) / scale * (np.maximum(logits, lowest) - lowest))
    packed[:, 4 : 4 + logits.shape[1]] = np.where(scale > 0, numbers, 0)


def _score(logits: Floats, tokens: npt.NDArray[np.int64], reference: Packed | None) -> npt.NDArray[np.float64]:
    n, n_vocab = logits.shape
    everyone = np.arange(n)
    highest = logits.max(axis=1, keepdims=True)
    total = highest + _log_sum(logits, highest)
    nll = total[:, 0] - logits[everyone, tokens]
    table = np.zeros((len(FIELDS), n), np.float64)
    table[0] = nll
    if reference is None:
        return table
    floats: Any = np.ascontiguousarray(reference[:, :4]).view(np.float32)
    log_p = floats[:, :1] * reference[:, 4 : 4 + n_vocab].astype(np.float32) + floats[:, 1:]
    nll_reference = -log_p[everyone, tokens]
    terms = np.exp(log_p) * (log_p - logits + total)
    table[1] = nll_reference
    table[2] = np.where(log_p > -_CUT, terms, 0).sum(axis=1, dtype=np.float64)
    table[3] = np.exp(-nll) - np.exp(-nll_reference)
    table[4] = logits.argmax(axis=1) == log_p.argmax(axis=1)
    return table
