"""The supervisor's worker processes: hand out tasks, gather reports, notice deaths."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import processes
from .plan import Range


@dataclass(frozen=True)
class Report:
    """What a worker says of a task: digest, seconds and errors, or a problem with its text."""

    worker: int
    task: Range
    values: dict[str, Any]


@dataclass(frozen=True)
class Death:
    """A worker ended unasked; `task` is what it had in hand. `came_up` says whether it was ever ready for one."""

    worker: int
    task: Range | None
    reason: str
    came_up: bool


@dataclass(frozen=True)
class Farewell:
    """A worker ended because it was asked to."""

    worker: int


class WorkerProcess:
    """One worker process. `ready` once it has said its first line; `leaving` when it shall get no more tasks.

    It comes up at once, and waits to be told its job.
    """

    def __init__(self, *shown: str) -> None:
        """Start it; `shown` is for those who look at command lines."""
        self.number = -1
        self.task: Range | None = None
        self.ready = self.leaving = False
        self.buffer = b""
        self.process = subprocess.Popen(
            processes.command(f"{__package__}.worker", str(os.getpid()), *shown),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=processes.environment(),
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)

    def begin(self, number: int, folder: Path) -> None:
        """Have it work for the job in `folder`, as its worker `number`."""
        self.number = number
        with contextlib.suppress(BrokenPipeError):  # it is dead, which is noticed where its reports are read
            self.stdin.write(json.dumps(str(folder)).encode() + b"\n")

    def send(self, task: Range) -> bool:
        """False if it is dead, which is noticed where its reports are read; the task cannot be what ended it."""
        line = json.dumps({"tensor": task.tensor, "first": task.first, "count": task.count}).encode() + b"\n"
        try:
            self.stdin.write(line)
        except BrokenPipeError:
            return False
        self.task = task
        return True

    def lines(self) -> tuple[list[bytes], bool]:
        """Whole lines that have arrived, and True if no more will come."""
        ended = False
        while True:
            piece = self.stdout.read(65536)
            if piece is None:
                break
            if not piece:
                ended = True
                break
            self.buffer += piece
        *whole, self.buffer = self.buffer.split(b"\n")
        return whole, ended

    def reason(self) -> str:
        """Why it ended, in words."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code == -signal.SIGKILL:
            return "was killed (by somebody, or by the system because memory ran out)"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}; worker.log in the job's folder says more"

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()


def end_all(workers: Iterable[WorkerProcess]) -> None:
    """End workers at once; what they have in hand is not finished."""
    workers = list(workers)
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        worker.close()


def nice_session(nice: int) -> None:
    """Give our whole session a nice level against other sessions.

    Where Linux groups processes by session (sched_autogroup), the nice levels inside one mean nothing to the others.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


class Pool:
    """Up to `size` workers on the job in `folder`. One task at a time each."""

    def __init__(self, folder: Path, size: int, nice: int, reserve: Sequence[WorkerProcess] = ()) -> None:
        """No worker begins yet; those in `reserve`, which have no job, are the first to be taken."""
        self.folder = folder
        self.size = size
        self.nice = nice
        self._reserve = list(reserve)
        self._processes: dict[int, WorkerProcess] = {}
        self._selector = selectors.DefaultSelector()
        nice_session(nice)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers at once; what they had in hand is not finished."""
        for process in list(self._processes.values()):
            self._selector.unregister(process.stdout)
        end_all([*self._processes.values(), *self._reserve])
        self._processes.clear()
        self._selector.close()

    @property
    def busy(self) -> bool:
        """True if some worker has a task."""
        return any(process.task for process in self._processes.values())

    @property
    def pids(self) -> list[int]:
        """The processes of the living workers."""
        return [process.process.pid for process in self._processes.values()]

    def settle(self, size: int, nice: int) -> str:
        """Have `size` workers at a nice level from now on; a sentence if the system did not allow the nice level."""
        self.size = size
        trouble = self._renice(nice) if nice != self.nice else ""
        surplus = sorted(self._processes)[size:]
        for number, process in list(self._processes.items()):
            process.leaving = number in surplus
            if process.leaving and process.task is None:
                self._dismiss(process)
        return trouble

    def start_missing(self, tasks: int) -> None:
        """Start workers as long as more are allowed, and there are more tasks left than idle workers to take them."""
        while len(self._processes) < self.size and tasks > sum(p.task is None for p in self._processes.values()):
            number = next(n for n in range(self.size + len(self._processes)) if n not in self._processes)
            process = self._reserve.pop() if self._reserve else WorkerProcess(str(self.folder))
            process.begin(number, self.folder)
            self._processes[number] = process
            self._selector.register(process.stdout, selectors.EVENT_READ, process)
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.process.pid, self.nice)

    def idle(self) -> Iterator[int]:
        """Numbers of workers that could take a task."""
        for number, process in list(self._processes.items()):
            if process.ready and process.task is None and not process.leaving:
                yield number

    def give(self, worker: int, task: Range) -> bool:
        """Hand a task to an idle worker; False if it has just died."""
        return self._processes[worker].send(task)

    def wait(self, seconds: float) -> Iterator[Report | Death | Farewell]:
        """What happens to the workers, as soon as there are any or the time is over."""
        for key, _ in self._selector.select(seconds):
            process: WorkerProcess = key.data
            lines, ended = process.lines()
            for line in lines:
                yield from self._line(process, line)
            if ended:
                asked = process.leaving and process.task is None
                reason = process.reason()
                self._drop(process)
                yield Farewell(process.number) if asked else Death(process.number, process.task, reason, process.ready)

    def _line(self, process: WorkerProcess, line: bytes) -> Iterator[Report]:
        if not process.ready:
            process.ready = True
        elif process.task:
            task, process.task = process.task, None
            yield Report(process.number, task, json.loads(line))
        if process.leaving:
            self._dismiss(process)

    def _dismiss(self, process: WorkerProcess) -> None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def _drop(self, process: WorkerProcess) -> None:
        self._selector.unregister(process.stdout)
        process.close()
        self._processes.pop(process.number, None)

    def _renice(self, nice: int) -> str:
        self.nice = nice
        nice_session(nice)
        try:
            for pid in self.pids:
                os.setpriority(os.PRIO_PROCESS, pid, nice)
        except OSError as error:
            return f"The workers keep their priority: the system does not allow nice level {nice} ({error.strerror})."
        return ""
