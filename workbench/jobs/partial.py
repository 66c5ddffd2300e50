"""The output while it is made: `.NAME.partial` at full size, header and padding in place, hashed as it fills up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import BadArgument
from ..text import printable
from .locks import is_held
from .plan import Plan

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


def discard(path: Path) -> None:
    """Remove a partial file, unless another program is writing it (a job of another store with the same output)."""
    with contextlib.suppress(OSError):
        if not is_held(path):
            path.unlink(missing_ok=True)


class Partial:
    """The open partial file of one job, which no other supervisor may write at the same time."""

    def __init__(self, path: Path, plan: Plan, *, fresh: bool) -> None:
        """Open or make the file at full size; what an earlier run left in it is kept unless `fresh`.

        Raises:
            BadArgument: another program is making the same file.
            OSError: no space, no permission.
        """
        self.path = path
        self.plan = plan
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fresh:
                os.ftruncate(self.descriptor, 0)
            self._reserve()
            self._frame()
        except BlockingIOError:
            os.close(self.descriptor)
            raise BadArgument(f"Another program is writing {printable(str(path))}; wait for it or cancel it.") from None
        except BaseException:
            if fresh:  # where there was not room for all, the rest of the disk stays free for others
                with contextlib.suppress(OSError):
                    os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)
            raise

    def _reserve(self) -> None:
        """Full size, with its disk space where the file system can promise it."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.descriptor, 0, self.plan.total)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        os.ftruncate(self.descriptor, self.plan.total)

    def _frame(self) -> None:
        """Header and padding: all that no task writes."""
        write_all(self.descriptor, self.plan.header, 0)
        for offset, length in self.plan.gaps():
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
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and ours.st_size == self.plan.total

    def sync(self) -> None:
        """Wait until the file is on disk."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self.descriptor)


class Companion:
    """A thread beside the workers: hashes the file as its beginning is finished, and has it written to disk in time.

    So the hash of a file of any size is there a moment after its last range. It reads back what is in the file; that
    the workers' bytes are there is what the hash of the ranges is for.
    """

    def __init__(self, partial: Partial, sync_journal: Callable[[], None]) -> None:
        self._partial = partial
        self._sync_journal = sync_journal
        self._hash = hashlib.sha256()
        self._hashed = self._limit = 0
        self._wake = threading.Condition()
        self._ended = False
        self._problem: OSError | None = None
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._hash_on, self._flush_on)]
        for thread in self._threads:
            thread.start()

    def advance(self, limit: int) -> None:
        """Say that the first `limit` bytes of the file are final."""
        with self._wake:
            self._limit = max(self._limit, limit)
            self._wake.notify_all()

    def sha256(self, patience: float) -> str | None:
        """The hash of the whole file, None if it is not ready within `patience` seconds; OSError if reading failed."""
        with self._wake:
            self._wake.wait_for(lambda: self._problem or self._hashed >= self._partial.plan.total, patience)
            if self._problem:
                raise self._problem
            return self._hash.hexdigest() if self._hashed >= self._partial.plan.total else None

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
                want = min(PIECE, self._limit - self._hashed)
            try:
                piece = self._partial.read(self._hashed, want)
                if len(piece) < want:
                    raise OSError(errno.EIO, "the file has become shorter")
            except OSError as error:
                with self._wake:
                    self._problem = error
                    self._wake.notify_all()
                return
            self._hash.update(piece)
            with self._wake:
                self._hashed += len(piece)
                self._wake.notify_all()

    def _flush_on(self) -> None:
        flushed = 0
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._ended, FLUSH_INTERVAL):
                    return
                due = self._limit > flushed
                flushed = self._limit
            if due:
                with contextlib.suppress(OSError):  # the last sync, which counts, will say it
                    os.fdatasync(self._partial.descriptor)
                    self._sync_journal()
