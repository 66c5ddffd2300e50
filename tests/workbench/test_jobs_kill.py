"""Kill anything at any moment, resume: the final file is byte-identical with an uninterrupted run's."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.jobs.journal import RangeDone, Rechecked, Verified, WorkerDied
from support.jobs import Bench, gone, kill, sha256, write_plain_model

SHAPES = {
    "token_embd.weight": (768, 1100),
    "blk.0.attn_norm.weight": (768,),
    "blk.0.ffn_exps.weight": (256, 300, 8),
    **{f"blk.{i}.ffn_up.weight": (1024, 1536) for i in range(6)},
}
LEVELS = ("Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q3_K", "BF16")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "kill.gguf", SHAPES)


def _strike(bench: Bench, job: str, rng: random.Random, whom: str) -> bool:
    """Wait a moment, then kill one worker or the supervisor; True if somebody was killed."""
    time.sleep(rng.uniform(0.0, 0.35))
    supervisor = bench.supervisor(job)
    if whom == "supervisor":
        return supervisor is not None and kill(supervisor)
    workers = bench.workers(job)
    return bool(workers) and kill(rng.choice(workers))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEVELS)
def test_killed_at_random_moments(bench: Bench, source: Path, name: str):
    """At least ten kills for each level: workers, supervisors, at any moment from start to rename."""
    rng = random.Random(name)
    whole = bench.run(source, name, "whole.gguf")
    kills, rounds = 0, 0
    while kills < 10:
        rounds += 1
        assert rounds < 40
        output = f"killed-{rounds}.gguf"
        job = bench.submit(source, name, output, range_weights=1 << 14, workers=rng.choice([1, 2, 3]))
        jobs.start(bench.store, job)
        for _ in range(4):
            kills += _strike(bench, job, rng, rng.choice(["worker", "supervisor"]))
            assert bench.supervisor(job) or bench.quiet()
            if not bench.store.folder(job).is_alive and bench.store.snapshot(job).status != "done":
                jobs.resume(bench.store, job)
        end = bench.end(job)
        if end.status in ("failed", "interrupted"):  # chance hit the same range twice, or the last kill came late
            jobs.resume(bench.store, job)
            end = bench.end(job)
        assert end.status == "done", end.message
        assert sha256(bench.folder / output) == end.sha256 == whole.sha256
        bench.nothing_was_done_twice(job)
        assert bench.quiet()
        assert not bench.partials()


def test_killed_between_rename_and_last_word(bench: Bench, source: Path):
    """The file stands, the journal does not say so: resume finds it by its hash and does nothing again."""
    end = bench.run(source, "Q8_0")
    folder = bench.store.folder(end.id)
    assert bench.quiet()
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    assert b'"verified"' in lines[-2]
    folder.journal.write_bytes(b"".join(lines[:-1]))
    folder.summary_path.unlink()
    assert bench.store.snapshot(end.id).status == "interrupted"
    before = (bench.folder / "out.gguf").stat()
    jobs.resume(bench.store, end.id)
    again = bench.end(end.id)
    assert again.status == "done"
    assert again.sha256 == end.sha256
    after = (bench.folder / "out.gguf").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_bytes_lost_in_a_power_cut_are_made_again(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf")
    job = bench.submit(source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.4)
    kill(bench.supervisor(job))
    snapshot = bench.until(job, lambda s: s.status == "interrupted")
    [partial] = bench.partials()
    done = [event for event in bench.events(job) if isinstance(event, RangeDone)]
    with partial.open("r+b") as file:
        for event in done[1:4]:
            _, offset, length = snapshot.plan.place(_range(event))
            file.seek(offset + length // 2)
            file.write(bytes(64))
        file.write(b"")
        file.seek(10)
        file.write(b"header")
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "done"
    [recheck] = [event for event in bench.events(job) if isinstance(event, Rechecked)]
    assert sorted(recheck.lost) == sorted((event.tensor, event.first) for event in done[1:4])
    assert end.sha256 == whole.sha256


def _range(event: RangeDone):
    from quantdeck.workbench.jobs.plan import Range

    return Range(event.tensor, event.first, event.count)


def test_partial_that_is_gone_is_made_again(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_0", "whole.gguf")
    job = bench.submit(source, "Q4_0", "other.gguf", range_weights=1 << 14, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    kill(bench.supervisor(job))
    bench.until(job, lambda s: s.status == "interrupted")
    for partial in bench.partials():
        partial.unlink()
    jobs.resume(bench.store, job)
    assert bench.end(job).sha256 == whole.sha256


def test_worker_that_dies_is_replaced(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf")
    job = bench.submit(source, "Q4_K", range_weights=1 << 14)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    assert kill(bench.workers(job)[0])
    end = bench.end(job)
    assert end.status == "done"
    assert end.sha256 == whole.sha256
    [death] = [event for event in bench.events(job) if isinstance(event, WorkerDied)]
    assert "memory" in death.reason
    assert any("was killed" in note for note in end.notes)


def test_range_that_kills_its_worker_twice_fails_the_job(bench: Bench, source: Path):
    """A range for each tensor, and every worker is killed: the job says which rows, and can be resumed."""
    job = bench.submit(source, "Q4_K", range_weights=1 << 24, workers=1)
    jobs.start(bench.store, job)
    seen: set[int] = set()
    while not bench.store.snapshot(job).ended_for_good:
        for worker in bench.workers(job):
            if worker.pid not in seen and bench.store.snapshot(job).working:
                seen.add(worker.pid)
                kill(worker)
        time.sleep(0.005)
    end = bench.store.snapshot(job)
    assert end.status == "failed"
    assert "twice" in end.message
    # A worker may have gone on to the next range before it was killed, so only one death more than ranges is certain.
    assert 2 <= len(seen) <= len(end.tensors) + 1
    assert end.resumable
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"


def test_stopped_and_continued(bench: Bench, source: Path):
    """SIGSTOP on workers and supervisor in turn, SIGCONT later: the job only takes longer."""
    whole = bench.run(source, "Q4_K", "whole.gguf")
    job = bench.submit(source, "Q4_K", range_weights=1 << 14)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    supervisor, worker = bench.supervisor(job), bench.workers(job)[0]
    for process in (worker, supervisor):
        kill(process, signal.SIGSTOP)
        time.sleep(0.4)
        assert not bench.store.snapshot(job).ended_for_good
        kill(process, signal.SIGCONT)
    end = bench.end(job)
    assert end.status == "done"
    assert end.sha256 == whole.sha256


def test_workers_ignore_what_a_terminal_or_a_logout_sends(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_K", range_weights=1 << 14, workers=1)  # so that none is just starting
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.05)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        for worker in bench.workers(job):
            kill(worker, number)
    for number in (signal.SIGHUP, signal.SIGINT):
        kill(bench.supervisor(job), number)
    end = bench.end(job)
    assert end.status == "done"
    assert not [event for event in bench.events(job) if isinstance(event, WorkerDied)]


STARTER = """
import sys, time
from pathlib import Path
from quantdeck.workbench import jobs
jobs.start(jobs.JobStore(Path(sys.argv[1])), sys.argv[2])
print("started", flush=True)
time.sleep(60)
"""


def test_job_outlives_its_terminal(bench: Bench, source: Path):
    """The program that started the job has a terminal, which is closed under it: the job goes on."""
    job = bench.submit(source, "Q4_K", range_weights=1 << 14)
    master, slave = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(bench.store.root), job],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=own_terminal,  # noqa: PLW1509 (no other thread runs here)
    )
    os.close(slave)
    assert b"started" in os.read(master, 1000)
    os.close(master)
    assert starter.wait(10) == -signal.SIGHUP
    assert bench.end(job).status == "done"


def test_job_outlives_the_program_that_started_it(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_K", range_weights=1 << 14)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(bench.store.root), job], stdout=subprocess.PIPE, start_new_session=True
    )
    assert starter.stdout
    assert starter.stdout.readline() == b"started\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    assert bench.end(job).status == "done"


def test_workers_die_with_their_supervisor(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_K", range_weights=1 << 24, workers=3)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: len(s.working) >= 1)
    workers = bench.workers(job)
    assert workers
    kill(bench.supervisor(job))
    assert gone(lambda: [worker for worker in workers if _lives(worker)])


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_verified_file_is_on_disk_before_it_gets_its_name(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0")
    kinds = [type(event).__name__ for event in bench.events(end.id)]
    assert kinds[-2:] == ["Verified", "Done"]
    assert next(e for e in bench.events(end.id) if isinstance(e, Verified)).sha256 == end.sha256
