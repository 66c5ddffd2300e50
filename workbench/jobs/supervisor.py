"""The process in charge of one job: detached from every terminal, it outlives the program that started it.

    lock -> wait for its turn -> check what an earlier run left -> hand ranges out -> verify -> rename -> register

Everything that happens goes into the journal, and what the user wants comes from the control file.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .. import processes
from ..errors import QuantdeckError, ResumeFailed, ValidationFailed
from ..files import is_full, sha256
from ..text import printable, size
from . import journal as events
from . import preflight
from .control import Control
from .cores import usable_cores
from .journal import JobEvent, JournalReader, JournalWriter
from .locks import Lock
from .partial import Companion, Partial, digest, discard
from .plan import Plan, Range
from .pool import Death, Farewell, Pool, Report, WorkerProcess, end_all
from .publish import Publication
from .snapshot import Fold
from .store import JobFolder
from .turns import Turn

if TYPE_CHECKING:
    from ..library import Entry
    from ..llama import Child

TICK = 0.1
"""Seconds between two looks at the control file."""

FILES_CHECK = 1.0
"""Seconds between two looks at the inputs' sizes and times."""

SUMMARY_INTERVAL = 1.0
"""Seconds between two summaries while ranges are being done."""

QUEUE_CHECK = 0.3
"""Seconds between two looks at the queue."""

SPACE_CHECK = 2.0
"""Seconds between two looks at the free space while the disk is full."""

LOCK_PATIENCE = 0.3
"""Seconds to try for a job's lock: those who only ask whether it is held have it for microseconds."""

LLAMA_AHEAD = 64 << 20
"""Weights that are left to do when the process that verifies is started: a second or two of work."""

MOST_OPEN_FILES = 4096

DEATHS_BY_RANGE = 2
DEATHS_AT_START = 3

T = TypeVar("T")


class Stop(Exception):
    """Told to end by a signal; the job can be resumed."""


class Cancel(Exception):
    """The user does not want the job any more."""


