"""The process that downloads: started detached, told to stop by a file, its journal the only way in which it speaks.

Bytes are appended to a hidden partial file beside the target; the target's name appears when the hash is right.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

from .. import processes
from ..errors import BadArgument, QuantdeckError, ValidationFailed
from ..files import is_full, sync_folder
from ..jobs.journal import Cancelled, Done, Failed, Interrupted, JobEvent, JournalWriter
from ..jobs.locks import Lock
from ..model.wording import shown
from ..text import printable, size
from .client import Hub, Patience, Unreachable
from .download_state import (
    CheckingHash,
    DownloadFolder,
    DownloadRequest,
    Fetching,
    FetchStarted,
    FileFetched,
    Retrying,
    WantedFile,
)
from .names import Reference

TICK_SECONDS = 0.5
LONGEST_WAIT = 60.0
_READ = 4 << 20


class _Stopped(Exception):
    """Somebody wants the download to end."""


class _WrongHash(Exception):
    """The bytes are not those that the Hub described."""


class Fetcher:
    """One run over one request."""

    def __init__(self, folder: DownloadFolder, request: DownloadRequest, journal: JournalWriter, hub: Hub) -> None:
        self._folder, self._request, self._journal, self._hub = folder, request, journal, hub
        self._ticked = 0.0

    def run(self) -> JobEvent:
        """Fetch everything; the event that says how it ended."""
        begun = time.monotonic()
        try:
            Path(self._request.folder).mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(self._request.files):
                self._file(number, file)
            return Done(self._request.files[0].sha256, self._request.n_bytes, time.monotonic() - begun)
        except _Stopped:
            return self._end_as_asked()
        except QuantdeckError as error:
            return Failed(str(error), resumable=not isinstance(error, ValidationFailed), exit_code=error.exit_code)
        except OSError as error:
            where = printable(self._request.folder)
            why = "is full; make room and resume" if is_full(error) else f"cannot be written: {error.strerror}"
            return Failed(f"The disk of {where} {why}.", resumable=True)

    def _end_as_asked(self) -> JobEvent:
        if _wish(self._folder) == "pause":
            return Interrupted("Paused; resume goes on where it stopped.")
        self._request.remove_partials()
        return Cancelled()

    def _file(self, number: int, file: WantedFile) -> None:
        target = self._request.target(file)
        if target.exists():
            self._say(CheckingHash(number))
            if target.stat().st_size != file.n_bytes or not self._is_right(target, file):
                raise BadArgument(
                    f"{shown(target)} exists already and is another file; move it away or choose a folder."
                )
            self._say(FileFetched(number))
            return
        partial = self._request.partial(file)
        resumed = partial.exists()
        try:
            self._fetch(number, file, partial)
        except _WrongHash:
            partial.unlink(missing_ok=True)
            if not resumed:
                raise _damaged(file) from None
            # The part that was there may have been torn by a power cut: once more from the start.
            try:
                self._fetch(number, file, partial)
            except _WrongHash:
                partial.unlink(missing_ok=True)
                raise _damaged(file) from None
        partial.replace(target)
        sync_folder(target.parent)
        self._say(FileFetched(number))

    def _fetch(self, number: int, file: WantedFile, partial: Path) -> None:
        """Append until all bytes are there, in as many connections as it takes, then hold them against the hash."""
        failures, wait = 0, self._request.first_wait
        with partial.open("ab") as output:
            if output.tell() > file.n_bytes:
                _empty(output)
            while (before := output.tell()) < file.n_bytes:
                try:
                    self._pour(number, file, output)
                except Unreachable as error:
                    output.flush()
                    if output.tell() > before:
                        failures, wait = 0, self._request.first_wait
                    failures += 1
                    if failures >= self._request.tries:
                        raise
                    self._pause(error, max(wait, error.wait or 0.0))
                    wait = min(2 * wait, LONGEST_WAIT)
            output.flush()
            os.fsync(output.fileno())
        self._say(CheckingHash(number))
        if not self._is_right(partial, file):
            raise _WrongHash

    def _pour(self, number: int, file: WantedFile, output: BinaryIO) -> None:
        """One connection: from where the partial file ends to the end of the file."""
        reference = Reference(self._request.repository, file.path, self._request.commit)
        done = output.tell()
        with self._hub.open(reference, done, file.n_bytes) as body:
            if body.total not in (-1, file.n_bytes):
                raise ValidationFailed(
                    f"{shown(file.path)} has {size(body.total)} on the server instead of {size(file.n_bytes)}."
                )
            if body.start != done:
                _empty(output)
                done = 0
            self._tick(number, done)
            for piece in body.pieces:
                if done + len(piece) > file.n_bytes:
                    raise ValidationFailed(f"The server sends more of {shown(file.path)} than there is.")
                output.write(piece)
                done += len(piece)
                self._tick(number, done)
        output.flush()
        self._say(Fetching(number, done))
        if done < file.n_bytes:
            raise Unreachable("The connection ended early.")

    def _tick(self, number: int, done: int) -> None:
        """Twice a second: say how far it is, and look whether to stop."""
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._say(Fetching(number, done))
            self._obey()

    def _obey(self) -> None:
        if _wish(self._folder):
            raise _Stopped

    def _pause(self, error: Unreachable, seconds: float) -> None:
        self._say(Retrying(str(error), seconds))
        until = time.monotonic() + min(seconds, 24 * 3600)
        while time.monotonic() < until:
            self._obey()
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))

    def _is_right(self, path: Path, file: WantedFile) -> bool:
        """Size and hash are as the Hub said: SHA-256 of a large file, git's blob hash of a small one."""
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.n_bytes, usedforsecurity=False)
        with path.open("rb") as content:
            while piece := content.read(_READ):
                digest.update(piece)
                self._obey()
            whole = content.tell() == file.n_bytes
        return whole and digest.hexdigest() in (file.sha256, file.git_sha1)

    def _say(self, event: JobEvent) -> None:
        self._journal.append(event)


def _empty(output: BinaryIO) -> None:
    output.seek(0)
    output.truncate()


def _damaged(file: WantedFile) -> ValidationFailed:
    return ValidationFailed(f"{shown(file.path)} arrived damaged: its hash is not the Hub's; try again later.")


def _wish(folder: DownloadFolder) -> str:
    """ "cancel", "pause", or "" while nobody wants it to end."""
    try:
        return folder.stop.read_text("utf-8", "replace")[:16] or "cancel"
    except OSError:
        return ""


def main(ready: int) -> None:
    """Fetch what the folder that we are told asks for; a line on the descriptor `ready` says that we do, or why not."""
    processes.part()
    folder = DownloadFolder(processes.told())
    lock = Lock(folder.lock)
    try:
        request = folder.request()
        if not lock.acquire(2.0):  # those who look whether it runs hold it for a moment
            processes.answer(ready, f"Download {folder.id} is running already.")
            return
        folder.stop.unlink(missing_ok=True)
        journal = JournalWriter(folder.journal)
        fetcher = Fetcher(folder, request, journal, Hub(Patience(tries=1)))
        journal.append(FetchStarted(os.getpid()))
    except QuantdeckError as error:
        processes.answer(ready, str(error))
        return
    except OSError as error:
        processes.answer(ready, f"{folder.path} cannot be written: {error.strerror}; make room there and resume.")
        return
    processes.answer(ready)
    journal.append(fetcher.run())
    journal.sync()


if __name__ == "__main__":
    main(int(sys.argv[1]))
