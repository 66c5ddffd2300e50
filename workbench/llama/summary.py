"""From scores of single tokens to the figures of an evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .evaluate import Divergence, Estimate
from .scoring import FIELDS

_IDENTITY_BYTES = 64


def read_scores(path: Path, context: int) -> npt.NDArray[np.float64]:
    """Scores float64 (len(FIELDS), n) of all windows of `context` tokens that the child left at `path`."""
    content = np.frombuffer(path.read_bytes()[_IDENTITY_BYTES:], "<f8")
    n = context - 1 - context // 2
    return np.concatenate(list(content.reshape(-1, len(FIELDS), n)), axis=1)


def summarize(table: npt.NDArray[np.float64], against_reference: bool) -> tuple[Estimate, Divergence | None]:
    """Perplexity and divergence of scores float64 (len(FIELDS), n), rows as in `scoring.FIELDS`."""
    nll, nll_reference, kl, p_difference, same_top = table
    log_perplexity = _mean(nll)
    if not against_reference:
        return _exponential(log_perplexity), None
    log_reference = _mean(nll_reference)
    covariance = _covariance(nll, nll_reference)
    square = _mean(p_difference**2)
    rms = math.sqrt(square.value)
    top = float(same_top.mean())
    variance = log_perplexity.error**2 + log_reference.error**2 - 2 * covariance
    divergence = Divergence(
        kl=_mean(kl),
        kl_median=float(np.median(kl)),
        kl_99=float(np.percentile(kl, 99)),
        kl_999=float(np.percentile(kl, 99.9)),
        kl_max=float(kl.max()),
        same_top=Estimate(top, math.sqrt(top * (1 - top) / max(1, len(kl) - 1))),
        rms_p=Estimate(rms, 0.5 / rms * square.error if rms > 0 else 0.0),
        reference_perplexity=_exponential(log_reference),
        ln_ratio=Estimate(log_perplexity.value - log_reference.value, math.sqrt(max(0.0, variance))),
    )
    return _exponential(log_perplexity), divergence


def _mean(values: npt.NDArray[np.float64]) -> Estimate:
    n = len(values)
    mean = float(values.mean())
    variance = float((values**2).mean()) - mean**2
    return Estimate(mean, math.sqrt(variance / (n - 1)) if variance > 0 and n > 10 else 0.0)


def _covariance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    n = len(a)
    return float((a * b).mean() - a.mean() * b.mean()) / (n - 1) if n >= 10 else 0.0


def _exponential(log: Estimate) -> Estimate:
    value = math.exp(min(log.value, 700.0))
    return Estimate(value, value * log.error)
