"""What the user wants of a job, in a small file in its folder: any program writes it, the supervisor obeys it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..files import write_atomically
from .locks import Lock

Wish = Literal["run", "pause", "cancel"]

MAX_WORKERS = 1024


@dataclass(frozen=True)
class Control:
    """The wanted state of a job: it is always valid to read it again, also after a crash."""

    wish: Wish = "run"
    workers: int = 1
    nice: int = 0


class ControlFile:
    """A job's control file. `initial` holds as long as nobody has asked for anything."""

    def __init__(self, folder: Path, initial: Control) -> None:
        self.path = folder / "control.json"
        self.initial = initial
        self._seen: tuple[int, int, int] | None = None
        self._last = initial

    def read(self) -> Control:
        """The wanted state; one `stat` if nothing has changed. A damaged file changes nothing."""
        stamp = self.stamp()
        if stamp != self._seen:
            self._last = self._parse() or self._last
            self._seen = stamp
        return self._last

    def stamp(self) -> tuple[int, int, int] | None:
        """Something that is another thing after each change."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def change(self, **changes: Any) -> Control:
        """Change some wishes and leave the others; OSError if the store cannot be written."""
        with Lock(self.path.with_name("control.lock")):
            wanted = replace(self.read(), **changes)
            write_atomically(self.path, json.dumps(asdict(wanted)).encode())
            self._last, self._seen = wanted, self.stamp()
        return wanted

    def _parse(self) -> Control | None:
        try:
            values = json.loads(self.path.read_bytes())
            control = Control(values["wish"], int(values["workers"]), int(values["nice"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sound = control.wish in ("run", "pause", "cancel") and 1 <= control.workers <= MAX_WORKERS
        return control if sound and -20 <= control.nice <= 19 else None
