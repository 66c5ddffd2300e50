"""How our own processes are started: the same interpreter, and nothing importable from the working directory."""

from __future__ import annotations

import os
import sys

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package."""
    # Before Python 3.11 there is no -P; a job's folder, where children begin, holds nothing that can be imported.
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe_path, "-m", f"{__package__}.{module}", *arguments]


def environment() -> dict[str, str]:
    """Our environment with libraries held to one thread: processes are what works in parallel here."""
    return dict(os.environ) | dict.fromkeys(_ONE_THREAD, "1")
