"""What the installed llama.cpp says about the processor and about its own build, asked in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import QuantdeckError

# The current folder leaves the path first, or somebody's llama_cpp.py there would be imported (-P needs Python 3.11).
_PROGRAM = """\
import sys
sys.path[:] = [place for place in sys.path if place]
import json, os
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import llama_cpp
json.dump({
    "version": llama_cpp.__version__,
    "system_info": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
    "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
}, answers)
"""


class SystemInfoUnavailable(QuantdeckError):
    """llama.cpp could not be asked about this machine."""


@dataclass(frozen=True)
class SystemInfo:
    """llama.cpp's view: features of each back end by its name ("CPU", "CUDA" ...), and whether it can use a GPU."""

    version: str
    features: Mapping[str, tuple[str, ...]]
    gpu_offload: bool


def ask_system_info(timeout: float = 30.0, command: Sequence[str] = (sys.executable, "-c", _PROGRAM)) -> SystemInfo:
    """Start a child, ask, and let it end; SystemInfoUnavailable if it lacks, crashes or exceeds `timeout` seconds."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise SystemInfoUnavailable(f"llama.cpp did not answer within {timeout:.0f} seconds.") from None
    except OSError as error:
        raise SystemInfoUnavailable(f"llama.cpp could not be started: {error.strerror}.") from None
    if done.returncode:
        raise SystemInfoUnavailable(_reason(done.returncode, done.stderr.decode("utf-8", "replace")))
    try:
        answer = json.loads(done.stdout)
        return SystemInfo(
            str(answer["version"]), features_from_system_info(str(answer["system_info"])), answer["gpu_offload"] is True
        )
    except (ValueError, KeyError, TypeError):
        raise SystemInfoUnavailable("llama.cpp gave an answer that makes no sense.") from None


def features_from_system_info(text: str) -> dict[str, tuple[str, ...]]:
    """Split `CPU : SSE3 = 1 | AVX2 = 1 | SVE_CNT = 16 | CUDA : ARCHS = 890 | ` by back end.

    Features with the value 1 are named alone, other values are kept ("SVE_CNT=16"), and those with 0 are left out.
    """
    features: dict[str, list[str]] = {}
    backend = "CPU"
    for part in text.split("|"):
        name, equals, value = part.partition("=")
        if not equals:
            continue
        if ":" in name:
            backend, _, name = name.partition(":")
        name, value = name.strip(), value.strip()
        if name and value != "0":
            features.setdefault(backend.strip(), []).append(name if value == "1" else f"{name}={value}")
    return {backend: tuple(names) for backend, names in features.items()}


def _reason(code: int, stderr: str) -> str:
    """One sentence from how the child ended."""
    if "No module named 'llama_cpp'" in stderr:
        return "llama-cpp-python is not installed, so models cannot be run or verified here."
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"llama.cpp {how} when asked about this machine" + (f": {last[:200]}" if last else ".")
