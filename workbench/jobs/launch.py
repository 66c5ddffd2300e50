"""Starting jobs, and telling running ones what is wanted."""

from __future__ import annotations

import time
from contextlib import closing, suppress

from ..errors import QuantdeckError, ResumeFailed
from ..processes import Detached, NoAnswer
from .ahead import supervisor_ahead
from .control import MAX_WORKERS, Wish
from .locks import is_free_within
from .snapshot import JobSnapshot
from .store import JobFolder, JobStore

DYING_SECONDS = 0.3
"""How long a killed process may look alive."""

CANCEL_PATIENCE = 20.0
"""Seconds within which a supervisor must have ended after a cancel."""


def start(store: JobStore, job_id: str, ahead: Detached | None = None) -> None:
    """Start a job's supervisor, detached from this program and its terminal; it waits for its turn by itself.

    `ahead` is one that is up already, of `supervisor_ahead`; if it died meanwhile, another one is started.

    Raises:
        QuantdeckError: it did not come up, in its own words (already running, store not writable ...).
    """
    folder = store.folder(job_id)
    task = folder.path, folder.log, f"Job {folder.id}"
    if ahead:
        with suppress(NoAnswer):
            ahead.take_charge(*task)
            return
    with closing(supervisor_ahead(0, str(folder.path))) as supervisor:
        supervisor.take_charge(*task)


def resume(store: JobStore, job_id: str) -> None:
    """Let a job go on: one that is paused, was cut off, has failed for a reason that is gone, or was never started.

    Raises:
        ResumeFailed: there is nothing to resume, or it cannot be.
    """
    folder = store.folder(job_id)
    snapshot = store.snapshot(folder.id)
    if snapshot.status in ("done", "cancelled"):
        raise ResumeFailed(f"Job {folder.id} is {snapshot.status}; there is nothing to resume.")
    if snapshot.status == "failed" and not snapshot.resumable:
        raise ResumeFailed(f"Job {folder.id} cannot be resumed ({snapshot.message}) Submit it again.")
    _wish(folder, "run")
    if snapshot.status in ("failed", "interrupted"):
        _wait_for_the_end(folder)
    if snapshot.status == "paused" and folder.is_alive:
        return
    # A supervisor that was killed just now still looks alive until the system has closed its files.
    if is_free_within(folder.lock, DYING_SECONDS):
        start(store, folder.id)


def _wait_for_the_end(folder: JobFolder) -> None:
    """A supervisor that has said its last word may still be closing its files."""
    if not is_free_within(folder.lock, CANCEL_PATIENCE):
        raise ResumeFailed(f"The process of job {folder.id} does not end; it may be waiting for a disk.")


def pause(store: JobStore, job_id: str) -> None:
    """Let the ranges in hand be finished, then halt; the next job in the queue may go on meanwhile."""
    folder = store.folder(job_id)
    _alive(folder, store.snapshot(folder.id), "pause")
    _wish(folder, "pause")


def cancel(store: JobStore, job_id: str) -> None:
    """End a job for good and remove its partial file; comes back when that is done. Nothing happens if it has ended."""
    folder = store.folder(job_id)
    if store.snapshot(folder.id).status in ("done", "cancelled"):
        return
    until = time.monotonic() + CANCEL_PATIENCE
    _wish(folder, "cancel")
    while not store.abandon(folder.id):
        if time.monotonic() > until:
            raise QuantdeckError(
                f"Job {folder.id} does not end; its process may be stopped (SIGSTOP) or waiting for a disk."
            )


def set_workers(store: JobStore, job_id: str, workers: int) -> None:
    """Use another number of worker processes from now on, also while the job runs."""
    if not 1 <= workers <= MAX_WORKERS:
        raise QuantdeckError(f"{workers} workers make no sense; choose 1 to {MAX_WORKERS}.")
    _change(store.folder(job_id), workers=workers)


def add_workers(store: JobStore, job_id: str, more: int) -> int:
    """Use so many workers more, or fewer, than were asked for last; at least one. The number that is wanted now."""
    folder = store.folder(job_id)
    wanted = max(1, min(MAX_WORKERS, folder.control(folder.spec()).read().workers + more))
    set_workers(store, job_id, wanted)
    return wanted


def set_nice(store: JobStore, job_id: str, nice: int) -> None:
    """Give the workers another nice level (-20 ... 19) from now on, also while the job runs."""
    if not -20 <= nice <= 19:
        raise QuantdeckError(f"A nice level of {nice} makes no sense; choose -20 to 19.")
    _change(store.folder(job_id), nice=nice)


def _alive(folder: JobFolder, snapshot: JobSnapshot, verb: str) -> None:
    if not folder.is_alive or snapshot.status in ("done", "failed", "cancelled"):
        raise QuantdeckError(f"Job {folder.id} is {snapshot.status}; there is nothing to {verb}.")


def _wish(folder: JobFolder, wish: Wish) -> None:
    _change(folder, wish=wish)


def _change(folder: JobFolder, **changes: object) -> None:
    try:
        folder.control(folder.spec()).change(**changes)
    except (OSError, TimeoutError) as error:
        raise QuantdeckError(f"The control file of job {folder.id} cannot be written: {error}.") from error
