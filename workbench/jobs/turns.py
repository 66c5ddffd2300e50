"""The queue: jobs of one store run one after the other, in the order in which they were started."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .locks import Lock, is_held


class Turn:
    """A place in the queue: a locked file whose number is the order. It is given up by closing, or by dying."""

    def __init__(self, store_root: Path, job_id: str) -> None:
        """Go to the end of the queue; OSError if the store cannot be written."""
        self.folder = store_root / ".queue"
        self.folder.mkdir(exist_ok=True)
        with Lock(self.folder / "lock"):
            last = max((number for number, _ in self._tickets()), default=0)
            self.number = last + 1
            self._ticket = Lock(self.folder / f"{self.number:09}-{job_id}")
            self._ticket.acquire()

    def ahead(self) -> list[str]:
        """Ids of the jobs that go first; tickets of the dead are thrown away."""
        first = []
        with Lock(self.folder / "lock"):
            for number, path in self._tickets():
                if number >= self.number:
                    continue
                if is_held(path):
                    first.append(path.name.split("-", 1)[1])
                else:
                    path.unlink(missing_ok=True)
        return first

    def close(self) -> None:
        """Leave the queue."""
        with contextlib.suppress(OSError):
            self._ticket.path.unlink(missing_ok=True)
        self._ticket.release()

    def _tickets(self) -> list[tuple[int, Path]]:
        found = []
        for path in self.folder.iterdir():
            number, dash, _ = path.name.partition("-")
            if dash and number.isdecimal():
                found.append((int(number), path))
        return sorted(found)