class Pause(Exception):
    """Halt until the user wants to go on, or until there is room for `needs` more bytes if the disk is full."""

    def __init__(self, reason: str = "", needs: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.needs = needs


class Hopeless(Exception):
    """The job fails, and what was done is of no use: the partial file goes. Carries the error to report."""

    def __init__(self, error: QuantdeckError) -> None:
        super().__init__(str(error))
        self.error = error


class Supervisor:
    """One job from the state that its folder shows to its end. The caller holds the job's lock."""

    def __init__(self, folder: JobFolder, reserve: list[WorkerProcess]) -> None:
        """Read the job; ResumeFailed if it is damaged, OSError if its journal cannot be written.

        The workers in `reserve`, which have no job, do the first ranges, if there is nothing to wait for.
        """
        self.folder = folder
        self.reserve = reserve
        self.summarized = 0.0
        self.spec = folder.spec()
        self.plan = Plan.read(folder.path)
        self.control = folder.control(self.spec)
        self.fold = Fold(folder.id, self.spec, self.plan)
        self.fold.apply(JournalReader(folder.journal).read())
        if self.fold.status in ("done", "cancelled"):
            raise ResumeFailed(f"Job {folder.id} is {self.fold.status} already.")
        self.journal = JournalWriter(folder.journal)
        self.unwritten: deque[JobEvent] = deque()
        self.stopping = False
        self.partial: Partial | None = None
        self.companion: Companion | None = None
        self.llama: _Task[Child] | None = None
        self.tasks = list(self.plan.ranges())
        self.frontier = 0
        self.source_seen = 0.0
        self.inodes: dict[str, int] = {}
        folder.summary_path.unlink(missing_ok=True)
        wanted = self.control.read()
        self.record(events.Started(pid=os.getpid(), workers=wanted.workers, nice=wanted.nice))

    def run(self) -> None:
        """Do the job; whatever happens ends up in the journal."""
        try:
            self.work()
        except Stop:
            self.record(events.Interrupted(reason="The job was stopped; resume it to go on."))
        except Cancel:
            self.remove_partial()
            self.finish(events.Cancelled())
        except Hopeless as failure:
            self.remove_partial()
            self.finish(events.Failed(reason=str(failure.error), exit_code=failure.error.exit_code))
        except QuantdeckError as error:
            self.finish(events.Failed(reason=str(error), resumable=True, exit_code=error.exit_code))
        except OSError as error:
            where = printable(str(error.filename or self.spec.partials[0]))
            self.finish(
                events.Failed(
                    reason=f"{where} could not be used: {error.strerror or error}; resume the job when it can.",
                    resumable=True,
                )
            )
        except Exception as error:
            traceback.print_exc()
            reason = (
                f"Something unforeseen happened ({type(error).__name__}: {printable(str(error))}); worker.log has more."
            )
            self.finish(events.Failed(reason=reason, resumable=True))
        finally:
            self.close()

    def work(self) -> None:
        """From the first check to the final name."""
        if self.published_before():
            return
        while True:
            turn = Turn(self.folder.path.parent, self.folder.id)
            try:
                self.wait_for_turn(turn)
                self.record(events.Running())
                self.check_before_start()
                self.open_partial()
                self.quantize()
                self.verify()
                self.publish()
                return
            except Pause as pause:
                reason = pause
            finally:
                turn.close()
                self.dismiss_llama()
            self.stay_paused(reason)

    # -- what comes in: signals and wishes ---------------------------------------------------------------------------

    def obey(self) -> Control:
        """Notice signals and wishes: raises Stop or Cancel, returns the rest."""
        if self.stopping:
            raise Stop
        if not self.folder.lock.exists():  # somebody removed the job's folder by hand: nobody can resume it
            raise Cancel
        wanted = self.control.read()
        if wanted.wish == "cancel":
            raise Cancel
        return wanted

    def wait_for_turn(self, turn: Turn) -> None:
        """Come back when no other job goes first; raises Pause if the user wants one meanwhile."""
        shown: list[str] | None = None
        while ahead := turn.ahead():
            self.dismiss_reserve()
            if ahead != shown:
                self.record(events.Waiting(ahead=tuple(ahead)))
                shown = ahead
            if self.obey().wish == "pause":
                raise Pause
            time.sleep(QUEUE_CHECK)
        if self.obey().wish == "pause":
            raise Pause

    def stay_paused(self, pause: Pause) -> None:
        """Come back when the user wants to go on, or when there is room again."""
        self.record(events.Paused(reason=pause.reason))
        if pause.needs is None:
            while self.obey().wish == "pause":
                time.sleep(TICK)
            return
        looked = time.monotonic()
        asked = self.control.stamp()
        while self.control.stamp() == asked or self.obey().wish == "pause":
            self.obey()
            time.sleep(TICK)
            if time.monotonic() - looked >= SPACE_CHECK and self.control.read().wish == "run":
                looked = time.monotonic()
                if shutil.disk_usage(Path(self.spec.output).parent).free >= pause.needs:
                    return

    # -- what goes out: the journal ----------------------------------------------------------------------------------

    def record(self, event: JobEvent) -> None:
        """Append to the journal. What it does not take now (a full store) is kept and tried again."""
        self.fold.apply([event])
        self.unwritten.append(event)
        self.write_events()
        often = isinstance(event, events.RangeDone | events.Working)
        if not often or time.monotonic() - self.summarized >= SUMMARY_INTERVAL:
            self.summarized = time.monotonic()
            self.folder.write_summary(self.fold.snapshot().summary)

    def write_events(self) -> bool:
        """Write what is waiting; False if the store still takes nothing."""
        while self.unwritten:
            try:
                self.journal.append(self.unwritten[0])
            except OSError:
                return False
            self.unwritten.popleft()
        return True

    def write_events_surely(self) -> None:
        """Come back when the journal has taken everything, or when told to end."""
        while not self.write_events() and not self.stopping and self.folder.lock.exists():
            time.sleep(TICK)

    def finish(self, event: JobEvent) -> None:
        """Journal the last event, and leave a summary for lists."""
        self.record(event)
        self.write_events_surely()
        with contextlib.suppress(OSError):
            self.journal.sync()

    # -- the partial files -------------------------------------------------------------------------------------------

    def check_before_start(self) -> None:
        """The output's place and the source, once more: time has passed since the job was prepared."""
        try:
            preflight.check_sources(self.plan)
        except ResumeFailed as error:
            raise Hopeless(error) from error
        preflight.check_output(self.spec, [Path(source.path) for source in self.plan.inputs])

    def open_partial(self) -> None:
        """Open the partial files and keep of them what an earlier run finished, checked by hash."""
        if self.partial:
            return
        try:
            self.partial = Partial(self.spec.partials, self.plan, fresh=not self.fold.ranges)
        except OSError as error:
            if not is_full(error):
                raise
            raise self.disk_full() from error
        self.companion = Companion(self.partial, self.journal.sync)
        if self.fold.ranges:
            self.recheck(self.partial)

    def recheck(self, partial: Partial) -> None:
        """Forget journalled ranges whose bytes are not in the file: a power cut may have lost them."""
        self.record(events.Running(step="checking what an earlier run finished"))
        lost = []
        for task, event in self.fold.ranges.items():
            self.obey()
            if digest(partial.read(self.plan.place(task))) != event.digest:
                lost.append((task.tensor, task.first))
        self.record(events.Rechecked(kept=len(self.fold.ranges) - len(lost), lost=tuple(lost)))
        self.record(events.Running())

    def disk_full(self) -> Pause:
        """The pause for a full disk."""
        folder = Path(self.spec.output).parent
        needs = self.plan.total - preflight.allocated(self.spec.partials)
        return Pause(
            f"{printable(str(folder))} is full, and {size(max(needs, 0))} must still be written; "
            "make room and the job goes on.",
            needs=max(needs, 1 << 16),
        )

    def remove_partial(self) -> None:
        """Nothing of the job stays beside the output."""
        self.release_partial()
        discard(self.spec.partials)

    def release_partial(self) -> None:
        """Close the partial files; they stay."""
        if self.companion:
            self.companion.close()
        if self.partial:
            self.partial.close()
        self.companion = self.partial = None

    def dismiss_reserve(self) -> None:
        """End the workers that have no job."""
        reserve, self.reserve = self.reserve, []
        end_all(reserve)

    def close(self) -> None:
        """Close everything; the journal gets what it did not take before if it takes it now."""
        self.dismiss_reserve()
        self.write_events()
        self.release_partial()
        self.journal.close()

    # -- ranges ------------------------------------------------------------------------------------------------------

    def quantize(self) -> None:
        """Hand out ranges until all are in the file."""
        todo = deque(task for task in self.tasks if task not in self.fold.ranges)
        self.advance()
        wanted = self.obey()
        reserve, self.reserve = self.reserve, []
        with Pool(self.folder.path, wanted.workers, wanted.nice, reserve) as pool:
            round_ = _Round(self, pool, todo)
            while todo or pool.busy or self.unwritten:
                round_.step()
                if self.fold.weights_left <= LLAMA_AHEAD:
                    self.call_llama()
        self.check_source_quickly(0)

    def advance(self) -> None:
        """Tell the companion how much of the output's beginning is final."""
        while self.frontier < len(self.tasks) and self.tasks[self.frontier] in self.fold.ranges:
            self.frontier += 1
        if self.companion:
            final = self.plan.total
            if self.frontier < len(self.tasks):
                place = self.plan.place(self.tasks[self.frontier])
                final = self.plan.starts[place.file] + place.offset
            self.companion.advance(final)

    def check_partial(self, number: int) -> None:
        """Fail if somebody laid hands on partial file `number`; a resumed job makes anew what is missing."""
        assert self.partial
        file = self.partial.files[number]
        if not file.is_intact():
            raise ResumeFailed(
                f"{printable(str(file.path))} was changed or removed while the job ran; "
                "resume the job, and what is missing is made again."
            )

    def check_source_quickly(self, interval: float) -> None:
        """Fail if the source is another file, or its size or time changed; looks at most every `interval` seconds."""
        if time.monotonic() - self.source_seen < interval:
            return
        self.source_seen = time.monotonic()
        for source in self.plan.inputs:
            shown = printable(source.path)
            try:
                number = Path(source.path).stat().st_ino
                unchanged = source.looks_unchanged()
            except OSError as error:
                raise ResumeFailed(
                    f"{shown} cannot be read any more: {error.strerror}; resume the job when it can."
                ) from error
            if not unchanged:
                raise Hopeless(ResumeFailed(f"{shown} changed while the job ran; submit the job again."))
            # A worker that starts later would read the other file. Some file systems number a file anew, though.
            if self.inodes.setdefault(source.path, number) != number:
                raise ResumeFailed(
                    f"{shown} was replaced by a file of the same size and time while the job ran; "
                    "resume the job if that is the same model, else cancel it."
                )

    # -- the end -----------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Hold the files against the plan, hash them, load them in llama.cpp, and have them on disk."""
        assert self.partial and self.companion
        self.record(events.Verifying(step="comparing the file with the plan"))
        sync = _Task(self.partial.sync)
        llama = _Task(self.ask_llama) if self.spec.verify else None
        check_layout(self.partial, self.plan)
        facts = {}
        if llama:
            self.record(events.Verifying(step="loading it in llama.cpp"))
            while not llama.done(TICK):
                self.obey()
            facts = llama.result()
        self.record(events.Verifying(step="hashing"))
        while (hashes := self.companion.hashes(TICK)) is None:
            self.obey()
        self.record(events.Verifying(step="waiting for the disk"))
        while not sync.done(TICK):
            self.obey()
        sync.result()
        self.check_source_quickly(0)
        for number in range(len(self.plan.files)):
            self.check_partial(number)
        self.record(events.Verified(sha256=hashes.all, facts=facts, files=tuple(hashes.each)))
        self.write_events_surely()
        self.journal.sync()

    def call_llama(self) -> None:
        """Have llama.cpp's process started and its modules imported while the workers still work."""
        if self.spec.verify and not self.llama:
            self.llama = _Task(self.start_llama)

    def start_llama(self) -> Child:
        """The process that will verify, and here what else verification needs."""
        from .. import library, model
        from ..llama import ready_child, verification

        assert model
        assert library
        assert verification
        return ready_child(self.folder.path, "verify")

    def dismiss_llama(self) -> None:
        """End llama.cpp's process, if there is one, without waiting for it; it ends with ours in any case."""
        called, self.llama = self.llama, None
        if called:
            _Task(lambda: called.wait().close())

    def ask_llama(self) -> dict[str, Any]:
        """Load the file in llama.cpp's child process; its facts, or ValidationFailed with its reason."""
        from ..llama import verify

        expected = [(tensor.name, tensor.type) for tensor in self.plan.tensors]
        # Where other work keeps the cores busy, llama.cpp's spinning threads wait for one another: few are faster.
        threads = max(1, min(self.fold.snapshot().workers, usable_cores() // 2))
        child = None
        if self.llama:
            with contextlib.suppress(QuantdeckError):  # it did not come up then; another one may now
                child = self.llama.wait()
        verification = verify(self.spec.partials[0], self.folder.path, expected, threads=threads, child=child)
        if not verification.ok:
            raise ValidationFailed(verification.problem)
        return {"tokens": verification.tokens, "text": verification.text, "seconds": round(verification.seconds, 3)}

    def publish(self) -> None:
        """Give the files their names and put them into the library."""
        publication = self.publication()
        there = [output for output in publication.waiting if output.exists()]
        if there and not self.spec.overwrite:
            raise preflight.OutputExists(
                f"{printable(str(there[0]))} has appeared while the job ran; move it away and resume the job."
            )
        publication.finish()
        self.register()

    def publication(self) -> Publication:
        """The files on their way to their names."""
        return Publication(self.spec, self.plan, self.fold.hashes)

    def published_before(self) -> bool:
        """True if an earlier run was cut off between the first rename and its last words; then the rest is done now."""
        publication = self.publication()
        if not publication.renamed:
            return False
        if not publication.is_whole:
            publication.take_back()
            return False
        self.publish()
        return True

    def register(self) -> None:
        """Put the result into the library, and end the job."""
        seconds = round(self.fold.work_seconds, 3)
        if self.spec.library:
            from ..library import Library

            try:
                Library(Path(self.spec.library)).add(self.library_entry(seconds))
            except (QuantdeckError, OSError) as error:
                self.record(events.Note(text=f"The model is made, but could not be registered: {error}"))
        done = events.Done(
            sha256=self.fold.sha256, n_bytes=self.plan.total, seconds=seconds, cpu_seconds=round(cpu_seconds(), 3)
        )
        self.finish(done)

    def library_entry(self, seconds: float) -> Entry:
        """What the library keeps of the result."""
        from ..library import Entry, EntryFile, Figure

        spec, plan = self.spec, self.plan
        tokens = self.fold.facts.get("tokens")
        checked = f"loaded in llama.cpp, {tokens} positions computed; " if spec.verify else "not loaded in llama.cpp; "
        errors = self.fold.snapshot().errors
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        figures: tuple[Figure, ...] = ()
        if errors.relative is not None:
            figures = (Figure("relative_error", errors.relative, now, {"sampled_weights": int(errors.n)}),)
        rows = zip(spec.outputs, plan.files, self.fold.hashes, strict=True)
        files = tuple(EntryFile(str(path), file.n_bytes, digest) for path, file, digest in rows)
        return Entry(
            sha256=self.fold.sha256,
            path=spec.output,
            source=spec.source,
            source_fingerprint=plan.source_fingerprint,
            architecture=spec.architecture,
            level=spec.level,
            n_bytes=plan.total,
            ratio=spec.source_bytes / plan.total,
            bits_per_weight=plan.bits_per_weight,
            seconds=seconds,
            created_at=now,
            recipe={name: value for name, value in spec.request.items() if value is not None},
            imatrix=spec.imatrix,
            imatrix_sha256=sha256(Path(spec.imatrix)) if spec.imatrix else "",
            verified=spec.verify,
            verification=checked + "header, tensors and hashes are as planned",
            figures=figures,
            files=files if len(files) > 1 else (),
            notes=spec.notes,
        )


class _Round:
    """One stretch of work with one pool of workers, until all is done or something halts it."""

    def __init__(self, job: Supervisor, pool: Pool, todo: deque[Range]) -> None:
        self.job = job
        self.pool = pool
        self.todo = todo
        self.deaths: Counter[Range] = Counter()
        self.deaths_at_start = 0
        self.tensor_of: dict[int, int] = {}
        self.halt: Pause | None = None

    def step(self) -> None:
        """Obey, hand out, gather; raises what ends the stretch early."""
        job, pool = self.job, self.pool
        wanted = job.obey()
        if wanted.wish == "pause" and not self.halt:
            self.halt = Pause()
        if (wanted.workers, wanted.nice) != (pool.size, pool.nice):
            self.settle(wanted)
        if self.halt and not pool.busy:
            raise self.halt
        job.check_source_quickly(FILES_CHECK)
        if job.write_events() and not self.halt:
            pool.start_missing(len(self.todo))
            self.hand_out()
        for report in pool.wait(TICK):
            match report:
                case Report():
                    self.take(report)
                case Death():
                    self.bury(report)
                case Farewell():
                    self.nothing_in_hand(report.worker)
            self.hand_out()

    def settle(self, wanted: Control) -> None:
        """Another number of workers or another nice level from now on."""
        if trouble := self.pool.settle(wanted.workers, wanted.nice):
            self.job.record(events.Note(text=trouble))
        self.job.record(events.SettingsChanged(workers=wanted.workers, nice=wanted.nice))

    def hand_out(self) -> None:
        """Give every idle worker a range."""
        if self.halt or self.job.unwritten:
            return
        for worker in self.pool.idle():
            if not self.todo:
                self.nothing_in_hand(worker)
                continue
            task = self.todo[0]
            if not self.pool.give(worker, task):
                continue
            self.todo.popleft()
            if self.tensor_of.get(worker) != task.tensor:
                self.tensor_of[worker] = task.tensor
                self.job.record(events.Working(worker=worker, tensor=task.tensor))

    def nothing_in_hand(self, worker: int) -> None:
        """Journal that a worker has no tensor any more."""
        if self.tensor_of.pop(worker, None) is not None:
            self.job.record(events.Working(worker=worker, tensor=-1))

    def take(self, report: Report) -> None:
        """Journal a finished range, or act on what went wrong with it."""
        values, task = report.values, report.task
        if "problem" not in values:
            self.deaths_at_start = 0
            done = events.RangeDone(
                worker=report.worker,
                tensor=task.tensor,
                first=task.first,
                count=task.count,
                digest=values["digest"],
                seconds=values["seconds"],
                errors=tuple(values["errors"]),
            )
            self.job.check_partial(self.job.plan.tensors[task.tensor].file)
            self.job.record(done)
            self.job.advance()
            return
        self.todo.appendleft(task)
        problem, text = values["problem"], values["text"]
        if problem == "space":
            self.halt = self.job.disk_full()
        elif problem == "weights":
            raise Hopeless(ValidationFailed(text))
        elif problem == "write":
            path = self.job.spec.partials[self.job.plan.tensors[task.tensor].file]
            raise QuantdeckError(f"{printable(str(path))} could not be written: {text}; resume the job when it can.")
        else:
            self.job.check_source_quickly(0)
            raise QuantdeckError(text)

    def bury(self, death: Death) -> None:
        """Take back what a dead worker had in hand, and fail if that is what kills them."""
        self.tensor_of.pop(death.worker, None)
        text = f"Worker {death.worker} {death.reason}."
        self.job.record(events.WorkerDied(worker=death.worker, reason=text))
        if death.task is None:
            self.deaths_at_start += not death.came_up
            if self.deaths_at_start >= DEATHS_AT_START:
                raise QuantdeckError(f"Workers do not come up: {death.reason}.")
            return
        self.todo.appendleft(death.task)
        self.deaths[death.task] += 1
        if self.deaths[death.task] >= DEATHS_BY_RANGE:
            name = printable(self.job.plan.tensors[death.task.tensor].name)
            last = death.task.first + death.task.count - 1
            raise QuantdeckError(
                f"Rows {death.task.first} to {last} of tensor {name} ended their worker twice, which {death.reason}; "
                "free memory or use fewer workers, then resume."
            )


class _Task(Generic[T]):
    """Something slow in a thread of its own."""

    def __init__(self, action: Callable[[], T]) -> None:
        self._action = action
        self._error: Exception | None = None
        self._value: list[T] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._action())
        except Exception as error:
            self._error = error

    def done(self, patience: float) -> bool:
        """True if it has ended, after waiting for at most so many seconds."""
        self._thread.join(patience)
        return not self._thread.is_alive()

    def wait(self) -> T:
        """Its value, or what it raised, when it has ended."""
        self._thread.join()
        return self.result()

    def result(self) -> T:
        """Its value, or what it raised."""
        if self._error:
            raise self._error
        return self._value[0]


def check_layout(partial: Partial, plan: Plan) -> None:
    """The files, read back by our strict reader, are what the plan says; ValidationFailed if not."""
    from ..model import read_model

    for file, planned in zip(partial.files, plan.files, strict=True):
        if not file.is_intact() or file.read(0, len(planned.header)) != planned.header:
            raise ValidationFailed(
                f"{printable(str(file.path))} is not as planned: its size or header differs; "
                "resume the job to write it again."
            )
    first = partial.files[0].path
    found = [(t.name, t.shape, t.type, t.file, t.offset, t.n_bytes) for t in read_model(first).tensors]
    if found != [(t.name, t.shape, t.type, t.file, t.offset, t.n_bytes) for t in plan.tensors]:
        raise ValidationFailed(f"{printable(str(first))} is not as planned: its list of tensors differs.")


def allow_open_files() -> None:
    """Let this process and its children have as many open files as a source and an output of many files take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < MOST_OPEN_FILES:
        most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def cpu_seconds() -> float:
    """CPU time of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(ready: int, workers: int) -> None:
    """Take charge of the job that we are told; a line on the descriptor `ready` says whether that worked.

    So many workers are started at once, to be up when the job is there.
    """
    processes.part()
    allow_open_files()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reserve = [WorkerProcess() for _ in range(workers)]
    job = JobFolder(processes.told())
    lock = Lock(job.lock)
    try:
        if not lock.acquire(LOCK_PATIENCE):
            raise ResumeFailed(f"Job {job.id} is already in the hands of another program.")
        supervisor = Supervisor(job, reserve)
    except (QuantdeckError, OSError) as error:
        text = (
            str(error)
            if isinstance(error, QuantdeckError)
            else f"The job's folder cannot be written: {error.strerror}."
        )
        processes.answer(ready, text)
        return
    signal.signal(signal.SIGTERM, lambda *_: setattr(supervisor, "stopping", True))
    processes.answer(ready)
    supervisor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
