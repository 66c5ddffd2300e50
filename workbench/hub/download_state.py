"""A download as it lies on disk: what was asked, what happened, and how it stands."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ResumeFailed
from ..files import write_atomically
from ..jobs.folder import WorkFolder
from ..jobs.journal import Cancelled, Done, Failed, Interrupted, JobEvent, JournalReader
from ..text import printable

Status = Literal["running", "checking", "waiting", "done", "failed", "cancelled", "interrupted"]
LIVE = ("running", "checking", "waiting")
ENDED = ("done", "cancelled")

CUT_OFF = "Its process is gone; resume goes on where it stopped."
_RATE_SECONDS = 15.0
_SCHEMA = 1


@dataclass(frozen=True)
class FetchStarted(JobEvent):
    """A process took the download."""

    pid: int


@dataclass(frozen=True)
class Fetching(JobEvent):
    """So many bytes of a file (its number in the request) are on disk."""

    file: int
    n_bytes: int


@dataclass(frozen=True)
class Retrying(JobEvent):
    """It did not work, and will be tried again."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class CheckingHash(JobEvent):
    """What is on disk of a file is read and hashed."""

    file: int


@dataclass(frozen=True)
class FileFetched(JobEvent):
    """A file is whole, has the hash that the Hub gave, and stands under its name."""

    file: int


