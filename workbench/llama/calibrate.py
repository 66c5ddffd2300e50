"""Calibrate: run a text through a model and write its importance matrix, with what the text never reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadArgument, QuantdeckError
from ..text import printable
from .contract import LoadSettings
from .corpus import read_corpus
from .host import Child, Patience
from .llama import Watch, start
from .troubles import Cancelled

if TYPE_CHECKING:
    from ..imatrix import ImatrixFile
    from ..model import Model


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate. `context` tokens a chunk; `chunks` 0 for all; `parse_special` None decides by the text.

    `with_output` also weighs output.weight, which llama.cpp's mixes hold in many bits anyway.
    """

    context: int = 512
    chunks: int = 0
    parse_special: bool | None = None
    with_output: bool = False
    threads: int | None = None
    gpu_layers: int = -1


@dataclass(frozen=True)
class CalibrationProgress:
    """Where a calibration stands: `done` of `chunks`, `resumed` of them by an earlier run, `seconds_left` estimated."""

    done: int
    chunks: int
    resumed: int
    parse_special: bool
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class Calibration:
    """A finished calibration: the file, and what went into it."""

    path: Path
    chunks: int
    tokens: int
    resumed: int
    parse_special: bool
    seconds: float


@dataclass(frozen=True)
class Coverage:
    """What an importance matrix does not cover of a model: whole weights, and experts of a weight by their numbers.

    `rare` are experts that were reached, but by fewer than `few` tokens: little to go by.
    """

    covered: int
    missing: tuple[str, ...]
    experts: dict[str, tuple[int, ...]]
    rare: dict[str, tuple[int, ...]]
    few: int

    @property
    def complete(self) -> bool:
        """True if every weight and every expert was reached."""
        return not self.missing and not self.experts


def calibrate(
    model: Path,
    corpus: Path,
    output: Path,
    log_folder: Path,
    settings: CalibrationSettings | None = None,
    on_progress: Callable[[CalibrationProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience | None = None,
    child: Child | None = None,
) -> Calibration:
    """Write the importance matrix of `model` on `corpus` (see `read_corpus`) to `output` as GGUF; blocks.

    A hidden file beside `output` holds the sums after every chunk: called again after a cancel or a crash with the same
    text, model and settings, it goes on there. Raises `Cancelled`, `LlamaFailed`, and BadArgument for bad texts and
    for an output that `check_output` refuses. `child` is one without a model that is there already; it is used up.
    """
    settings = settings or CalibrationSettings()
    _check(settings)
    check_output(output)
    read_corpus(corpus)  # its faults are told before a model is loaded
    began = time.monotonic()
    load = LoadSettings(threads=settings.threads, gpu_layers=settings.gpu_layers)
    child, _ = start(model, load, log_folder, None, cancelled, patience, "calibrate", child)
    run = _Run(began, on_progress)
    try:
        with Watch(cancelled, child):
            request = child.request(
                f"{printable(model.name)} could not be calibrated",
                "calibrate",
                corpus=str(corpus.absolute()),
                output=str(output.absolute()),
                partial=str(partial_of(output).absolute()),
                context=settings.context,
                chunks=settings.chunks,
                parse_special=settings.parse_special,
                with_output=settings.with_output,
                model=fingerprint(model),
            )
            for line in request:
                run.take(line)
    finally:
        child.close()
    if run.cancelled:
        raise Cancelled(
            f"Calibration was stopped after {run.done} of {run.chunks} chunks; called again, it goes on there."
        )
    return Calibration(output, run.chunks, run.tokens, run.resumed, run.parse_special, time.monotonic() - began)


def coverage(imatrix: ImatrixFile, model: Model, few: int = 16) -> Coverage:
    """Compare an importance matrix with the weights of a model that quantization would want it for."""
    from ..recipe.kept import why_kept

    missing = []
    experts: dict[str, tuple[int, ...]] = {}
    rare: dict[str, tuple[int, ...]] = {}
    covered = 0
    for tensor in model.tensors:
        if not tensor.name.startswith("blk.") or why_kept(tensor, model.architecture):
            continue
        if tensor.name not in imatrix.names:
            missing.append(tensor.name)
            continue
        covered += 1
        counts = imatrix.entry(tensor.name).counts
        if unreached := tuple(i for i, count in enumerate(counts) if count == 0):
            experts[tensor.name] = unreached
        if scarce := tuple(i for i, count in enumerate(counts) if 0 < count < few):
            rare[tensor.name] = scarce
    return Coverage(covered, tuple(missing), experts, rare, few)


def partial_of(output: Path) -> Path:
    """Where the sums of an unfinished calibration are kept."""
    return output.with_name(f".{output.name}.partial")


def fingerprint(model: Path) -> str:
    """Tells whether a model's file is still the same: size and time of its last change."""
    status = model.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


class _Run:
    """Events of the service, folded up."""

    def __init__(self, began: float, on_progress: Callable[[CalibrationProgress], None] | None) -> None:
        self.chunks = self.done = self.resumed = self.tokens = 0
        self.parse_special = self.cancelled = False
        self._began = self._started = began
        self._on_progress = on_progress

    def take(self, line: dict[str, object]) -> None:
        if line["event"] == "begun":
            self.chunks, self.resumed, self.tokens = (_int(line[key]) for key in ("chunks", "done", "tokens"))
            self.done = self.resumed
            self.parse_special = bool(line["parse_special"])
            self._started = time.monotonic()
        elif line["event"] == "chunk":
            self.done = _int(line["done"])
        elif line["event"] == "done":
            self.cancelled = bool(line.get("cancelled"))
            return
        if self._on_progress is not None:
            now = time.monotonic()
            left = (now - self._started) / max(1, self.done - self.resumed) * (self.chunks - self.done)
            self._on_progress(
                CalibrationProgress(self.done, self.chunks, self.resumed, self.parse_special, now - self._began, left)
            )


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def check_output(output: Path) -> None:
    """BadArgument if nothing can be written there, or if another file than an importance matrix would be lost."""
    name = printable(output.name)
    if not output.parent.is_dir():
        raise BadArgument(f"There is no folder {printable(str(output.parent))} to write {name} into.")
    if not output.exists() or (output.is_file() and not output.stat().st_size):
        return
    from ..imatrix import ImatrixFile

    try:
        ImatrixFile(output)
    except QuantdeckError:
        raise BadArgument(f"{name} exists and is no importance matrix; choose another name for the output.") from None


def _check(settings: CalibrationSettings) -> None:
    if not 32 <= settings.context <= 1 << 20:
        raise BadArgument(f"Chunks of {settings.context} tokens are not possible; choose 32 to {1 << 20}, usually 512.")
    if settings.chunks < 0:
        raise BadArgument("The number of chunks cannot be negative; 0 takes the whole text.")
