"""The parent's side: one child process that runs llama.cpp, its messages, its time limits and its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .troubles import LlamaCrashed, LlamaFailed, explain_death, explain_failure
from .wire import BadLine, Line, read, write

_KEPT_LOGS = 40
_LOG_TAIL = 64 << 10
# Replaces sys.path before any import of ours: the child finds what the parent found, never the current folder.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from {package}.child import main; main({service!r}, {threads})"
_numbers = itertools.count()


@dataclass(frozen=True)
class Patience:
    """Seconds without a sign of life after which the child is ended: at start, and within a request."""

    start: float = 60.0
    request: float = 300.0


class Child:
    """A running child. Requests come one at a time, from any thread; `cancel` and `close` work beside them.

    It is started, not waited for: whether it came up shows in `wait_until_ready`, or in the first request. `service` is
    what will be asked of it once its model is loaded; it is imported meanwhile; `threads` how many will compute, if
    that is known.
    """

    def __init__(
        self, log_folder: Path, patience: Patience | None = None, service: str = "", threads: int | None = None
    ) -> None:
        self.patience = patience or Patience()
        self.log = _new_log(log_folder)
        self._ids = itertools.count(1)
        self._current: int | None = None
        self._turn = threading.Lock()
        self._pen = threading.Lock()
        self._closed = False
        self._inbox: queue.Queue[Line | None] = queue.Queue()
        self._last_sign = time.monotonic()
        self._ready = False
        self._process = self._start(service, threads)
        self._listener = threading.Thread(target=self._listen, name="llama-listener", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the child has ended."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it needs; LlamaFailed if it did not come up."""
        if self._ready:
            return
        what = "llama.cpp could not be started"
        try:
            line = self._next(what, self.patience.start)
            if line.get("event") == "failed":
                raise explain_failure(what, str(line.get("reason", "")), str(line.get("kind", "")), self.log)
            if line.get("event") != "hello":
                raise LlamaCrashed(f"{what}: its process does not answer as it should", self.log)
        except BaseException:
            self._kill()
            raise
        self._ready = True

    def request(self, what: str, do: str, patience: float | None = None, **arguments: Any) -> Iterator[Line]:
        """Ask for `do` and yield its events, the last one being `done`; `what` begins the sentence of a failure.

        An iterator that is dropped half-way cancels the request and waits until the child is free again.
        """
        if not self._turn.acquire(blocking=False):
            raise LlamaFailed(f"{what}: the model is still busy with the last request; stop that first")
        try:
            self._current = number = next(self._ids)
            try:
                self._send(what, {"id": number, "do": do, **arguments})
            finally:
                self.wait_until_ready()
            yield from self._answers(what, number, patience or self.patience.request)
        finally:
            self._current = None
            self._turn.release()

    def cancel(self) -> None:
        """Stop the running request at its next chance. Safe from any thread, harmless when nothing runs."""
        number = self._current
        if number is not None:
            with contextlib.suppress(LlamaFailed):
                self._send("Cancelling", {"cancel": number})

    def close(self) -> None:
        """End the child; it goes by itself when its input ends, and is killed if it does not."""
        self._closed = True
        with contextlib.suppress(OSError), self._pen:
            self._stdin.close()
        self._listener.join(2.0)  # to the end of what it says; waiting for the process alone asks again and again
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.0 if self._listener.is_alive() else 2.0)
            return
        self._kill()

    def log_tail(self) -> str:
        """The last 64 KiB of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
                return file.read(_LOG_TAIL).decode("utf-8", "replace")
        except OSError:
            return ""

    def _start(self, service: str, threads: int | None) -> subprocess.Popen[bytes]:
        path = [entry for entry in sys.path if entry and Path(entry).is_absolute()]
        command = [
            sys.executable,
            "-c",
            _BOOTSTRAP.format(package=__package__, service=service, threads=threads),
            *path,
        ]
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.log.parent,
                    start_new_session=True,
                )
        except OSError as error:
            raise LlamaFailed(f"llama.cpp's process could not be started: {error.strerror or error}") from error

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(BadLine, OSError, ValueError), self._process.stdout as stdout:
            while (line := read(stdout)) is not None:
                self._last_sign = time.monotonic()
                if line.get("event") != "alive":
                    self._inbox.put(line)
        self._inbox.put(None)

    def _answers(self, what: str, number: int, patience: float) -> Iterator[Line]:
        ended, silence, hangs = False, patience, ""
        try:
            while not ended:
                line = self._next(what, silence, hangs)
                if line.get("id") != number:
                    continue
                event = line.get("event")
                ended = event in ("done", "failed")
                if event == "failed":
                    raise explain_failure(what, str(line.get("reason", "")), str(line.get("kind", "")), self.log)
                if event == "patience":
                    silence = float(line.get("seconds", 0)) or patience
                    hangs = str(line.get("reason", ""))
                else:
                    yield line
        except LlamaFailed:
            ended = True
            raise
        finally:
            if not ended:
                self._drain(what, number)

    def _drain(self, what: str, number: int) -> None:
        self.cancel()
        with contextlib.suppress(LlamaFailed):
            while True:
                line = self._next(what, 30.0)
                if line.get("id") == number and line.get("event") in ("done", "failed"):
                    return

    def _next(self, what: str, patience: float, hangs: str = "") -> Line:
        self._last_sign = time.monotonic()
        while True:
            try:
                line = self._inbox.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() - self._last_sign > patience:
                    self._kill()
                    how = hangs or "llama.cpp gives no sign of life"
                    raise LlamaCrashed(
                        f"{what}: {how}; its process was ended after {patience:.0f} seconds", self.log
                    ) from None
                continue
            if line is None:
                self._inbox.put(None)
                raise self._death(what)
            return line

    def _death(self, what: str) -> LlamaFailed:
        if self._closed:
            return LlamaFailed(f"{what}: the model was closed")
        try:
            code = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._kill()
            return LlamaCrashed(
                f"{what}: llama.cpp's process lost its way and was ended; load the model again", self.log
            )
        return explain_death(what, code, self.log, self.log_tail())

    def _send(self, what: str, line: Line) -> None:
        try:
            with self._pen:
                write(self._stdin, line)
        except BadLine as error:
            raise LlamaFailed(f"{what}: {error}") from error
        except (OSError, ValueError) as error:
            raise self._death(what) from error

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        with contextlib.suppress(OSError):
            self._stdin.close()


def ready_child(log_folder: Path, service: str = "") -> Child:
    """A child that has come up, for a model to come; blocks. Who does not use it closes it. Arguments as `Child`'s.

    Raises:
        LlamaFailed: it did not start.
    """
    child = Child(log_folder, service=service)
    child.wait_until_ready()
    return child


def _new_log(folder: Path) -> Path:
    """A log of its own for each child, in `folder`, or in the system's temporary folder if that cannot be written."""
    temporary = Path(tempfile.gettempdir()) / f"quantdeck-{os.getuid()}-logs"
    try:
        return _log_in(folder)
    except LlamaFailed:
        return _log_in(temporary)


def _log_in(folder: Path) -> Path:
    """A new log; old ones go, so that the folder stays small. LlamaFailed if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.absolute() / f"llama-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{next(_numbers)}.log"
        path.touch()
        for old in sorted(folder.glob("llama-*.log"))[:-_KEPT_LOGS]:
            with contextlib.suppress(OSError):
                old.unlink()
    except OSError as error:
        raise LlamaFailed(f"No log can be written in {folder}: {error.strerror or error}") from error
    return path
