"""What this process took at most. Child process only."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory() -> int:
    """Most memory that this process had resident, in bytes; 0 where the system does not say.

    On Linux not getrusage's: that begins with the parent's.
    """
    if sys.platform == "win32":
        return 0
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
