"""All downloads: planned with every check first, run by processes of their own, watched by anybody."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadArgument, QuantdeckError, ResumeFailed, ValidationFailed
from ..jobs.folder import ids_in, make_folder
from ..jobs.journal import Cancelled, JournalWriter
from ..jobs.locks import Lock, is_free_within
from ..jobs.preflight import NotEnoughSpace
from ..processes import Detached
from ..text import printable, size
from .download_state import ENDED, DownloadFolder, DownloadRequest, DownloadSnapshot, DownloadWatch, WantedFile
from .names import Reference, local_name

if TYPE_CHECKING:
    from .client import Hub, Repository
    from .files import Offer

SPARE_BYTES = 64 << 20
STOP_PATIENCE = 30.0
FOLLOW_SECONDS = 0.25


def plan_download(hub: Hub, repository: Repository, offer: Offer, folder: Path) -> DownloadRequest:
    """Check everything that can be checked before the first byte: shards, names, access, room, what is there already.

    Raises:
        ValidationFailed: a shard is missing, or a name could do harm.
        AuthenticationNeeded: the token, or its absence, opens nothing.
        BadArgument: another file of that name is there, or the folder cannot be written.
        NotEnoughSpace: it does not fit.
    """
    if offer.missing:
        raise ValidationFailed(f"{offer.missing} shards of {printable(offer.name)} are not in the repository.")
    folder = folder.expanduser().absolute()
    files = tuple(WantedFile(f.path, local_name(f.path), f.n_bytes, f.sha256, f.git_sha1) for f in offer.parts)
    if not all(file.sha256 or file.git_sha1 for file in files):
        raise ValidationFailed(f"The Hub gives no hash for {printable(offer.name)}, so it could not be checked.")
    if len({file.name for file in files}) != len(files):
        raise ValidationFailed(f"Two files of {printable(offer.name or repository.id)} have the same name.")
    request = DownloadRequest(repository.id, repository.commit, str(folder), offer.kind, files)
    largest = max(files, key=lambda file: file.n_bytes)
    if largest.n_bytes:
        hub.read(Reference(repository.id, largest.path, repository.commit), 0, 1)
    _check_room(request)
    return request


def _check_room(request: DownloadRequest) -> None:
    folder = Path(request.folder)
    needed = 0
    for file in request.files:
        target = request.target(file)
        if target.exists():
            if not target.is_file() or target.stat().st_size != file.n_bytes:
                raise BadArgument(
                    f"{printable(str(target))} exists already and is another file; choose another folder."
                )
        else:
            needed += max(0, file.n_bytes - _size(request.partial(file)))
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise BadArgument(f"You may not write into {printable(str(place))}; choose another folder.")
    free = shutil.disk_usage(place).free
    if needed and needed + SPARE_BYTES > free:
        raise NotEnoughSpace(
            f"{printable(str(folder))} has {size(free)} free, and the download takes {size(needed)}; "
            "make room or choose another folder."
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Downloads:
    """All downloads under one folder, which is made with the first one."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    # -- looking -----------------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """The ids of all downloads, oldest first."""
        return ids_in(self.root)

    def folder(self, download_id: str) -> DownloadFolder:
        """The folder of a download, also by a unique beginning or end of its id; BadArgument if none fits."""
        ids = self.ids()
        fitting = [known for known in ids if download_id and known.startswith(download_id)]
        fitting = fitting or [known for known in ids if download_id and known.endswith(download_id)]
        exact = [download_id] if download_id in ids else fitting
        if len(exact) != 1:
            raise BadArgument(f"There is no one download {printable(download_id)}; quantdeck hub downloads lists them.")
        return DownloadFolder(self.root / exact[0])

    def watch(self, download_id: str) -> DownloadWatch:
        """For screens: `look()` gives the download now, again and again, at little cost."""
        return DownloadWatch(self.folder(download_id))

    def snapshot(self, download_id: str) -> DownloadSnapshot:
        """The download now."""
        return self.watch(download_id).look()

    def list(self) -> list[DownloadSnapshot]:
        """All downloads that can be read, oldest first."""
        found = []
        for name in self.ids():
            with contextlib.suppress(QuantdeckError):
                found.append(self.snapshot(name))
        return found

    def follow(self, download_id: str) -> Iterator[DownloadSnapshot]:
        """Snapshots until one that says that nothing happens any more."""
        watch = self.watch(download_id)
        while True:
            snapshot = watch.look()
            yield snapshot
            if snapshot.ended:
                return
            time.sleep(FOLLOW_SECONDS)

    # -- doing -------------------------------------------------------------------------------------------------------

    def begin(self, request: DownloadRequest) -> str:
        """Start a download, or go on with the same one if it was begun before; its id.

        BadArgument if another one writes to the same place; QuantdeckError if it cannot be started.
        """
        with self._alone():
            return self._begin(request)

    def _begin(self, request: DownloadRequest) -> str:
        targets = {str(request.target(file)) for file in request.files}
        for other in self.list():
            same = replace(other.request, tries=request.tries, first_wait=request.first_wait) == request
            if other.status in ENDED or not targets & {str(other.request.target(f)) for f in other.request.files}:
                continue
            if same:
                self.resume(other.id)
                return other.id
            if self.folder(other.id).is_alive:
                raise BadArgument(f"Download {other.id} writes to the same place; cancel it or choose another folder.")
        folder = self._new_folder(request)
        _start(folder)
        return folder.id

    def resume(self, download_id: str) -> None:
        """Let a download go on; nothing happens if it runs. ResumeFailed if it has ended for good."""
        folder = self.folder(download_id)
        snapshot = self.snapshot(folder.id)
        if snapshot.status in ENDED:
            raise ResumeFailed(f"Download {folder.id} is {snapshot.status}; there is nothing to resume.")
        if not snapshot.ended and not folder.stop.exists():
            return
        self._wait_for_the_end(folder)
        _start(folder)

    def pause(self, download_id: str) -> None:
        """Stop a download; what is there stays, and it can be resumed."""
        folder = self.folder(download_id)
        if folder.is_alive:
            self._ask(folder, "pause")
            self._wait_for_the_end(folder)

    def cancel(self, download_id: str) -> None:
        """End a download for good and remove its partial files; nothing happens if it has ended."""
        folder = self.folder(download_id)
        if self.snapshot(folder.id).status in ENDED:
            return
        self._ask(folder, "cancel")
        self._wait_for_the_end(folder)
        lock = Lock(folder.lock)
        try:
            if lock.acquire(1.0) and self.snapshot(folder.id).status not in ENDED:
                folder.request().remove_partials()
                journal = JournalWriter(folder.journal)
                journal.append(Cancelled())
                journal.close()
        except OSError as error:
            raise QuantdeckError(f"Download {folder.id} cannot be cleaned up: {error.strerror}.") from None
        finally:
            lock.release()

    def remove(self, download_id: str) -> None:
        """Forget a download that does not run; whole files stay. BadArgument while it runs."""
        folder = self.folder(download_id)
        if folder.is_alive:
            raise BadArgument(f"Download {folder.id} is running; cancel it first.")
        shutil.rmtree(folder.path, ignore_errors=True)

    def _ask(self, folder: DownloadFolder, wish: str) -> None:
        try:
            folder.stop.write_text(wish)
        except OSError as error:
            raise QuantdeckError(f"Download {folder.id} cannot be told to stop: {error.strerror}.") from None

    def _wait_for_the_end(self, folder: DownloadFolder) -> None:
        if not is_free_within(folder.lock, STOP_PATIENCE):
            raise QuantdeckError(f"Download {folder.id} does not end; it may be waiting for a disk.")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else begins a download meanwhile, so that two never write to one place."""
        lock = Lock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not lock.acquire(STOP_PATIENCE):
                raise QuantdeckError("Another program has been beginning a download for half a minute; try again.")
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            yield
        finally:
            lock.release()

    def _new_folder(self, request: DownloadRequest) -> DownloadFolder:
        try:
            folder = DownloadFolder(make_folder(self.root))
            request.write(folder.request_path)
        except OSError as error:
            raise self._unwritable(error) from None
        return folder

    def _unwritable(self, error: OSError) -> QuantdeckError:
        where = printable(str(self.root))
        return QuantdeckError(f"{where} cannot be written ({error.strerror}); make room, or set QUANTDECK_HOME.")


def _start(folder: DownloadFolder) -> None:
    with contextlib.closing(Detached(f"{__package__}.fetch", str(folder.path))) as fetcher:
        fetcher.take_charge(folder.path, folder.log, f"Download {folder.id}")
