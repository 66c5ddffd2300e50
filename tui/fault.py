"""A fault of ours: the traceback goes into a file for a report, one sentence to the user."""

from __future__ import annotations

import os
import time
import traceback

from ..workbench.paths import Paths


def keep(error: Exception) -> str:
    """Write the traceback to the logs' folder and say where it is; never fails itself."""
    log = Paths.from_environment(os.environ).logs / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        kept = f"the details are in {log}; please report them"
    except OSError:
        kept = "please report it with what you did"
    return f"This should not have happened ({type(error).__name__}: {error}); {kept}."
