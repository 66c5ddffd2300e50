"""Small real jobs for tests: a store, models that take a moment, and a hard hand on their processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from quantdeck.kernels import TYPES
from quantdeck.workbench import jobs
from quantdeck.workbench.jobs import JobSnapshot, JobStore, Proposal
from quantdeck.workbench.jobs.journal import JobEvent, JournalReader, RangeDone, Rechecked, Started
from quantdeck.workbench.jobs.locks import is_held
from quantdeck.workbench.model import Model, read_model, value, write_header
from quantdeck.workbench.recipe import Recipe, Request, TensorChoice


def write_plain_model(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: str = "F16",
    seed: int = 0,
    bad: tuple[str, int] | None = None,
) -> Path:
    """A GGUF with these matrices in `dtype` and vectors in F32, random by seed; no llama.cpp loads it.

    `bad` is a tensor and a row that shall hold NaN.
    """
    metadata = {"general.architecture": value("string", "plain"), "plain.block_count": value("uint32", 1)}
    types = {name: "F32" if len(shape) == 1 else dtype for name, shape in shapes.items()}
    header = write_header(metadata, [(name, shape, types[name]) for name, shape in shapes.items()])
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(header.content)
        file.truncate(header.total_size)
        for (name, shape), offset in zip(shapes.items(), header.offsets, strict=True):
            rows = rng.standard_normal((int(np.prod(shape[1:])), shape[0]), np.float32)
            if bad and bad[0] == name:
                rows[bad[1], 3] = np.nan
            file.seek(offset)
            file.write(_stored(rows, types[name]))
    return path


def write_split_model(
    folder: Path, name: str, shapes: dict[str, tuple[int, ...]], parts: int, dtype: str = "F16"
) -> list[Path]:
    """The same weights as those of `write_plain_model`, in several files as llama.cpp's gguf-split names them."""
    whole = write_plain_model(folder / f"{name}.whole", shapes, dtype)
    model, names = read_model(whole), list(shapes)
    paths = [folder / f"{name}-{part + 1:05}-of-{parts:05}.gguf" for part in range(parts)]
    with whole.open("rb") as content:
        for part, path in enumerate(paths):
            chosen = [model.by_name[tensor] for tensor in names[part::parts]]
            metadata = dict(model.metadata) if part == 0 else {}
            metadata |= {"split.no": value("uint16", part), "split.count": value("uint16", parts)}
            metadata |= {"split.tensors.count": value("int32", len(names))}
            header = write_header(metadata, [(t.name, t.shape, t.type) for t in chosen])
            with path.open("wb") as file:
                file.write(header.content)
                file.truncate(header.total_size)
                for tensor, offset in zip(chosen, header.offsets, strict=True):
                    content.seek(tensor.offset)
                    file.seek(offset)
                    file.write(content.read(tensor.n_bytes))
    whole.unlink()
    return paths


