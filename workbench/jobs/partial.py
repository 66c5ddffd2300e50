"""The output while it is made: hidden files at full size, headers and padding in place, hashed as they fill up."""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..errors import BadArgument
from ..files import Hashes
from ..text import printable
from .locks import is_held
from .plan import Place, Plan

PIECE = 1 << 20
FLUSH_INTERVAL = 2.0
"""Seconds between two requests to put what was written on disk, so that the end need not wait for all of it."""


def digest(content: bytes | memoryview) -> str:
    """What the journal keeps of a range's bytes: the first 32 digits of their SHA-256, the fastest hash at hand."""
    return hashlib.sha256(content).hexdigest()[:32]


def write_all(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write at an offset, however many calls it takes."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def discard(paths: Iterable[Path]) -> None:
    """Remove partial files, unless another program is writing them (a job of another store with the same output)."""
    for path in paths:
        with contextlib.suppress(OSError):
            if not is_held(path):
                path.unlink(missing_ok=True)


class PartialFile:
    """One open partial file of a job, which no other supervisor may write at the same time."""

    def __init__(self, path: Path, plan: Plan, number: int) -> None:
        """Open or make the file, as it is; BadArgument if another program is making the same one, or OSError."""
        self.path = path
        self.plan = plan
        self.number = number
        self.n_bytes = plan.files[number].n_bytes
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise BadArgument(f"Another program is writing {printable(str(path))}; wait for it or cancel it.") from None

    def clear(self) -> None:
        """Give all of its disk space back."""
        os.ftruncate(self.descriptor, 0)

    def lay_out(self) -> None:
        """Full size, with its disk space where the file system can promise it, and all that no task writes."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.descriptor, 0, self.n_bytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        os.ftruncate(self.descriptor, self.n_bytes)
        write_all(self.descriptor, self.plan.files[self.number].header, 0)
        for offset, length in self.plan.gaps(self.number):
            write_all(self.descriptor, bytes(length), offset)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        pieces = []
        while length and (piece := os.pread(self.descriptor, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def is_intact(self) -> bool:
        """False if somebody else removed, replaced, or cut the file; two system calls."""
        try:
            ours, there = os.fstat(self.descriptor), self.path.stat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and ours.st_size == self.n_bytes


class Partial:
    """All partial files of one job, open."""

    def __init__(self, paths: Sequence[Path], plan: Plan, *, fresh: bool) -> None:
        """Open or make the files at full size; what an earlier run left in them is kept unless `fresh`.

        Raises:
            BadArgument: another program is making one of them.
            OSError: no space, no permission.
        """
        self.plan = plan
        self.files: list[PartialFile] = []
        try:
            for number, path in enumerate(paths):
                self.files.append(PartialFile(path, plan, number))
            if fresh:
                self.clear()
            for file in self.files:
                file.lay_out()
        except BaseException:
            if fresh:  # where there was not room for all, the rest of the disk stays free for others
                with contextlib.suppress(OSError):
                    self.clear()
            self.close()
            raise

    def clear(self) -> None:
        """Give all disk space back."""
        for file in self.files:
            file.clear()

    def read(self, place: Place) -> bytes:
        """Bytes of one of the files; fewer where it ends."""
        return self.files[place.file].read(place.offset, place.n_bytes)

    def sync(self) -> None:
        """Wait until all files are on disk."""
        for file in self.files:
            os.fsync(file.descriptor)

    def close(self) -> None:
        """Close the files; they stay."""
        while self.files:
            os.close(self.files.pop().descriptor)


class Companion:
    """A thread beside the workers: hashes the files as their beginning is finished, and has them on disk in time.

    So the hash of an output of any size is there a moment after its last range. It reads back what is in the files;
    that the workers' bytes are there is what the hash of the ranges is for. Positions count as if the files stood one
    after another.
    """

    def __init__(self, partial: Partial, sync_journal: Callable[[], None]) -> None:
        self._partial = partial
        self._plan = partial.plan
        self._sync_journal = sync_journal
        self._hashes = Hashes()
        self._hashed = self._limit = 0
        self._wake = threading.Condition()
        self._ended = False
        self._problem: OSError | None = None
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._hash_on, self._flush_on)]
        for thread in self._threads:
            thread.start()

    def advance(self, limit: int) -> None:
        """Say that the first `limit` bytes are final."""
        with self._wake:
            self._limit = max(self._limit, limit)
            self._wake.notify_all()

    def hashes(self, patience: float) -> Hashes | None:
        """The hashes of all files, None if they are not ready within `patience` seconds; OSError if reading failed."""
        with self._wake:
            self._wake.wait_for(lambda: self._problem or self._hashed >= self._plan.total, patience)
            if self._problem:
                raise self._problem
            return self._hashes if self._hashed >= self._plan.total else None

    def close(self) -> None:
        """End the threads."""
        with self._wake:
            self._ended = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _hash_on(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ended or self._limit > self._hashed)
                if self._ended:
                    return
                number = self._file_at(self._hashed)
                offset, n_bytes = self._hashed - self._plan.starts[number], self._plan.files[number].n_bytes
                want = min(PIECE, self._limit - self._hashed, n_bytes - offset)
            try:
                piece = self._partial.read(Place(number, offset, want))
                if len(piece) < want:
                    raise OSError(errno.EIO, "the file has become shorter")
            except OSError as error:
                with self._wake:
                    self._problem = error
                    self._wake.notify_all()
                return
            self._hashes.update(piece)
            if offset + want == n_bytes:
                self._hashes.end_file()
            with self._wake:
                self._hashed += len(piece)
                self._wake.notify_all()

    def _file_at(self, position: int) -> int:
        return bisect.bisect_right(self._plan.starts, position) - 1

    def _flush_on(self) -> None:
        flushed = 0
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._ended, FLUSH_INTERVAL):
                    return
                due = range(self._file_at(flushed), self._file_at(self._limit) + 1) if self._limit > flushed else ()
                flushed = self._limit
            with contextlib.suppress(OSError):  # the last sync, which counts, will say it
                for number in due:
                    os.fdatasync(self._partial.files[number].descriptor)
                if due:
                    self._sync_journal()
