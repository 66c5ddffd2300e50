"""Refuse early, in words: what must hold before a job begins, checked when it is prepared and again when it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadArgument, ModelNotFound, NotEnoughMemory, QuantdeckError, ResumeFailed
from ..text import printable, size
from .plan import Plan
from .spec import JobSpec
from .store import JobStore

WORKER_BYTES = 100 << 20
"""Most resident memory of one worker; measured, see tests/benchmarks/job.py."""

SPARE_BYTES = 16 << 20
"""Room that is left on a file system beside the output, for the journal and for whatever else is written."""


class OutputExists(BadArgument):
    """A file of the output's name is there already."""


class NotEnoughSpace(QuantdeckError):
    """The output does not fit on its file system."""


def check_output(spec: JobSpec, sources: Iterable[Path]) -> None:
    """The output's place: a writable folder, no file there unless it may be replaced, and never a source."""
    output = Path(spec.output)
    if not output.name:
        raise BadArgument(f"{printable(spec.output)} is not a file name.")
    sources = tuple(sources)
    try:
        if not output.parent.is_dir():
            raise BadArgument(f"The folder {printable(str(output.parent))} does not exist; make it first.")
        for file in spec.outputs:
            _check_file(file, spec.overwrite, sources)
        if len(os.fsencode(spec.partials[0].name)) > os.pathconf(output.parent, "PC_NAME_MAX"):
            raise BadArgument(f"The name {printable(output.name)} is too long; choose a shorter one.")
    except OSError as error:
        raise BadArgument(f"{printable(spec.output)} cannot be used as the output: {error.strerror}.") from error
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise BadArgument(f"You may not write into {printable(str(output.parent))}; choose another folder.")


def _check_file(file: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    shown = printable(str(file))
    if file.is_dir():
        raise BadArgument(f"{shown} is a folder; name a file in it.")
    if not file.exists():
        return
    if any(source.exists() and file.samefile(source) for source in sources):
        raise BadArgument(f"{shown} is the source itself; choose another output.")
    if not overwrite:
        raise OutputExists(f"{shown} exists already; choose another name, or allow overwriting.")


def check_sources(plan: Plan) -> None:
    """The source is what it was when the plan was made; ModelNotFound or ResumeFailed if not."""
    for source in plan.inputs:
        shown = printable(source.path)
        try:
            if not source.unchanged():
                raise ResumeFailed(f"{shown} has changed since the job was planned; submit the job again.")
        except OSError as error:
            raise ModelNotFound(f"{shown} cannot be read any more: {error.strerror}.") from error


def check_rivals(store: JobStore, spec: JobSpec, job_id: str = "") -> None:
    """No other job that has not ended makes the same file."""
    outputs = {os.path.realpath(output): output for output in spec.outputs}
    for folder, other in store.live():
        theirs = (os.path.realpath(output) for output in other.outputs) if folder.id != job_id else ()
        if same := next((outputs[path] for path in theirs if path in outputs), None):
            raise BadArgument(
                f"Job {folder.id} already makes {printable(str(same))}; resume or cancel it, or name another file."
            )


def check_space(store: JobStore, spec: JobSpec, total: int, job_id: str = "") -> None:
    """The file system holds the output, and what other jobs still have to write there."""
    folder = Path(spec.output).parent
    try:
        free = shutil.disk_usage(folder).free
        claimed = sum(
            other.output_bytes - allocated(other.partials)
            for other_folder, other in store.live()
            if other_folder.id != job_id and _same_file_system(folder, Path(other.output).parent)
        )
    except OSError as error:
        raise BadArgument(f"The free space of {printable(str(folder))} cannot be told: {error.strerror}.") from error
    needed = total - allocated(spec.partials)
    if needed + SPARE_BYTES > free - max(0, claimed):
        others = f", of which other jobs still need {size(claimed)}" if claimed > 0 else ""
        raise NotEnoughSpace(
            f"{printable(str(folder))} has {size(free)} free{others}, and the output still takes "
            f"{size(needed)}, with {size(SPARE_BYTES)} left over; make room or choose another folder."
        )


def check_memory(spec: JobSpec) -> None:
    """The workers fit into the memory that is free now."""
    import psutil

    available = psutil.virtual_memory().available
    if available < WORKER_BYTES:
        raise NotEnoughMemory(f"Only {size(available)} of memory is free; a job needs {size(WORKER_BYTES)} a worker.")
    if available < spec.workers * WORKER_BYTES:
        fitting = available // WORKER_BYTES
        raise NotEnoughMemory(
            f"{spec.workers} workers need {size(spec.workers * WORKER_BYTES)} of memory, {size(available)} is free; "
            f"use {fitting} worker{'s' if fitting > 1 else ''}."
        )


def allocated(paths: Iterable[Path]) -> int:
    """Bytes that files occupy on their disk; those that are not there occupy none."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _same_file_system(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False
