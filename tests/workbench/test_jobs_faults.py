"""What other people and programs do to a job: to its files, its sources, its processes, its queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.jobs.journal import RangeDone, Rechecked
from quantdeck.workbench.model import Model, read_model
from quantdeck.workbench.recipe import Request
from quantdeck.workbench.sample import SAMPLE
from support import checkpoints
from support.jobs import Bench, gone, kill, sha256, write_plain_model, write_split_model

SHAPES = {f"blk.{i}.ffn_up.weight": (1024, 2048) for i in range(6)}
SMALL_RANGES = 1 << 14


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "faults.gguf", SHAPES, "BF16")


# -- files -----------------------------------------------------------------------------------------------------------


def _cut(partial: Path) -> None:
    os.truncate(partial, 100_000)


def _replace(partial: Path) -> None:
    other = partial.with_name("other")
    other.write_bytes(bytes(partial.stat().st_size))
    other.replace(partial)


@pytest.mark.parametrize("harm", [_cut, Path.unlink, _replace], ids=["cut", "removed", "replaced"])
@pytest.mark.parametrize("when", ["running", "stopped"])
def test_partial_file_that_somebody_harms(bench: Bench, source: Path, harm, when: str):
    """What was lost is made again; the hash that was taken of it before is not trusted."""
    whole = bench.run(source, "Q4_K", "whole.gguf")
    job = bench.submit(source, "Q4_K", range_weights=SMALL_RANGES)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.3)
    if when == "stopped":
        kill(bench.supervisor(job))
        assert bench.quiet()
    harm(bench.partials()[0])
    if when == "running":
        end = bench.end(job)
        assert end.status == "failed"
        assert "was changed or removed" in end.message
        assert end.resumable
    assert not (bench.folder / "out.gguf").exists()
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    assert sha256(bench.folder / "out.gguf") == end.sha256 == whole.sha256
    assert not bench.partials()


def test_output_folder_that_is_removed(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf")
    place = bench.folder / "place"
    place.mkdir()
    job = bench.submit(source, "Q4_K", "place/out.gguf", range_weights=SMALL_RANGES)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.2)
    shutil.rmtree(place)
    assert "was changed or removed" in bench.end(job).message
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "failed"
    assert "does not exist" in end.message
    place.mkdir()
    jobs.resume(bench.store, job)
    assert bench.end(job).sha256 == whole.sha256


def test_source_that_another_file_of_its_size_and_time_takes_the_place_of(bench: Bench, tmp_path: Path):
    model = write_plain_model(tmp_path / "model.gguf", SHAPES, "BF16")
    other = write_plain_model(tmp_path / "other.gguf", SHAPES, "BF16", seed=1)
    before = model.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    job = bench.submit(model, "Q4_K", range_weights=SMALL_RANGES)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    supervisor = bench.supervisor(job)
    assert supervisor
    kill(supervisor, signal.SIGSTOP)  # no successor is hit, as a range that ends two workers is given up
    assert gone(lambda: [p for p in [supervisor] if p.status() != psutil.STATUS_STOPPED])
    other.replace(model)
    for worker in bench.workers(job):  # their successors open what stands there now
        kill(worker)
    kill(supervisor, signal.SIGCONT)
    end = bench.end(job)
    assert end.status == "failed"
    assert "was replaced by a file of the same size and time" in end.message
    jobs.resume(bench.store, job)
    assert "has changed since" in bench.end(job).message
    assert not (bench.folder / "out.gguf").exists()
    assert not bench.partials()


# -- llama.cpp -------------------------------------------------------------------------------------------------------


def _submit_sample(bench: Bench, level: str = "Q4_K_M", **options) -> str:
    how = jobs.JobOptions(**options)
    proposal = jobs.prepare(bench.store, SAMPLE.model, Request(level), bench.folder / "out.gguf", how)
    return jobs.submit(bench.store, proposal)


def _llama(bench: Bench, job: str) -> list[psutil.Process]:
    """The processes of llama.cpp that work in the job's folder, whoever their parent is."""
    folder = str(bench.store.folder(job).path)
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if process.cwd() == folder and len(line) > 2 and line[1] == "-c" and "llama" in line[2]:
                found.append(process)
        except psutil.Error:
            pass
    return found


def _wait_for_llama(bench: Bench, job: str) -> psutil.Process:
    give_up = time.monotonic() + 20
    while not (found := _llama(bench, job)):
        assert time.monotonic() < give_up
        time.sleep(0.002)
    return found[0]


def test_one_process_of_llama_cpp_is_ready_when_the_workers_end(bench: Bench):
    job = _submit_sample(bench, workers=1)
    jobs.start(bench.store, job)
    _wait_for_llama(bench, job)
    assert bench.store.snapshot(job).status == "running"
    assert bench.end(job).status == "done"
    assert bench.quiet()
    assert gone(lambda: _llama(bench, job))
    assert len(list(bench.store.folder(job).path.glob("llama-*.log"))) == 1


def test_pause_sends_llama_cpp_away(bench: Bench):
    job = _submit_sample(bench, workers=1)
    jobs.start(bench.store, job)
    llama = _wait_for_llama(bench, job)
    kill(llama, signal.SIGSTOP)  # or it could be done before the pause is seen
    jobs.pause(bench.store, job)
    bench.until(job, lambda s: s.status == "paused")
    kill(llama, signal.SIGCONT)
    assert gone(lambda: _llama(bench, job))
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"