def _stored(rows: np.ndarray, name: str) -> bytes:
    if name == "BF16":
        return (rows.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return rows.astype({"F16": np.float16, "F32": np.float32}[name]).tobytes()


def plain_recipe(model: Model, name: str) -> Recipe:
    """Every matrix in the type `name`, all else copied."""
    choices = []
    for tensor in model.tensors:
        fits = len(tensor.shape) > 1 and tensor.row_length % TYPES[name].block_size == 0
        choices.append(TensorChoice(tensor, name if fits else tensor.type, name))
    metadata = {key: item for key, item in model.metadata.items() if not key.startswith("split.")}
    return Recipe(name, 7, tuple(choices), metadata)


@dataclass
class Bench:
    """A store and a folder for outputs, with everything that a test does to a job."""

    folder: Path

    @property
    def store(self) -> JobStore:
        return JobStore(self.folder / "store")

    def propose(
        self, source: Path, name: str, output: str = "out.gguf", range_weights: int = 1 << 16, **options: Any
    ) -> Proposal:
        """A job in the type `name`, cut into small ranges, not loaded in llama.cpp unless `verify` is given."""
        model = read_model(source)
        recipe = options.pop("recipe", None) or plain_recipe(model, name)
        how = jobs.JobOptions(**{"workers": 2, "verify": False} | options)
        proposal = jobs.propose(self.store, model, recipe, Request(name), self.folder / output, how)
        return replace(proposal, plan=replace(proposal.plan, range_weights=range_weights))

    def submit(self, *args: Any, **options: Any) -> str:
        return jobs.submit(self.store, self.propose(*args, **options))

    def run(self, *args: Any, **options: Any) -> JobSnapshot:
        """Submit, start, and wait for the end."""
        job_id = self.submit(*args, **options)
        jobs.start(self.store, job_id)
        return self.end(job_id)

    def end(self, job_id: str, seconds: float = 60) -> JobSnapshot:
        """The snapshot after which nothing happens any more."""
        return self.until(job_id, lambda s: s.ended_for_good, seconds)

    def until(self, job_id: str, wanted: Callable[[JobSnapshot], bool], seconds: float = 60) -> JobSnapshot:
        """The first snapshot that is as wanted."""
        watch = self.store.watch(job_id)
        give_up = time.monotonic() + seconds
        while not wanted(snapshot := watch.look()):
            assert time.monotonic() < give_up, (
                f"{snapshot.status} {snapshot.fraction} {snapshot.message} {self.log(job_id)}"
            )
            assert snapshot.status not in ("failed", "done"), f"{snapshot.status} {snapshot.message} {self.log(job_id)}"
            time.sleep(0.01)
        return snapshot

    def events(self, job_id: str) -> list[JobEvent]:
        return JournalReader(self.store.folder(job_id).journal).read()

    def nothing_was_done_twice(self, job_id: str) -> None:
        """Every range is journalled once: nothing finished is done again, and the hashes of all were right."""
        events = self.events(job_id)
        done = [(event.tensor, event.first) for event in events if isinstance(event, RangeDone)]
        assert len(done) == len(set(done)) == len(list(self.store.snapshot(job_id).plan.ranges()))
        assert not [event for event in events if isinstance(event, Rechecked) and event.lost]

    def log(self, job_id: str) -> str:
        return self.store.folder(job_id).log.read_text("utf-8", "replace")

    def supervisor(self, job_id: str) -> psutil.Process | None:
        """The process in charge, None if there is none."""
        if not self.store.folder(job_id).is_alive:
            return None
        pids = [event.pid for event in self.events(job_id) if isinstance(event, Started)]
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pids[-1]) if pids else None
        return None

    def workers(self, job_id: str) -> list[psutil.Process]:
        """The worker processes of a job, by their command lines, whoever their parent is."""
        folder = str(self.store.folder(job_id).path)
        return [p for p in _ours() if _is(p, f"{jobs.__name__}.worker", folder)]

    def processes(self) -> list[psutil.Process]:
        """All supervisors and workers of stores in this bench's folder that are alive."""
        return [p for p in _ours() if _is(p, f"{jobs.__name__}.", str(self.folder))]

    def quiet(self, seconds: float = 10) -> bool:
        """True if within some seconds no process is left, and no lock held: a dying process closes its files last."""
        give_up = time.monotonic() + seconds
        while self.processes() or any(is_held(lock) for lock in self.folder.rglob("lock")):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
        return True

    def partials(self) -> list[Path]:
        return sorted(self.folder.glob(".*.partial*"))


def _ours() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _is(process: psutil.Process, module: str, folder: str) -> bool:
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        return any(part.startswith(module) for part in line) and any(part.startswith(folder) for part in line)
    return False


def kill(process: psutil.Process, number: int = signal.SIGKILL) -> bool:
    """Send a signal; False if the process is gone already."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def gone(find: Callable[[], object], seconds: float = 5) -> bool:
    """True if nothing is found within some seconds."""
    give_up = time.monotonic() + seconds
    while find():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
