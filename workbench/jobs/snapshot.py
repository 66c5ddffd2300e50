"""The journal folded up: what a screen or a command shows of a job at one moment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from . import journal as events
from .journal import JobEvent
from .plan import Plan, PlannedTensor, Range
from .spec import JobSpec

Status = Literal["queued", "running", "paused", "verifying", "done", "failed", "cancelled", "interrupted"]

STATUSES: frozenset[str] = frozenset(get_args(Status))

ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})
"""Statuses that a job keeps unless somebody resumes it."""

CUT_OFF = "The job was cut off; resume it to go on from where it stopped."

RATE_WINDOW = 5.0
"""Seconds over which the rate is taken."""

HISTORY_POINTS = 240
"""Most points of the rate's history; when there are more, neighbours are joined."""


@dataclass(frozen=True)
class ErrorSums:
    """Sums over sampled weights w and their dequantized images q: what errors are computed from.

    `n` weights were sampled; `squares` is the sum of w^2, `error` of (w-q)^2; the weighted ones multiply each square by
    the weight's importance (1 where there is no importance matrix).
    """

    n: float = 0.0
    squares: float = 0.0
    error: float = 0.0
    weighted_squares: float = 0.0
    weighted_error: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def rmse(self) -> float | None:
        """Root of the mean squared error; None if nothing was sampled."""
        return math.sqrt(self.error / self.n) if self.n else None

    @property
    def relative(self) -> float | None:
        """Root of squared error over squared weights, 0 for exact; None if nothing was sampled."""
        return _ratio(self.error, self.squares) if self.n else None

    @property
    def weighted_relative(self) -> float | None:
        """The same with each square weighted by its importance."""
        return _ratio(self.weighted_error, self.weighted_squares) if self.n else None


def _ratio(error: float, squares: float) -> float:
    return math.sqrt(error / squares) if squares > 0 else 0.0


@dataclass(frozen=True)
class TensorProgress:
    """One tensor of a job. `errors` are over `errors.n` sampled weights of the finished rows."""

    tensor: PlannedTensor
    rows_done: int
    errors: ErrorSums

    @property
    def done(self) -> bool:
        """True if every row is in the file."""
        return self.rows_done >= self.tensor.n_rows


@dataclass(frozen=True)
class JobSummary:
    """One line of the list of jobs. Sizes in bytes, `fraction` 0..1, `created` and `ended` in seconds since 1970."""

    id: str
    status: Status
    level: str
    source: str
    output: str
    architecture: str = ""
    created: float = 0.0
    ended: float = 0.0
    fraction: float = 0.0
    source_bytes: int = 0
    output_bytes: int = 0
    n_weights: int = 0
    seconds: float = 0.0
    sha256: str = ""
    message: str = ""
    exit_code: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class JobSnapshot:
    """A job at one moment.

    `bytes_done` and `weights_done` count finished ranges of the output; rates are over the last seconds (0 when nothing
    runs); `seconds_left` is None while it cannot be told. `working` maps a worker to the tensor that it has in hand.
    `rate_history` holds (seconds of work since the job began, weights a second). `message` is the sentence that
    matters now (why it failed or pauses, who goes first), `notes` are all sentences so far. `seconds` counts work,
    not waiting. `sha256` is the hash of the output, `hashes` are those of its files; empty until it is verified.
    """

    id: str
    status: Status
    spec: JobSpec
    plan: Plan = field(repr=False)
    bytes_done: int
    weights_done: int
    bytes_per_second: float
    weights_per_second: float
    seconds: float
    seconds_left: float | None
    workers: int
    nice: int
    working: dict[int, str]
    rate_history: tuple[tuple[float, float], ...]
    message: str
    notes: tuple[str, ...]
    step: str
    created: float
    ended: float
    sha256: str
    facts: dict[str, Any]
    exit_code: int
    resumable: bool
    garbled_lines: int
    hashes: tuple[str, ...]
    tensors: tuple[TensorProgress, ...] = field(repr=False)

    @property
    def fraction(self) -> float:
        """Weights done, 0..1."""
        if self.status == "done":
            return 1.0
        return self.weights_done / self.plan.n_weights if self.plan.n_weights else 0.0

    @property
    def ended_for_good(self) -> bool:
        """True if nothing will happen to the job any more unless somebody asks."""
        return self.status in ENDED or self.status == "interrupted"

    @property
    def waits_for_space(self) -> bool:
        """True if the disk is full: the job goes on by itself when there is room, and `message` says how much."""
        return self.status == "paused" and bool(self.message)

    @cached_property
    def errors(self) -> ErrorSums:
        """The sampled errors of all quantized tensors together."""
        return sum((t.errors for t in self.tensors if not t.tensor.copied), ErrorSums())

    @property
    def summary(self) -> JobSummary:
        """The job as one line of a list."""
        return JobSummary(
            id=self.id,
            status=self.status,
            level=self.spec.level,
            source=self.spec.source,
            output=self.spec.output,
            architecture=self.spec.architecture,
            created=self.created,
            ended=self.ended,
            fraction=self.fraction,
            source_bytes=self.spec.source_bytes,
            output_bytes=self.plan.total,
            n_weights=self.plan.n_weights,
            seconds=self.seconds,
            sha256=self.sha256,
            message=self.message,
            exit_code=self.exit_code,
        )


