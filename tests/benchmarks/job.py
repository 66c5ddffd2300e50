"""How long a whole job takes, as a multiple of `llama_model_quantize`'s wall time on the same file.

A llama-like GGUF of random BF16 weights is made once. The two are run in turn with the same number of workers and
threads; each pair gives one ratio, and the median counts. Ours is the whole command `quantdeck quantize`, from its
start to its end: reading the model, start-up of all processes, hashing, loading in llama.cpp, and waiting for the disk
included. C's is the time of the call alone, without loading the library; it neither hashes, nor verifies, nor waits
for the disk. `cp` is the time of a plain copy of the source. On a machine that does other things too, the ratio of CPU
times says more.

    PYTHONPATH=tests python -m benchmarks.job --size 1e9 --levels Q4_K_M Q8_0 --workers 1 2 4 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quantdeck.workbench import jobs
from quantdeck.workbench.imatrix import Entry, Imatrix, write_imatrix
from quantdeck.workbench.jobs.journal import Done, JournalReader
from quantdeck.workbench.model import read_model, write_header
from support import llama_quantize
from support.models import describe

GOAL = 0.7
NEEDS_IMATRIX = ("IQ4_XS", "IQ3_S", "Q2_K")


@dataclass(frozen=True)
class Result:
    """Medians over the rounds: seconds, ratios of ours to C's and to a copy; largest resident sizes in 10^6 bytes."""

    level: str
    workers: int
    ours: float
    c: float
    ratio: float
    cpu_ratio: float
    to_copy: float
    worker_mb: float
    supervisor_mb: float
    identical: bool


