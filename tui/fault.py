"""What went wrong in one sentence for the user; of a fault of ours, the traceback goes into a file for a report."""

from __future__ import annotations

import os
import time
import traceback

from ..workbench.errors import QuantdeckError
from ..workbench.paths import Paths

NO_MEMORY = "there is not enough memory for this; close other programs or use a smaller model"


def sentence(error: Exception) -> str:
    """What to tell the user of anything that was raised."""
    if isinstance(error, QuantdeckError):
        return str(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    return of_the_system(error) if isinstance(error, OSError) else keep(error)


def of_the_system(error: OSError) -> str:
    """Which file it was about, if any, and what the system says of it."""
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename} cannot be used: {reason}." if error.filename else f"The system refused: {reason}."


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
