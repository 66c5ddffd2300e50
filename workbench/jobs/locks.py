"""Locks between programs: held by an open file, so that the system lets go of them when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType


class Lock:
    """An exclusive lock on a file, which is made when needed. Children do not inherit it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Try for `patience` seconds; False if another program holds the lock. OSError where no file can be made."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        give_up = time.monotonic() + patience
        while not _take(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return False
            time.sleep(0.01)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go; nothing happens if the lock is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        """Wait for the lock for half a minute; TimeoutError after that."""
        if not self.acquire(30.0):
            raise TimeoutError(f"{self.path} has been locked by another program for half a minute")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """True if some living program holds the lock `path`. Asks with a shared lock, so askers do not see one another."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def is_free_within(path: Path, seconds: float) -> bool:
    """True once nobody holds the lock `path`; False if somebody still does after so many seconds."""
    give_up = time.monotonic() + seconds
    while is_held(path):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