def make_source(path: Path, size: float, seed: int = 0) -> Path:
    """A llama-like model of about `size` bytes in BF16: rows of 2048 and 5632, grouped heads, as 1B models have."""
    from support.models import write_model

    per_layer = 2 * (2048 * 2048 * 2 + 2 * 2048 * 256 + 3 * 2048 * 5632)
    n_layer = max(1, round((size - 2 * 2 * 2048 * 8192) / per_layer))
    sizes = {"n_layer": n_layer, "n_embd": 2048, "n_head": 32, "n_head_kv": 4, "n_ff": 5632, "n_vocab": 8192}
    small = path.with_suffix(".head")
    description = describe("llama", **sizes)
    tiny = describe("llama", **sizes | {"n_embd": 32, "n_ff": 32, "n_layer": 1})
    write_model(small, tiny, dtype="BF16", empty=True)
    head = read_model(small)
    small.unlink()
    metadata = dict(head.metadata) | _dimensions(description.metadata)
    tensors = [(name, shape, "F32" if len(shape) == 1 else "BF16") for name, shape in description.tensors]
    header = write_header(metadata, tensors)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(header.content)
        file.truncate(header.total_size)
        for (_, shape, kind), offset in zip(tensors, header.offsets, strict=True):
            file.seek(offset)
            rows = rng.standard_normal(int(np.prod(shape)), np.float32) * np.float32(0.02)
            file.write(
                (rows + 1).tobytes() if kind == "F32" else (rows.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            )
    return path


def _dimensions(metadata: dict[str, object]) -> dict[str, object]:
    from quantdeck.workbench.model import value

    kinds = {int: "uint32", float: "float32"}
    return {f"llama.{key}": value(kinds[type(item)], item) for key, item in metadata.items()}


def make_imatrix(path: Path, source: Path) -> dict[str, np.ndarray]:
    """Importances for every matrix, in a file for us and as arrays for C."""
    rng = np.random.default_rng(1)
    entries, arrays = {}, {}
    for tensor in read_model(source).tensors:
        if len(tensor.shape) > 1:
            sums = np.exp(rng.normal(0, 1, (1, tensor.row_length))).astype(np.float32)
            entries[tensor.name], arrays[tensor.name] = Entry(sums, np.ones(1, np.int64)), sums.reshape(-1)
    write_imatrix(path, Imatrix(entries, ("random",), 1, 512))
    return arrays


class Memory(threading.Thread):
    """Watches the largest resident size of a job's processes, at little cost: others are looked at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worker = self.supervisor = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        seen: set[int] = set()
        watched: dict[str, list[psutil.Process]] = {"worker": [], "supervisor": []}
        while not self.stopped.wait(0.25):
            for pid in set(psutil.pids()) - seen:
                seen.add(pid)
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    for kind, processes in watched.items():
                        if f"{jobs.__name__}.{kind}" in process.cmdline():
                            processes.append(process)
            self.worker = max(self.worker, _largest(watched["worker"]))
            self.supervisor = max(self.supervisor, _largest(watched["supervisor"]))


def _largest(processes: list[psutil.Process]) -> int:
    sizes = [0]
    for process in processes:
        with suppress(psutil.Error):
            sizes.append(process.memory_info().rss)
    return max(sizes)


def ours(folder: Path, source: Path, level: str, workers: int, imatrix: Path | None) -> tuple[float, float, Memory]:
    """Seconds and CPU seconds of one whole command."""
    command = [sys.executable, "-m", "quantdeck.tui.cli", "quantize", str(source), "-q", level, "--overwrite"]
    command += ["-o", str(folder / "ours.gguf"), "--workers", str(workers)]
    command += ["--imatrix", str(imatrix)] if imatrix else []
    memory = Memory()
    memory.start()
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    environment = os.environ | {"QUANTDECK_HOME": str(home)}
    seconds, cpu = _timed(lambda: subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL))
    memory.stopped.set()
    (job,) = jobs.JobStore(home / "jobs").list()
    done = JournalReader(home / "jobs" / job.id / "journal.jsonl").read()[-1]
    assert isinstance(done, Done), done
    return seconds, cpu + done.cpu_seconds, memory


def theirs(
    folder: Path, source: Path, level: str, threads: int, imatrix: dict[str, np.ndarray] | None
) -> tuple[float, float]:
    """Seconds and CPU seconds of one call; what its process needs besides is measured on a dry run and taken off."""
    output = folder / "c.gguf"
    whole = _timed(lambda: llama_quantize.quantize(source, output, level, imatrix, threads))
    besides = _timed(lambda: llama_quantize.plan(source, [level]))
    return whole[0] - besides[0], whole[1] - besides[1]


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def copy(folder: Path, source: Path) -> float:
    """Seconds of a plain copy."""
    began = time.perf_counter()
    subprocess.run(["cp", str(source), str(folder / "copy.gguf")], check=True)
    return time.perf_counter() - began


def same(one: Path, other: Path) -> bool:
    """True if all tensors have the same bytes."""
    a, b = read_model(one), read_model(other)
    with one.open("rb") as left, other.open("rb") as right:
        for x, y in zip(a.tensors, b.tensors, strict=True):
            left.seek(x.offset)
            right.seek(y.offset)
            if (x.name, x.type, x.n_bytes) != (y.name, y.type, y.n_bytes) or left.read(x.n_bytes) != right.read(
                y.n_bytes
            ):
                return False
    return True


def measure(folder: Path, source: Path, level: str, workers: int, rounds: int, reference: bool) -> Result:
    """All rounds of one level with one number of workers."""
    imatrix, arrays = None, None
    if level in NEEDS_IMATRIX:
        imatrix = folder / "imatrix.gguf"
        arrays = make_imatrix(imatrix, source)
    mine, cs, my_cpu, c_cpu, copies = ([] for _ in range(5))
    worker = supervisor = 0
    for _ in range(rounds):
        seconds, cpu, memory = ours(folder, source, level, workers, imatrix)
        mine.append(seconds)
        my_cpu.append(cpu)
        worker, supervisor = max(worker, memory.worker), max(supervisor, memory.supervisor)
        if reference:
            seconds, cpu = theirs(folder, source, level, workers, arrays)
            cs.append(seconds)
            c_cpu.append(cpu)
        copies.append(copy(folder, source))
    made = folder / "ours.gguf"
    return Result(
        level=level,
        workers=workers,
        ours=round(statistics.median(mine), 2),
        c=round(statistics.median(cs), 2) if cs else 0.0,
        ratio=round(statistics.median(a / b for a, b in zip(mine, cs, strict=True)), 3) if cs else 0.0,
        cpu_ratio=round(statistics.median(a / b for a, b in zip(my_cpu, c_cpu, strict=True)), 3) if cs else 0.0,
        to_copy=round(statistics.median(a / b for a, b in zip(mine, copies, strict=True)), 2),
        worker_mb=round(worker / 1e6, 1),
        supervisor_mb=round(supervisor / 1e6, 1),
        identical=same(made, folder / "c.gguf") if reference else True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1e9, help="bytes of the source")
    parser.add_argument("--levels", nargs="+", default=["Q4_K_M", "Q8_0"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder if not given")
    parser.add_argument("--no-reference", action="store_true", help="only our jobs, for memory")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="quantdeck-job-", dir=options.folder))
    results = []
    try:
        source = make_source(folder / "source.gguf", options.size)
        print(f"source: {source.stat().st_size / 1e9:.2f} GB", flush=True)
        print("level    workers   ours s      C s   ratio     CPU   ours/cp  worker MB  supervisor MB  identical")
        for level in options.levels:
            for workers in options.workers:
                r = measure(folder, source, level, workers, options.rounds, not options.no_reference)
                results.append(r)
                print(
                    f"{r.level:8} {r.workers:7} {r.ours:8.2f} {r.c:8.2f} {r.ratio:7.3f} {r.cpu_ratio:7.3f}"
                    f" {r.to_copy:9.2f} {r.worker_mb:10.1f} {r.supervisor_mb:14.1f}  {'yes' if r.identical else 'NO'}",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, "results": [asdict(r) for r in results]}, indent=1))


if __name__ == "__main__":
    main()
