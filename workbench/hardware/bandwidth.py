"""How fast this machine reads its memory: what bounds the speed of generating tokens."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial

import numpy as np
import numpy.typing as npt

from .hardware import Bandwidth

_MOST_MEMORY = 256 << 20
_LEAST_MEMORY = 16 << 20
_MOST_THREADS = 64


def measure_bandwidth(
    cores: int, available: int, *, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter
) -> Bandwidth:
    """Read a block of memory again and again with all `cores`, and with half of them; the faster median counts.

    Decoding a token reads every active weight once, in order, with all threads: that is what is timed. The block is at
    most 256 MiB and at most an eighth of the `available` bytes (but 16 MiB), so small caches do not flatter the figure;
    processors with hundreds of megabytes of cache still come out too fast. Takes about `seconds`.
    """
    size = max(_LEAST_MEMORY, min(_MOST_MEMORY, available // 8))
    most = max(1, min(cores, _MOST_THREADS))
    rates = {}
    counts = sorted({most, max(1, most // 2)})
    pieces = _pieces(size, most)
    for threads in counts:
        rates[threads] = _rate(pieces, threads, seconds / len(counts), clock)
    best = max(rates, key=lambda threads: rates[threads])
    return Bandwidth(rates[best], best, datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _pieces(size: int, threads: int) -> list[npt.NDArray[np.int64]]:
    """The block as `threads` arrays, each first touched by a thread of its own, so that it lies near that thread."""
    pieces = [np.empty(size // threads // 8, np.int64) for _ in range(threads)]
    _together([partial(piece.fill, 1) for piece in pieces])
    return pieces


def _rate(pieces: list[npt.NDArray[np.int64]], threads: int, seconds: float, clock: Callable[[], float]) -> float:
    """Median bytes a second of at least three rounds over the whole block."""
    shares = [pieces[first::threads] for first in range(threads)]
    readers = [partial(_read, share) for share in shares]
    size = sum(piece.nbytes for piece in pieces)
    rates: list[float] = []
    start = clock()
    while len(rates) < 3 or clock() - start < seconds:
        before = clock()
        _together(readers)
        rates.append(size / max(clock() - before, 1e-9))
    return statistics.median(rates)


def _read(pieces: list[npt.NDArray[np.int64]]) -> None:
    """Touch every byte once, in order, with as little arithmetic as numpy has."""
    for piece in pieces:
        np.bitwise_or.reduce(piece)


def _together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run all tasks at the same time; numpy lets other threads run while it works."""
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
