"""How our own processes are started: the same interpreter, and nothing importable from the working directory."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from .errors import QuantdeckError, ResumeFailed
from .text import printable

START_PATIENCE = 30.0
"""Seconds within which a detached process must say that it is in charge."""

_IN_CHARGE = "ok"
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module, given by its full name."""
    # Before Python 3.11 there is no -P; the folders where our processes begin hold nothing that can be imported.
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe_path, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Our environment with libraries held to one thread: processes are what works in parallel here."""
    return dict(os.environ) | dict.fromkeys(_ONE_THREAD, "1")


def start_detached(module: str, folder: Path, log: Path, name: str) -> None:
    """Run a module in a session of its own, so that it lives on when this program or its terminal goes.

    It gets `folder`, where it also begins, and a descriptor for its answer, which its `main` gives to `part` and
    `answer`; `name` is what users call it.

    Raises:
        QuantdeckError: it could not be started.
        ResumeFailed: it did not take charge, in its own words if it left any.
    """
    reading, writing = os.pipe()
    try:
        with log.open("ab") as errors:
            launcher = subprocess.Popen(
                command(module, str(folder), str(writing)),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=folder,
                env=environment(),
                pass_fds=(writing,),
                start_new_session=True,
            )
        os.close(writing)
        writing = -1
        said = _listen(reading)
        launcher.wait()
    except OSError as error:
        raise QuantdeckError(f"{name} cannot be started: {error.strerror}.") from error
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if said != _IN_CHARGE:
        raise ResumeFailed(printable(said) or f"{name} did not start; {printable(str(log))} says why.")


def _listen(reading: int) -> str:
    """What the process says, up to the end of its words; empty if it died or took too long."""
    said = b""
    until = time.monotonic() + START_PATIENCE
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(reading, 4096)
        if not piece:
            break
        said += piece
    return said.decode("utf-8", "replace")


def part() -> None:
    """In a detached process, first of all: whoever started us need not wait for us, nor bury us."""
    if os.fork():
        os._exit(0)


def answer(descriptor: int, refusal: str = "") -> None:
    """In a detached process: say that it is in charge, or why it is not."""
    os.write(descriptor, (refusal or _IN_CHARGE).encode("utf-8", "replace"))
    os.close(descriptor)
