"""The job store: one folder a job, readable by any number of programs, written by one supervisor each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import BadArgument, QuantdeckError, ResumeFailed
from ..files import is_full
from ..text import printable
from .control import Control, ControlFile
from .folder import WorkFolder, ids_in, make_folder
from .journal import Cancelled, Created, Done, Failed, Interrupted, JournalReader, JournalWriter, decode
from .locks import Lock
from .partial import discard
from .plan import Plan
from .publish import Publication
from .snapshot import CUT_OFF, ENDED, STATUSES, Fold, JobSnapshot, JobSummary
from .spec import JobSpec

FOLLOW_INTERVAL = 0.25
"""Seconds between two snapshots of a job that is being followed."""

LOOK_INTERVAL = 0.03
"""Seconds within which a follower notices the end of a job."""

JOURNAL_TAIL = 1 << 16
"""Bytes at the end of a journal that surely hold its last event."""


@dataclass(frozen=True)
class JobFolder(WorkFolder):
    """The files of one job."""

    @property
    def spec_path(self) -> Path:
        """What was asked."""
        return self.path / "spec.toml"

    @property
    def log(self) -> Path:
        """What the supervisor and its workers wrote on their standard error."""
        return self.path / "worker.log"

    @property
    def summary_path(self) -> Path:
        """The job as one line of a list, so that lists need not read its journal: a second old while it runs."""
        return self.path / "summary.json"

    def spec(self) -> JobSpec:
        """What was asked; ResumeFailed if it is missing or damaged."""
        return JobSpec.read(self.spec_path)

    def control(self, spec: JobSpec) -> ControlFile:
        """What is wanted now."""
        return ControlFile(self.path, Control("run", spec.workers, spec.nice))

    def write_summary(self, summary: JobSummary) -> None:
        """Leave a summary, without waiting for the disk, since only the journal counts; a full store does without."""
        new = self.path / ".summary.new"
        with contextlib.suppress(OSError):
            new.write_bytes(json.dumps(summary.as_dict()).encode())
            new.replace(self.summary_path)

    def summary_stamp(self) -> tuple[int, int, int] | None:
        """Something that is another thing after each change of the summary, None if there is none."""
        try:
            status = self.summary_path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def read_summary(self) -> JobSummary | None:
        """The summary if it can be trusted: the job has ended, or its supervisor lives and renews it."""
        try:
            values = json.loads(self.summary_path.read_bytes())
            summary = JobSummary(**{f.name: values[f.name] for f in fields(JobSummary)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if summary.id != self.id or summary.status not in STATUSES:
            return None
        if summary.status in ENDED or self.is_alive:
            return summary
        return None if self._has_ended() else replace(summary, status="interrupted", message=CUT_OFF)

    def _has_ended(self) -> bool:
        """True if the journal's last event ends the job, or if it cannot be told."""
        try:
            with self.journal.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - JOURNAL_TAIL))
                last = decode(file.read().rstrip(b"\n").rsplit(b"\n", 1)[-1])
        except OSError:
            return True
        return last is None or isinstance(last, Done | Failed | Cancelled | Interrupted)


class JobWatch:
    """Follows one job at little cost: each look reads only what is new in the journal."""

    def __init__(self, folder: JobFolder) -> None:
        """Begin to follow; ResumeFailed if spec or plan is missing or damaged."""
        self.folder = folder
        self._fold = Fold(folder.id, folder.spec(), Plan.read(folder.path))
        self._reader = JournalReader(folder.journal)

    def look(self) -> JobSnapshot:
        """The job now."""
        alive = self.folder.is_alive
        self._fold.apply(self._reader.read())
        self._fold.garbled_lines = self._reader.garbled
        if not alive and self._was_started:
            self._fold.lost_supervisor()
        return self._fold.snapshot(time.monotonic() if alive else None)

    @property
    def _was_started(self) -> bool:
        return self._fold.runs > 0


