"""Writing files so that nothing half-written ever stands under a final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, all of it or nothing, on disk before the name appears. Makes missing folders.

    If `path` is a symbolic link, the file it points to is replaced and the link stays. Permissions of a file that was
    there are kept; a new one can be read and written by its owner alone.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".quantdeck-", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            Path(temporary).chmod(path.stat().st_mode & 0o777)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock file `path` against other programs and other holders in this one; makes missing folders.

    TimeoutError if somebody else still holds it after `seconds`, another OSError where nothing can be locked.
    """
    from filelock import FileLock  # brings asyncio along, and most starts never write

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, "this file system has no locks") from error
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; systems that cannot sync a folder do without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_full(error: OSError) -> bool:
    """True if a write failed because its disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Hashes:
    """The SHA-256 of files that are read one after another: of each, and of all together, as of one long file."""

    def __init__(self) -> None:
        self.each: list[str] = []
        self._all = self._file = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Take in what comes next."""
        self._all.update(piece)
        if self.each:  # up to its end, the first file is all there is
            self._file.update(piece)

    def end_file(self) -> None:
        """Say that the next piece belongs to another file."""
        self.each.append(self._file.hexdigest())
        self._file = hashlib.sha256()

    @property
    def all(self) -> str:
        """The hash of everything so far; for one file its own."""
        return self._all.hexdigest()


def hashes(paths: Iterable[Path]) -> Hashes:
    """The SHA-256 of these files, each and all together, read in pieces of 4 MiB; OSError if one cannot be read."""
    found = Hashes()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(4 << 20):
                found.update(piece)
        found.end_file()
    return found


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    return hashes([path]).all