class Fold:
    """Takes events in and gives snapshots out. Garbled or repeated events do no harm."""

    def __init__(self, job_id: str, spec: JobSpec, plan: Plan) -> None:
        self.id = job_id
        self.spec = spec
        self.plan = plan
        self.status: Status = "queued"
        self.ranges: dict[Range, events.RangeDone] = {}
        self.garbled_lines = 0
        self.runs = 0
        self._tensor_ranges: list[dict[int, events.RangeDone]] = [{} for _ in plan.tensors]
        self._progress: list[TensorProgress | None] = [None] * len(plan.tensors)
        self._workers, self._nice = spec.workers, spec.nice
        self._working: dict[int, int] = {}
        self._message = self._step = self._sha256 = ""
        self._notes: list[str] = []
        self._facts: dict[str, Any] = {}
        self._hashes: tuple[str, ...] = ()
        self._created = self._ended = 0.0
        self._exit_code = 0
        self._resumable = True
        self._work_seconds = 0.0
        self._work_began: float | None = None
        self._last_clock = 0.0
        self._recent: deque[tuple[float, int, int]] = deque()
        self._history = _History()
        self._weights_done = self._bytes_done = 0

    def apply(self, new: Iterable[JobEvent]) -> None:
        """Take events in, in the journal's order."""
        for event in new:
            self._one(event)

    def _one(self, event: JobEvent) -> None:
        clock = self._last_clock = event.clock
        match event:
            case events.RangeDone():
                self._range_done(event)
            case events.Working():
                self._worker_took(event)
            case events.Created():
                self._created = event.at
            case events.Started():
                self._started(event)
            case events.Rechecked():
                for tensor, first in event.lost:
                    self._forget(tensor, first)
            case events.Running():
                self._go(clock, "running", event.step)
            case events.Waiting():
                self._halt(clock, "queued", "Waits for " + ", ".join(event.ahead) if event.ahead else "")
            case events.Paused():
                self._halt(clock, "paused", event.reason)
            case events.SettingsChanged():
                self._workers, self._nice = event.workers, event.nice
            case events.WorkerDied():
                self._working.pop(event.worker, None)
                self._notes.append(event.reason)
            case events.Note():
                self._notes.append(event.text)
            case events.Verifying():
                self._go(clock, "verifying", "")
                self._step = event.step
            case events.Verified():
                self._sha256, self._facts = event.sha256, event.facts
                self._hashes = event.files or (event.sha256,)  # older versions make one file
            case events.Interrupted():
                self._halt(clock, "interrupted", event.reason)
            case events.Failed():
                self._end(event, "failed", event.reason, event.exit_code)
                self._resumable = event.resumable
            case events.Cancelled():
                self._end(event, "cancelled", "", 1)
                self._resumable = False
            case events.Done():
                self._end(event, "done", "", 0)
                self._sha256, self._work_seconds, self._resumable = event.sha256, event.seconds, False

    def _started(self, event: events.Started) -> None:
        self.runs += 1
        # The clock may have begun anew with another boot; what the last run still had under way is not known.
        self._work_began, self._ended, self._exit_code, self._resumable = None, 0.0, 0, True
        self._recent.clear()
        self._workers, self._nice = event.workers, event.nice
        self._go_status("queued", "")

    def _range_done(self, event: events.RangeDone) -> None:
        task = Range(event.tensor, event.first, event.count)
        if task in self.ranges or not self._is_task(task):
            return
        tensor = self.plan.tensors[task.tensor]
        weights, n_bytes = task.count * tensor.row_length, task.count * tensor.row_bytes
        self.ranges[task] = event
        self._tensor_ranges[task.tensor][task.first] = event
        self._progress[task.tensor] = None
        self._weights_done += weights
        self._bytes_done += n_bytes
        self._recent.append((event.clock, weights, n_bytes))
        while self._recent and self._recent[0][0] < event.clock - RATE_WINDOW:
            self._recent.popleft()
        self._history.add(self._seconds(event.clock), weights)

    def _is_task(self, task: Range) -> bool:
        """True if the plan cuts this range; a garbled line may name any."""
        if not 0 <= task.tensor < len(self.plan.tensors):
            return False
        tensor = self.plan.tensors[task.tensor]
        step = max(1, self.plan.range_weights // max(1, tensor.row_length))
        return (
            0 <= task.first < tensor.n_rows
            and not task.first % step
            and task.count == min(step, tensor.n_rows - task.first)
        )

    def _forget(self, index: int, first: int) -> None:
        if not 0 <= index < len(self.plan.tensors):
            return
        event = self._tensor_ranges[index].pop(first, None)
        if event:
            tensor = self.plan.tensors[index]
            del self.ranges[Range(event.tensor, event.first, event.count)]
            self._progress[index] = None
            self._weights_done -= event.count * tensor.row_length
            self._bytes_done -= event.count * tensor.row_bytes

    def _worker_took(self, event: events.Working) -> None:
        if 0 <= event.tensor < len(self.plan.tensors):
            self._working[event.worker] = event.tensor
        else:
            self._working.pop(event.worker, None)

    def _go(self, clock: float, status: Status, message: str) -> None:
        if self._work_began is None:
            self._work_began = clock
            self._recent.clear()
        self._go_status(status, message)

    def _go_status(self, status: Status, message: str) -> None:
        if status != "running":
            self._working.clear()
        self.status, self._message = status, message

    def _halt(self, clock: float, status: Status, message: str) -> None:
        if self._work_began is not None:
            self._work_seconds += max(0.0, clock - self._work_began)
            self._work_began = None
        self._go_status(status, message)

    def _end(self, event: JobEvent, status: Status, message: str, exit_code: int) -> None:
        self._halt(event.clock, status, message)
        self._ended, self._exit_code = event.at, exit_code

    def _seconds(self, clock: float) -> float:
        running = max(0.0, clock - self._work_began) if self._work_began is not None else 0.0
        return self._work_seconds + running

    def lost_supervisor(self) -> None:
        """Say that nobody is in charge of the job although its journal has not ended."""
        if self.status not in ENDED and self.status != "interrupted":
            self._halt(self._last_clock, "interrupted", CUT_OFF)

    @property
    def sha256(self) -> str:
        """Hash of all files one after another, empty as long as they are not verified."""
        return self._sha256

    @property
    def hashes(self) -> tuple[str, ...]:
        """Hash of each file, none as long as they are not verified."""
        return self._hashes

    @property
    def facts(self) -> dict[str, Any]:
        """What llama.cpp said of the file."""
        return self._facts

    @property
    def weights_left(self) -> int:
        """Weights that are not in the file yet."""
        return self.plan.n_weights - self._weights_done

    @property
    def work_seconds(self) -> float:
        """Seconds of work up to the last event."""
        return self._seconds(self._last_clock)

    def snapshot(self, clock: float | None = None) -> JobSnapshot:
        """The job now; `clock` is `time.monotonic()` of the same machine, the last event's time without it."""
        now = self._last_clock
        if clock is not None and self._work_began is not None and clock > now:
            now = clock
        weights_rate, bytes_rate = self._rates(now)
        left = self.plan.n_weights - self._weights_done
        return JobSnapshot(
            id=self.id,
            status=self.status,
            spec=self.spec,
            plan=self.plan,
            bytes_done=self._bytes_done,
            weights_done=self._weights_done,
            bytes_per_second=bytes_rate,
            weights_per_second=weights_rate,
            seconds=self._seconds(now),
            seconds_left=left / weights_rate if weights_rate > 0 else None,
            workers=self._workers,
            nice=self._nice,
            working={worker: self.plan.tensors[index].name for worker, index in sorted(self._working.items())},
            rate_history=self._history.points(),
            message=self._message,
            notes=tuple(self._notes),
            step=self._step if self.status == "verifying" else "",
            created=self._created,
            ended=self._ended,
            sha256=self._sha256,
            facts=self._facts,
            exit_code=self._exit_code,
            resumable=self._resumable and (self.status in ("failed", "interrupted", "paused") or not self.runs),
            garbled_lines=self.garbled_lines,
            hashes=self._hashes,
            tensors=tuple(self._tensor(index) for index in range(len(self.plan.tensors))),
        )

    def _rates(self, now: float) -> tuple[float, float]:
        """Weights and bytes a second over the window that ends now."""
        if self.status != "running" or self._work_began is None:
            return 0.0, 0.0
        recent = [entry for entry in self._recent if entry[0] >= now - RATE_WINDOW]
        span = min(RATE_WINDOW, now - self._work_began)
        if not recent or span <= 0:
            return 0.0, 0.0
        return sum(w for _, w, _ in recent) / span, sum(b for _, _, b in recent) / span

    def _tensor(self, index: int) -> TensorProgress:
        progress = self._progress[index]
        if progress is None:
            done = self._tensor_ranges[index].values()
            sums = sum((ErrorSums(*event.errors) for event in done if len(event.errors) == 5), ErrorSums())
            progress = TensorProgress(self.plan.tensors[index], sum(event.count for event in done), sums)
            self._progress[index] = progress
        return progress


class _History:
    """Weights by equal slices of time; slices double in length when there are too many."""

    def __init__(self) -> None:
        self._slice = 1.0
        self._weights: list[float] = []

    def add(self, seconds: float, weights: float) -> None:
        while seconds / self._slice >= HISTORY_POINTS:
            pairs = self._weights + [0.0] * (len(self._weights) % 2)
            self._weights = [a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
            self._slice *= 2
        index = int(seconds / self._slice)
        self._weights += [0.0] * (index + 1 - len(self._weights))
        self._weights[index] += weights

    def points(self) -> tuple[tuple[float, float], ...]:
        return tuple((i * self._slice, weights / self._slice) for i, weights in enumerate(self._weights))


def fold(job_id: str, spec: JobSpec, plan: Plan, all_events: Iterable[JobEvent]) -> JobSnapshot:
    """The snapshot after all these events."""
    folded = Fold(job_id, spec, plan)
    folded.apply(all_events)
    return folded.snapshot()