class JobStore:
    """All jobs under one folder, which is made when the first job is written."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._ended: dict[str, tuple[tuple[int, int, int], JobSummary]] = {}

    def folder(self, job_id: str) -> JobFolder:
        """The folder of a job, also by the beginning or end of its id if only one fits; BadArgument if none does."""
        ids = self.ids()
        if job_id in ids:
            return JobFolder(self.root / job_id)
        matches = [known for known in ids if job_id and (known.startswith(job_id) or known.endswith(job_id))]
        if len(matches) == 1:
            return JobFolder(self.root / matches[0])
        if matches:
            raise BadArgument(
                f"Several jobs fit {printable(job_id)}: {', '.join(matches[:5])}; name one of them in full."
            )
        raise BadArgument(f"There is no job {printable(job_id)}; `quantdeck jobs` lists them.")

    def ids(self) -> list[str]:
        """The ids of all jobs, oldest first. A store that is not there has none."""
        return ids_in(self.root)

    def list(self) -> list[JobSummary]:
        """All jobs, oldest first; each costs one small file, whatever its size. Running ones are up to a second old."""
        return [summary for job_id in self.ids() if (summary := self.summary(job_id)) is not None]

    def summary(self, job_id: str) -> JobSummary | None:
        """One line on a job, None if it was removed meanwhile. A damaged job says so."""
        folder = JobFolder(self.root / job_id)
        stamp = folder.summary_stamp()
        if stamp and (known := self._ended.get(job_id)) and known[0] == stamp:
            return known[1]
        if summary := folder.read_summary():
            if stamp and summary.status in ENDED:
                self._ended[job_id] = stamp, summary
            return summary
        try:
            return JobWatch(folder).look().summary
        except QuantdeckError as error:
            if not folder.path.is_dir():
                return None
            return JobSummary(job_id, "failed", "", "", "", message=str(error), exit_code=error.exit_code)

    def snapshot(self, job_id: str) -> JobSnapshot:
        """The job now; BadArgument for an unknown id, ResumeFailed if spec or plan is missing or damaged."""
        return self.watch(job_id).look()

    def watch(self, job_id: str) -> JobWatch:
        """For screens: a watch whose `look()` gives the job now, again and again, at little cost."""
        return JobWatch(self.folder(job_id))

    def follow(self, job_id: str, interval: float = FOLLOW_INTERVAL) -> Iterator[JobSnapshot]:
        """Snapshots of a job every `interval` seconds, and at once one that says that nothing will happen any more."""
        watch = self.watch(job_id)
        due = 0.0
        while True:
            snapshot = watch.look()
            if snapshot.ended_for_good or time.monotonic() >= due:
                due = time.monotonic() + interval
                yield snapshot
            if snapshot.ended_for_good:
                return
            time.sleep(min(interval, LOOK_INTERVAL))

    def live(self) -> Iterator[tuple[JobFolder, JobSpec]]:
        """Jobs that have not ended, and what they were asked: running, waiting, paused, interrupted, never started."""
        for job_id in self.ids():
            folder = JobFolder(self.root / job_id)
            summary = self.summary(job_id)
            if summary and summary.status not in ENDED:
                with contextlib.suppress(ResumeFailed):
                    yield folder, folder.spec()

    def create(self, spec: JobSpec, plan: Plan) -> str:
        """Write a new job and return its id; QuantdeckError if the store cannot be written."""
        try:
            folder = make_folder(self.root, spec.level.lower())
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            plan.write(folder)
            journal = JournalWriter(folder / "journal.jsonl")
            journal.append(Created())
            journal.sync()
            journal.close()
            spec.write(folder / "spec.toml")
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise
        return folder.name

    def _unwritable(self, error: OSError) -> QuantdeckError:
        what = "is full" if is_full(error) else "cannot be written"
        return QuantdeckError(
            f"The job store {printable(str(self.root))} {what} ({error.strerror}); "
            "make room, or set QUANTDECK_HOME to another folder."
        )

    def abandon(self, job_id: str) -> bool:
        """Cancel a job that has no supervisor: its partial file goes. False if a supervisor is in charge after all."""
        folder = self.folder(job_id)
        lock = Lock(folder.lock)
        try:
            if not lock.acquire(1.0):
                return False
            try:
                snapshot = JobWatch(folder).look()
                if snapshot.status in ("done", "cancelled"):
                    return True
                _withdraw(snapshot)
                journal = JournalWriter(folder.journal)
                journal.append(Cancelled())
                journal.close()
                folder.write_summary(JobWatch(folder).look().summary)
            finally:
                lock.release()
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended; BadArgument while it has not. Its output stays."""
        folder = self.folder(job_id)
        summary = self.summary(folder.id)
        lock = Lock(folder.lock)
        try:
            if (summary and summary.status not in ENDED) or not lock.acquire(1.0):
                raise BadArgument(f"Job {folder.id} has not ended; cancel it first.")
            if summary and summary.status == "failed":
                self._remove_partial(folder)
            shutil.rmtree(folder.path)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            lock.release()

    def _remove_partial(self, folder: JobFolder) -> None:
        """What a failed job left beside its output goes, unless another job is at the same file now."""
        with contextlib.suppress(ResumeFailed, OSError):
            snapshot = JobWatch(folder).look()
            output = snapshot.spec.output
            if all(other.output != output for other_folder, other in self.live() if other_folder != folder):
                _withdraw(snapshot)


def _withdraw(job: JobSnapshot) -> None:
    """Nothing unfinished of a job that has no supervisor stays beside its output, under whatever name."""
    Publication(job.spec, job.plan, job.hashes).take_back()
    discard(job.spec.partials)
