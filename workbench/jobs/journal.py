"""The journal of a job: events as frozen data classes, one JSON line each, only ever appended.

It is the only way in which events travel. The supervisor writes it; any number of programs read along. A line that
cannot be understood (torn by a power cut, garbled by a disk) is skipped and counted, never an error.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

FAR = 1e11
"""Seconds that no clock shows (the year 5138): a time beyond is a garbled one."""

_KINDS: dict[str, type[JobEvent]] = {}


@dataclass(frozen=True)
class JobEvent:
    """Something that happened. `at` is the wall clock (seconds since 1970), `clock` a clock that never jumps (seconds).

    `clock` is only comparable between events of one run, that is, between one `Started` and the next.
    """

    kind: ClassVar[str]
    at: float = field(default_factory=time.time, kw_only=True)
    clock: float = field(default_factory=time.monotonic, kw_only=True)

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the event as the journal writes it, and make it known to the reader."""
        super().__init_subclass__(**options)
        cls.kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)[1:]
        _KINDS[cls.kind] = cls

    def line(self) -> bytes:
        """The event as one line of JSON."""
        values = {"event": self.kind} | {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"at": round(self.at, 3), "clock": round(self.clock, 3)}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Created(JobEvent):
    """The job was written into the store."""


@dataclass(frozen=True)
class Started(JobEvent):
    """A supervisor took the job."""

    pid: int
    workers: int
    nice: int


@dataclass(frozen=True)
class Rechecked(JobEvent):
    """After an interruption: `kept` ranges are in the file as journalled, those `lost` (tensor, first row) are not."""

    kept: int
    lost: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Waiting(JobEvent):
    """Other jobs go first; `ahead` are their ids."""

    ahead: tuple[str, ...]


@dataclass(frozen=True)
class Running(JobEvent):
    """The job works; `step` says at what before the workers begin."""

    step: str = ""


@dataclass(frozen=True)
class Working(JobEvent):
    """A worker began with a tensor (its number in the plan); -1 when it has nothing more to do."""

    worker: int
    tensor: int


@dataclass(frozen=True)
class RangeDone(JobEvent):
    """Rows first .. first+count of a tensor are in the file.

    `digest` is the SHA-256 (first 32 digits) of their bytes; `errors` are the sums of `ErrorSums` over sampled rows.
    """

    worker: int
    tensor: int
    first: int
    count: int
    digest: str
    seconds: float
    errors: tuple[float, ...] = ()


@dataclass(frozen=True)
class WorkerDied(JobEvent):
    """A worker process ended unasked; its range will be done again."""

    worker: int
    reason: str


@dataclass(frozen=True)
class SettingsChanged(JobEvent):
    """Another number of workers, or another nice level, from now on."""

    workers: int
    nice: int


@dataclass(frozen=True)
class Paused(JobEvent):
    """No worker works. `reason` is empty if somebody asked for it; else a sentence."""

    reason: str = ""


@dataclass(frozen=True)
class Note(JobEvent):
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class Verifying(JobEvent):
    """All ranges are done; `step` says what is being checked."""

    step: str


@dataclass(frozen=True)
class Verified(JobEvent):
    """The output is as planned and on disk; only its name is missing. `facts` is what llama.cpp said of it.

    `sha256` is the hash of all files one after another, `files` are those of each.
    """

    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interrupted(JobEvent):
    """The supervisor was told to end (SIGTERM); the job can be resumed."""

    reason: str = ""


@dataclass(frozen=True)
class Failed(JobEvent):
    """The job cannot go on. `resumable` if what is finished was kept."""

    reason: str
    resumable: bool = False
    exit_code: int = 1


@dataclass(frozen=True)
class Cancelled(JobEvent):
    """Somebody cancelled the job; the partial file is gone."""


@dataclass(frozen=True)
class Done(JobEvent):
    """The output stands under its final name.

    `seconds` is the time of work over all runs, waiting not counted; `cpu_seconds` is that of the last run's processes.
    """

    sha256: str
    n_bytes: int
    seconds: float
    cpu_seconds: float = 0.0


def decode(line: bytes) -> JobEvent | None:
    """The event in a line of the journal, None if the line is garbled."""
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("event")]
        event = kind(**{name: _frozen(value) for name, value in values.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(_fits(f.type, getattr(event, f.name)) for f in fields(event))
    return event if sound and 0 <= event.at < FAR and 0 <= event.clock < FAR else None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


_CHECKS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "dict[str, Any]": dict}


def _fits(annotation: Any, value: Any) -> bool:
    """True if a decoded value has the type that its field wants."""
    if annotation == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    if annotation == "tuple[float, ...]":
        return isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
    if annotation == "tuple[tuple[int, int], ...]":
        return isinstance(value, tuple) and all(
            isinstance(v, tuple) and len(v) == 2 and all(isinstance(n, int) for n in v) for v in value
        )
    return isinstance(value, _CHECKS[annotation])


class JournalWriter:
    """Appends events. A line counts only with its newline, so a torn one is closed off before the next is written."""

    def __init__(self, path: Path) -> None:
        """Open for appending; OSError where that is not possible."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, event: JobEvent) -> None:
        """Hand one line to the system, whole. OSError (no space ...) if it did not take it; it may be tried again."""
        line = (b"\n" if self._torn else b"") + event.line()
        written = os.write(self._descriptor, line)
        if written < len(line):
            self._torn = True
            os.write(self._descriptor, b"\n")  # raises what stopped the first write, or ends the torn line
            self._torn = False
            self.append(event)
            return
        self._torn = False

    def sync(self) -> None:
        """Wait until everything appended is on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class JournalReader:
    """Reads what is new in a journal, as often as asked; one `stat` if nothing is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.garbled = 0
        self._offset = 0

    def read(self) -> list[JobEvent]:
        """Events since the last call. A journal that is not there has none. One that shrank is read from its start."""
        try:
            size = self.path.stat().st_size
            if size == self._offset:
                return []
            with self.path.open("rb") as file:
                file.seek(self._offset if size > self._offset else 0)
                self._offset = file.tell()
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return self._decode(whole.split(b"\n"))

    def _decode(self, lines: Iterable[bytes]) -> list[JobEvent]:
        events = []
        for line in lines:
            if not line.strip():
                continue
            event = decode(line)
            if event is None:
                self.garbled += 1
            else:
                events.append(event)
        return events
