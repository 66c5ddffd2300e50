"""How our own processes are started: the same interpreter, and nothing importable from the working directory."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

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


class NoAnswer(ResumeFailed):
    """A detached process ended without a word."""


class Detached:
    """A process in a session of its own: it lives on when this program or its terminal goes.

    It runs a module, which is imported at once and then waits to be told its folder, so that it may be started before
    the folder is there. Its `main` begins with `part` and `told`, and says by `answer` whether it is in charge.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        """Start it: its arguments are a descriptor for its answer and these. QuantdeckError if it cannot be started."""
        self._answer, writing = os.pipe()
        try:
            self._launcher = subprocess.Popen(
                command(module, str(writing), *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.sep,
                env=environment(),
                pass_fds=(writing,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._answer)
            raise QuantdeckError(
                f"No further process can be started ({error.strerror}); end other programs and try again."
            ) from error
        finally:
            os.close(writing)

    def take_charge(self, folder: Path, log: Path, name: str) -> None:
        """Have it begin in `folder`, with its output added to `log`; `name` is what users call it.

        Raises:
            QuantdeckError: its log cannot be written.
            ResumeFailed: it did not take charge, for the reason that it gave; NoAnswer if it gave none.
        """
        try:
            log.open("ab").close()
        except OSError as error:
            raise QuantdeckError(f"{name} cannot be started: {error.strerror}.") from error
        with contextlib.suppress(subprocess.TimeoutExpired):  # then there is no answer either
            self._launcher.communicate(os.fsencode(folder) + b"\0" + os.fsencode(log), START_PATIENCE)
        said = _listen(self._answer)
        if not said:
            why = f"{printable(str(log))} says why" if log.stat().st_size else "try again"
            raise NoAnswer(f"{name} did not start; {why}.")
        if said != _IN_CHARGE:
            raise ResumeFailed(printable(said))

    def close(self) -> None:
        """Let go of it, as often as wanted; it ends if it was not told a folder."""
        assert self._launcher.stdin
        self._launcher.stdin.close()
        try:
            self._launcher.wait(START_PATIENCE)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1


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


def told() -> Path:
    """In a detached process: the folder to work in; we begin there, with our output in its log. Ends if it has none."""
    folder, _, log = sys.stdin.buffer.read().partition(b"\0")
    if not folder:
        sys.exit()
    begin_in(Path(os.fsdecode(folder)), Path(os.fsdecode(log)), sys.stdout, sys.stderr)
    return Path(os.fsdecode(folder))


def begin_in(folder: Path, log: Path, *streams: TextIO) -> None:
    """Make `folder` the working directory, and add to `log` what goes to the streams from now on."""
    os.chdir(folder)
    with log.open("ab") as file:
        for stream in streams:
            os.dup2(file.fileno(), stream.fileno())


def answer(descriptor: int, refusal: str = "") -> None:
    """In a detached process: say that it is in charge, or why it is not."""
    os.write(descriptor, (refusal or _IN_CHARGE).encode("utf-8", "replace"))
    os.close(descriptor)
