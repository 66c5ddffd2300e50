"""Measure how fast llama.cpp's kernels compute on this processor, in a child process."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..hardware import Kernels
from ..tables import Wrong, from_table
from .host import Child, Patience
from .troubles import LlamaFailed

_PATIENCE = Patience(start=30.0, request=30.0)
_MOST_THREADS = 64


def measure_kernels(log_folder: Path, cores: int, available: int) -> Kernels | None:
    """What `Kernels` says, measured within about a second; None if llama.cpp cannot be asked.

    Numbers of threads are timed up to all `cores`: each up to four, then every second, fourth, eighth ... and all.
    `available` bytes bound the memory that is taken for it.
    """
    most = max(1, min(cores, _MOST_THREADS))
    threads = sorted({count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, most - 1, most) if 0 < count <= most})
    # One thread is what it is started for: threads that wait shall spin, as they do where nothing else runs.
    try:
        with contextlib.closing(Child(log_folder, _PATIENCE, "kernels", threads=1)) as child:
            answers = list(
                child.request("The kernels could not be measured", "kernels", threads=threads, available=available)
            )
        return from_table(Kernels, answers[-1], [])
    except (LlamaFailed, OSError, Wrong):
        return None
