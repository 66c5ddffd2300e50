"""Prove that a file works: load it in a child, compare its header, compute, and see that the results are numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import QuantdeckError
from ..text import printable
from .contract import LoadSettings, Verification
from .host import Child, Patience
from .llama import last, start


def verify(
    path: Path,
    log_folder: Path,
    expected: Sequence[tuple[str, str]] | None = None,
    threads: int | None = None,
    patience: Patience | None = None,
    child: Child | None = None,
) -> Verification:
    """Load `path` on the CPU and compute a few tokens; works for every architecture that llama.cpp loads.

    `expected`: names and types of all tensors as planned; llama.cpp's own reader must find exactly these. `child`: one
    from `ready_child`, which is used up. Never raises for a bad file: the verification says what is wrong.
    """
    began = time.monotonic()
    settings = LoadSettings(gpu_layers=0, threads=threads, repack=False)
    try:
        ready = child if child and child.alive else None
        child, _ = start(path, settings, log_folder, None, None, patience, "verify", ready)
        try:
            pairs = None if expected is None else [[name, kind] for name, kind in expected]
            what = f"{printable(path.name)} does not work"
            done = last(child.request(what, "verify", path=str(path.absolute()), expected=pairs))
        finally:
            child.close()
    except QuantdeckError as error:
        return Verification(False, 0, "", time.monotonic() - began, str(error))
    return Verification(True, int(done["tokens"]), printable(str(done["text"])), time.monotonic() - began)