@pytest.mark.parametrize("moment", range(6))
def test_process_of_llama_cpp_that_is_killed(bench: Bench, moment: int):
    """At any moment, from its start to its last word: the job ends well, or can be resumed and does not work again."""
    job = _submit_sample(bench)
    jobs.start(bench.store, job)
    child = _wait_for_llama(bench, job)
    time.sleep(moment * 0.1)
    kill(child)
    end = bench.end(job)
    if end.status != "done":
        assert end.status == "failed"
        assert "ended its process" in end.message
        jobs.resume(bench.store, job)
        end = bench.end(job)
    assert end.status == "done", end.message
    done = [(event.tensor, event.first) for event in bench.events(job) if isinstance(event, RangeDone)]
    assert len(done) == len(set(done))


def test_llama_cpp_goes_with_its_supervisor(bench: Bench):
    job = _submit_sample(bench)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.status == "verifying")
    supervisor = bench.supervisor(job)
    if supervisor:
        kill(supervisor)
    assert gone(lambda: _llama(bench, job))
    if bench.store.snapshot(job).status != "done":
        jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"


# -- other sources ---------------------------------------------------------------------------------------------------


def _killed_on_the_way(bench: Bench, source: Path, model: Model, level: str, whole: str) -> None:
    """Kill the supervisor again and again until the job is done; the hash is that of an uninterrupted run."""
    job = bench.submit(source, level, range_weights=1 << 12, workers=2)
    assert len(bench.store.snapshot(job).plan.tensors) == len(model.tensors)
    jobs.start(bench.store, job)
    for fraction in (0.05, 0.3, 0.6):
        bench.until(job, lambda s, f=fraction: s.fraction > f)
        supervisor = bench.supervisor(job)
        assert supervisor
        kill(supervisor)
        assert bench.quiet()
        jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    assert end.sha256 == whole
    assert not [event for event in bench.events(job) if isinstance(event, Rechecked) and event.lost]


@pytest.mark.parametrize("family", ["llama3", "mixtral", "gemma3"])
def test_checkpoint_killed_and_resumed(bench: Bench, tmp_path: Path, family: str):
    source = checkpoints.build(family, tmp_path / family, shards=2)
    whole = bench.run(source, "F16", "whole.gguf")
    assert whole.status == "done", whole.message
    _killed_on_the_way(bench, source, read_model(source), "F16", whole.sha256)


def test_split_source_killed_and_resumed(bench: Bench, tmp_path: Path, source: Path):
    """Two files as one source: the same bytes as from one file, and a change of either is noticed."""
    parts = write_split_model(tmp_path, "parts", SHAPES, 2, "BF16")
    whole = bench.run(parts[0], "Q4_K", "whole.gguf")
    assert whole.status == "done", whole.message
    _killed_on_the_way(bench, parts[0], read_model(source), "Q4_K", whole.sha256)
    job = bench.submit(parts[0], "Q4_K", "again.gguf", range_weights=SMALL_RANGES)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.05)
    os.utime(parts[1])
    end = bench.end(job)
    assert end.status == "failed"
    assert parts[1].name in end.message


# -- the queue -------------------------------------------------------------------------------------------------------


def test_queue_of_four_levels_with_pause_and_cancel(bench: Bench, source: Path):
    names = ["Q4_K", "Q6_K", "Q8_0", "Q5_K"]
    wanted = {name: bench.run(source, name, f"whole-{name}.gguf").sha256 for name in names}
    submitted = [bench.submit(source, name, f"{name}.gguf", range_weights=SMALL_RANGES) for name in names]
    for job in submitted:
        jobs.start(bench.store, job)
    first, second, third, fourth = submitted
    bench.until(first, lambda s: s.fraction > 0.1)
    jobs.pause(bench.store, first)
    bench.until(second, lambda s: s.fraction > 0.1)
    jobs.cancel(bench.store, second)
    jobs.pause(bench.store, fourth)
    bench.until(fourth, lambda s: s.status == "paused")
    assert bench.end(third).status == "done"
    assert bench.store.snapshot(first).status == "paused"
    jobs.resume(bench.store, fourth)
    jobs.resume(bench.store, first)
    assert bench.end(first).sha256 == wanted["Q4_K"]
    assert bench.end(fourth).sha256 == wanted["Q5_K"]
    assert bench.end(third).sha256 == wanted["Q8_0"]
    assert bench.store.snapshot(second).status == "cancelled"
    assert not (bench.folder / "Q6_K.gguf").exists()
    assert not bench.partials()
    assert bench.quiet()


RESUMER = """
import sys
from pathlib import Path
from quantdeck.workbench import jobs
from quantdeck.workbench.errors import QuantdeckError
try:
    jobs.resume(jobs.JobStore(Path(sys.argv[1])), sys.argv[2])
    print("resumed")
except QuantdeckError as error:
    print(error)
"""


def test_programs_that_resume_the_same_job_at_once(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf")
    job = bench.submit(source, "Q4_K", range_weights=SMALL_RANGES)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    kill(bench.supervisor(job))
    command = [sys.executable, "-c", RESUMER, str(bench.store.root), job]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [program.communicate(timeout=30)[0].strip() for program in programs]
    assert "resumed" in said
    assert all(words == "resumed" or "already" in words for words in said), said
    assert bench.end(job).sha256 == whole.sha256
    done = [(event.tensor, event.first) for event in bench.events(job) if isinstance(event, RangeDone)]
    assert len(done) == len(set(done))
