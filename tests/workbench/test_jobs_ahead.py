"""Supervisors that come up before their job is there."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.errors import QuantdeckError, ResumeFailed
from quantdeck.workbench.jobs.ahead import supervisor_ahead
from support.jobs import Bench, gone, kill, sha256, write_plain_model

SHAPES = {"token_embd.weight": (256, 512), "output.weight": (256, 512)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_plain_model(tmp_path / "source.gguf", SHAPES)


def standing_by(mark: str) -> list[psutil.Process]:
    """The supervisors that show the mark, and their workers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if {mark, f"{jobs.__name__}.supervisor"} <= set(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                found += [process, *process.children()]
    return found


def wait_for(mark: str, count: int) -> list[psutil.Process]:
    """The supervisor and its workers, once all are there."""
    found: list[psutil.Process] = []

    def incomplete() -> bool:
        found[:] = standing_by(mark)
        return len(found) != count

    assert gone(incomplete, 30)
    return found


def test_its_workers_do_the_job(bench: Bench, source: Path):
    plain = bench.run(source, "Q4_0", "plain.gguf")
    mark = str(bench.folder / "mark")
    with closing(supervisor_ahead(2, mark)) as ahead:
        _, *workers = wait_for(mark, 3)
        job = bench.submit(source, "Q4_0", "out.gguf")
        jobs.start(bench.store, job, ahead)
        supervisor = bench.supervisor(job)
        assert supervisor is None or {w.pid for w in supervisor.children()} <= {w.pid for w in workers}
        assert bench.end(job).status == "done"
    assert sha256(bench.folder / "out.gguf") == sha256(Path(plain.spec.output))
    assert gone(lambda: standing_by(mark))


def test_it_ends_when_it_is_not_wanted(tmp_path: Path):
    mark = str(tmp_path / "mark")
    with closing(supervisor_ahead(2, mark)):
        wait_for(mark, 3)
    assert gone(lambda: standing_by(mark))


def test_it_ends_with_the_program_that_started_it(tmp_path: Path):
    mark = str(tmp_path / "mark")
    program = (
        "import sys, time; from quantdeck.workbench.jobs.ahead import supervisor_ahead;"
        "ahead = supervisor_ahead(2, sys.argv[1]); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, mark])
    try:
        wait_for(mark, 3)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    assert gone(lambda: standing_by(mark))


def test_workers_that_died_before_the_job_are_replaced(bench: Bench, source: Path):
    mark = str(bench.folder / "mark")
    with closing(supervisor_ahead(2, mark)) as ahead:
        for worker in wait_for(mark, 3)[1:]:
            kill(worker)
        job = bench.submit(source, "Q4_0")
        jobs.start(bench.store, job, ahead)
        assert bench.end(job).status == "done"


def test_a_job_that_waits_for_its_turn_keeps_no_workers(bench: Bench, tmp_path: Path, source: Path):
    mark = str(bench.folder / "mark")
    first = bench.submit(source, "Q4_0", "first.gguf")
    jobs.start(bench.store, first)
    running = bench.supervisor(first)
    assert running
    running.suspend()
    try:
        with closing(supervisor_ahead(2, mark)) as ahead:
            wait_for(mark, 3)
            second = bench.submit(source, "Q4_0", "second.gguf")
            jobs.start(bench.store, second, ahead)
            bench.until(second, lambda job: job.status == "queued")
            assert gone(lambda: standing_by(mark)[1:])
    finally:
        running.resume()
    assert bench.end(first).status == bench.end(second).status == "done"


def test_it_says_why_it_cannot_take_charge(bench: Bench, source: Path):
    mark = str(bench.folder / "mark")
    job = bench.submit(source, "Q4_0")
    jobs.start(bench.store, job)
    assert bench.end(job).status == "done"
    with closing(supervisor_ahead(1, mark)) as ahead, pytest.raises(ResumeFailed, match="done already"):
        jobs.start(bench.store, job, ahead)
    assert gone(lambda: standing_by(mark))


def test_a_log_that_cannot_be_written(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_0")
    bench.store.folder(job).log.mkdir()
    with pytest.raises(QuantdeckError, match=f"Job {job} cannot be started: Is a directory"):
        jobs.start(bench.store, job)


def test_one_that_died_before_it_was_told_its_job_is_replaced(bench: Bench, source: Path):
    mark = str(bench.folder / "mark")
    with closing(supervisor_ahead(1, mark)) as ahead:
        kill(wait_for(mark, 2)[0])
        job = bench.submit(source, "Q4_0")
        jobs.start(bench.store, job, ahead)
    assert bench.end(job).status == "done"
    assert gone(lambda: standing_by(mark))