@dataclass(frozen=True)
class WantedFile:
    """A file to fetch: where it lies in the repository, its name here, and what it must turn out to be."""

    path: str
    name: str
    n_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class DownloadRequest:
    """What was asked: files of one commit, to be put into `folder`.

    A connection that fails `tries` times without a byte in between ends the download; `first_wait` seconds, doubling,
    pass before each new try.
    """

    repository: str
    commit: str
    folder: str
    kind: str
    files: tuple[WantedFile, ...]
    tries: int = 10
    first_wait: float = 1.0

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def result(self) -> Path:
        """What is opened afterwards: the (first) file of a model, the folder of a checkpoint."""
        return Path(self.folder) if self.kind == "checkpoint" else Path(self.folder, self.files[0].name)

    def target(self, file: WantedFile) -> Path:
        """Where a file goes."""
        return Path(self.folder, file.name)

    def partial(self, file: WantedFile) -> Path:
        """Where it grows until it is whole."""
        return Path(self.folder, f".{file.name}.partial")

    def remove_partials(self) -> None:
        """What a cancelled download leaves goes; whole files stay. OSError where that is not possible."""
        for file in self.files:
            self.partial(file).unlink(missing_ok=True)

    def write(self, path: Path) -> None:
        """Keep it; OSError where that is not possible."""
        write_atomically(path, json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> DownloadRequest:
        """What was kept; ResumeFailed if it is missing or damaged."""
        try:
            values = json.loads(path.read_bytes())
            files = tuple(_wanted(each) for each in values["files"])
            if values["schema"] != _SCHEMA or not files:
                raise ValueError
            repository, commit, folder, kind = (str(values[n]) for n in ("repository", "commit", "folder", "kind"))
            return cls(repository, commit, folder, kind, files, int(values["tries"]), float(values["first_wait"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ResumeFailed(f"{printable(str(path))} is missing or damaged; start the download again.") from None


def _wanted(values: dict[str, Any]) -> WantedFile:
    from .names import local_name

    name = str(values["name"])
    if local_name(name) != name:
        raise ValueError
    return WantedFile(str(values["path"]), name, int(values["n_bytes"]), str(values["sha256"]), str(values["git_sha1"]))


@dataclass(frozen=True)
class DownloadFolder(WorkFolder):
    """The files of one download."""

    @property
    def request_path(self) -> Path:
        """What was asked."""
        return self.path / "request.json"

    @property
    def log(self) -> Path:
        """What the process wrote on its standard error."""
        return self.path / "fetch.log"

    @property
    def stop(self) -> Path:
        """Exists when the process shall end: "cancel" or "pause"."""
        return self.path / "stop"

    def request(self) -> DownloadRequest:
        """What was asked; ResumeFailed if it is missing or damaged."""
        return DownloadRequest.read(self.request_path)


@dataclass(frozen=True)
class DownloadSnapshot:
    """How a download stands. Bytes, bytes a second over the last seconds, seconds left (None while not known)."""

    id: str
    request: DownloadRequest
    status: Status
    bytes_done: int
    rate: float
    seconds_left: float | None
    message: str = ""
    exit_code: int = 0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of the bytes that is here."""
        return min(1.0, self.bytes_done / max(1, self.request.n_bytes))

    @property
    def ended(self) -> bool:
        """True if nothing happens any more unless somebody resumes it."""
        return self.status not in LIVE

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `quantdeck hub download` and `hub downloads`."""
        request = self.request
        return {
            "download": self.id,
            "status": self.status,
            "repository": request.repository,
            "commit": request.commit,
            "path": str(request.result),
            "files": [{"path": f.path, "bytes": f.n_bytes, "sha256": f.sha256 or None} for f in request.files],
            "bytes": request.n_bytes,
            "bytes_done": self.bytes_done,
            "bytes_per_second": self.rate,
            "seconds_left": self.seconds_left,
            "seconds": self.seconds,
            "message": self.message,
        }


class DownloadWatch:
    """Follows one download at little cost: each look reads only what is new in the journal."""

    def __init__(self, folder: DownloadFolder) -> None:
        """Begin to follow; ResumeFailed if what was asked cannot be read."""
        self.folder = folder
        self._request = folder.request()
        self._reader = JournalReader(folder.journal)
        self._done: dict[int, int] = {}
        self._track: deque[tuple[float, int]] = deque()
        self._status: Status = "interrupted"
        self._message, self._exit_code, self._seconds = "", 0, 0.0

    def look(self) -> DownloadSnapshot:
        """The download now."""
        alive = self.folder.is_alive
        self._apply(self._reader.read())
        if not alive and self._status in LIVE:
            self._status, self._message = "interrupted", CUT_OFF
        done, rate = sum(self._done.values()), self._rate()
        left = (self._request.n_bytes - done) / rate if rate and self._status == "running" else None
        return DownloadSnapshot(
            self.folder.id, self._request, self._status, done, rate, left, self._message, self._exit_code, self._seconds
        )

    def _apply(self, events: Iterable[JobEvent]) -> None:
        for event in events:
            match event:
                case FetchStarted():
                    self._set("running")
                    self._track.clear()
                case Fetching(file=file, n_bytes=n_bytes):
                    self._set("running")
                    self._progress(event.clock, file, n_bytes)
                case CheckingHash():
                    self._set("checking")
                case FileFetched(file=file) if 0 <= file < len(self._request.files):
                    self._done[file] = self._request.files[file].n_bytes
                case Retrying(reason=reason):
                    self._set("waiting", reason)
                case Done(seconds=seconds):
                    self._set("done")
                    self._seconds = seconds
                case Cancelled():
                    self._set("cancelled")
                    self._done.clear()
                case Failed(reason=reason, exit_code=code):
                    self._set("failed", reason, code)
                case Interrupted(reason=reason):
                    self._set("interrupted", reason)

    def _set(self, status: Status, message: str = "", exit_code: int = 0) -> None:
        self._status, self._message, self._exit_code = status, printable(message), exit_code

    def _progress(self, clock: float, file: int, n_bytes: int) -> None:
        if not 0 <= file < len(self._request.files):
            return
        if n_bytes < self._done.get(file, 0):
            self._track.clear()
        self._done[file] = min(n_bytes, self._request.files[file].n_bytes)
        self._track.append((clock, sum(self._done.values())))
        while clock - self._track[0][0] > _RATE_SECONDS:
            self._track.popleft()

    def _rate(self) -> float:
        if len(self._track) < 2 or self._status not in ("running", "done"):
            return 0.0
        (begin, before), (end, after) = self._track[0], self._track[-1]
        return max(0, after - before) / (end - begin) if end > begin else 0.0
