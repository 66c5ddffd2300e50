"""Full disks, stores that cannot be written, and failing writes, on small file systems of our own.

A mount needs a user namespace; where the system forbids one, these tests are skipped and say so.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from quantdeck.workbench import jobs
from support.jobs import Bench, write_plain_model

SHAPES = {f"blk.{i}.ffn_up.weight": (1024, 768) for i in range(6)}

PREAMBLE = """
import os, shutil, subprocess, sys, time
from pathlib import Path
from quantdeck.workbench import jobs
from quantdeck.workbench.errors import QuantdeckError
from quantdeck.workbench.jobs import JobStore
from support.jobs import Bench, gone, kill, sha256
source, folder = Path(sys.argv[1]), Path(sys.argv[2])

def mount(size, name):
    place = folder / name
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True)
    return place

def fill(place, leave_kb):
    ballast = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while shutil.disk_usage(place).free > leave_kb * 1024:
            left = shutil.disk_usage(place).free - leave_kb * 1024
            os.write(ballast, bytes(min(left, 1 << 20)))
    except OSError:
        pass  # a running job takes the last pages
    os.close(ballast)

def remount(place, how):
    for _ in range(100):  # processes that have just ended may still be closing their files
        if subprocess.run(["mount", "-o", "remount," + how, str(place)], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    raise AssertionError("cannot remount")

def until_full(bench, job):
    paused = bench.until(job, lambda s: s.status == "paused")
    assert "is full" in paused.message and "make room" in paused.message, paused.message

def ends_whole(bench, job):
    end = bench.end(job)
    assert end.status == "done" and end.sha256 == whole.sha256, end.message

bench = Bench(folder)
whole = bench.run(source, "Q8_0", "whole.gguf")
assert whole.status == "done", whole.message
"""


def _namespace_allowed() -> bool:
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not _namespace_allowed(), reason="this system allows no mounts in a user namespace")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "disk.gguf", SHAPES, "BF16")


@pytest.fixture
def in_namespace(source: Path, tmp_path: Path) -> Callable[[str], None]:
    """Run a script after PREAMBLE where it may mount what it likes; nothing of it is left behind."""

    def run(script: str) -> None:
        program = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), str(source), str(tmp_path)]
        done = subprocess.run(
            ["unshare", "-rm", *program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        for process in Bench(tmp_path).processes():
            process.kill()
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@needs_mounts
def test_disk_that_is_full_when_the_job_begins(in_namespace: Callable[[str], None]):
    """Room for the output is gone between submit and start: the job pauses with a sentence, and goes on by itself."""
    in_namespace(
        """
        place = mount(40_000, "small")
        job = bench.submit(source, "Q8_0", "small/out.gguf")
        fill(place, 1000)
        jobs.start(bench.store, job)
        until_full(bench, job)
        assert not (place / "out.gguf").exists()
        (place / "ballast").unlink()
        ends_whole(bench, job)
        """
    )


@needs_mounts
def test_disk_that_fills_up_in_the_middle(in_namespace: Callable[[str], None]):
    """The partial file was made sparse by an earlier run and cannot be filled: what is done is kept, resume goes on."""
    in_namespace(
        """
        place = mount(40_000, "small")
        job = bench.submit(source, "Q8_0", "small/out.gguf", range_weights=1 << 14, workers=1)
        jobs.start(bench.store, job)
        bench.until(job, lambda s: s.fraction > 0.3)
        kill(bench.supervisor(job))
        assert bench.quiet()
        done = bench.store.snapshot(job).weights_done
        partial = place / ".out.gguf.partial"
        size = partial.stat().st_size
        plan = bench.store.snapshot(job).plan
        hole = str(plan.tensors[-1].offset)
        subprocess.run(["fallocate", "-p", "-o", hole, "-l", str(size), str(partial)], check=True)
        fill(place, 50)
        jobs.resume(bench.store, job)
        until_full(bench, job)
        assert bench.store.snapshot(job).weights_done >= done
        (place / "ballast").unlink()
        jobs.resume(bench.store, job)
        ends_whole(bench, job)
        """
    )


@needs_mounts
def test_cancel_while_paused_for_a_full_disk(in_namespace: Callable[[str], None]):
    in_namespace(
        """
        place = mount(40_000, "small")
        job = bench.submit(source, "Q8_0", "small/out.gguf")
        fill(place, 1000)
        jobs.start(bench.store, job)
        until_full(bench, job)
        jobs.cancel(bench.store, job)
        assert bench.store.snapshot(job).status == "cancelled"
        assert [p.name for p in place.iterdir()] == ["ballast"]
        assert bench.quiet()
        """
    )


@needs_mounts
def test_commands_stay_while_the_disk_is_full(in_namespace: Callable[[str], None]):
    """`quantize` and `jobs watch` say the sentence once and see the job's end; Ctrl+C leaves it running."""
    in_namespace(
        """
        import json, signal
        from support.command import COMMAND
        place = mount(40_000, "small")
        home = folder / "home"
        home.mkdir()
        (home / "jobs").symlink_to(bench.store.root)

        def begin(name, *words):
            output, errors = (open(folder / f"{name}.{kind}", "w") for kind in ("out", "err"))
            environ = dict(os.environ) | {"QUANTDECK_HOME": str(home)}
            return subprocess.Popen([*COMMAND, *words], stdout=output, stderr=errors, env=environ)

        def said(name):
            return (folder / f"{name}.err").read_text()

        def soon(true):
            until = time.monotonic() + 30
            while not true():
                assert time.monotonic() < until
                time.sleep(0.05)

        first = bench.submit(source, "Q4_K", "first.gguf", range_weights=1 << 12, workers=1)
        jobs.start(bench.store, first)
        bench.until(first, lambda s: s.fraction > 0)
        kill(bench.supervisor(first), signal.SIGSTOP)  # the next job waits for it
        before = set(bench.store.ids())
        words = ["sample", "gguf", "-q", "Q8_0", "-o", str(place / "out.gguf"), "--json"]
        quantize = begin("quantize", "quantize", *words)
        soon(lambda: set(bench.store.ids()) - before)
        job = (set(bench.store.ids()) - before).pop()
        bench.until(job, lambda s: first in s.message)
        fill(place, 1000)
        watchers = {name: begin(name, "jobs", "watch", job, "--json") for name in ("watch", "left")}
        kill(bench.supervisor(first))
        until_full(bench, job)
        soon(lambda: all("is full" in said(name) for name in ("quantize", "watch", "left")))
        watchers["left"].send_signal(signal.SIGINT)
        assert watchers["left"].wait(10) == 130 and "the job goes on" in said("left"), said("left")
        time.sleep(2.5)
        assert quantize.poll() is None and watchers["watch"].poll() is None
        (place / "ballast").unlink()
        for name, process in {"quantize": quantize, "watch": watchers["watch"]}.items():
            assert process.wait(60) == 0, said(name)
            assert said(name).count("is full") == 1, said(name)
            assert json.loads((folder / f"{name}.out").read_text())["status"] == "done"
        """
    )


@needs_mounts
def test_disk_that_is_full_for_the_last_of_several_files(in_namespace: Callable[[str], None]):
    """Room for some of the files only: none of them keeps it, the job pauses, and goes on by itself."""
    in_namespace(
        """
        split = Bench(folder).run(source, "Q8_0", "split.gguf", max_file_bytes=1_000_000)
        assert len(split.hashes) == 6, split.message
        place = mount(40_000, "small")
        bench = Bench(folder)
        job = bench.submit(source, "Q8_0", "small/out.gguf", max_file_bytes=1_000_000)
        fill(place, 3000)
        jobs.start(bench.store, job)
        until_full(bench, job)
        assert not list(place.glob("out-*"))
        assert sum(p.stat().st_blocks * 512 for p in place.glob(".out.partial-*")) == 0
        (place / "ballast").unlink()
        end = bench.end(job)
        assert end.status == "done" and end.hashes == split.hashes, end.message
        """
    )


@needs_mounts
def test_store_that_fills_up_while_the_job_runs(in_namespace: Callable[[str], None]):
    """The journal takes nothing more: no range is handed out until it does, and none is lost or done twice."""
    in_namespace(
        """
        from quantdeck.workbench.jobs.journal import RangeDone
        place = mount(4_000, "storage")
        bench = Bench(place)
        job = bench.submit(source, "Q8_0", "../out.gguf", range_weights=1 << 13, workers=2)
        jobs.start(bench.store, job)
        bench.until(job, lambda s: s.fraction > 0.02)
        fill(place, 0)
        time.sleep(0.7)
        stuck = bench.store.snapshot(job)
        time.sleep(0.5)
        assert bench.store.snapshot(job).weights_done == stuck.weights_done < stuck.plan.n_weights
        (place / "ballast").unlink()
        ends_whole(bench, job)
        done = [(e.tensor, e.first) for e in bench.events(job) if isinstance(e, RangeDone)]
        assert len(done) == len(set(done))
        """
    )


@needs_mounts
def test_store_that_is_full_or_read_only_refuses_in_words(in_namespace: Callable[[str], None]):
    in_namespace(
        """
        place = mount(200, "storage")
        bench = Bench(place)
        proposal = bench.propose(source, "Q8_0", "../out.gguf")
        waiting = jobs.submit(bench.store, bench.propose(source, "Q8_0", "../waiting.gguf"))
        fill(place, 0)
        def refused(action, *words):
            try:
                action()
            except QuantdeckError as error:
                assert any(word in str(error) for word in words), error
            else:
                raise AssertionError("not refused")
        refused(lambda: jobs.submit(bench.store, proposal), "full", "No space")
        assert bench.store.ids() == [waiting]
        (place / "ballast").unlink()
        done = bench.run(source, "Q8_0", "../done.gguf")
        assert bench.quiet()
        remount(place, "ro")
        refused(lambda: jobs.submit(bench.store, proposal), "Read-only")
        refused(lambda: jobs.start(bench.store, waiting), "Read-only", "cannot be written")
        refused(lambda: jobs.cancel(bench.store, waiting), "Read-only", "cannot be written")
        refused(lambda: bench.store.remove(done.id), "Read-only", "cannot be written")
        statuses = {s.id: s.status for s in bench.store.list()}
        assert statuses == {waiting: "queued", done.id: "done"}, statuses
        """
    )


@needs_mounts
def test_output_file_system_that_turns_read_only(in_namespace: Callable[[str], None]):
    in_namespace(
        """
        place = mount(60_000, "small")
        job = bench.submit(source, "Q8_0", "small/out.gguf")
        remount(place, "ro")
        jobs.start(bench.store, job)
        end = bench.end(job)
        assert end.status == "failed" and end.resumable, end
        assert "Read-only" in end.message or "may not write" in end.message, end.message
        remount(place, "rw")
        jobs.resume(bench.store, job)
        ends_whole(bench, job)
        """
    )


LIMITED = """
import resource, sys
from pathlib import Path
from quantdeck.workbench import jobs
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
jobs.start(jobs.JobStore(Path(sys.argv[1])), sys.argv[2])
"""


def test_file_size_limit_fails_in_words_and_resume_goes_on(bench: Bench, source: Path):
    """No mount needed: the system refuses files above 2 MB to the supervisor."""
    whole = bench.run(source, "Q8_0", "whole.gguf")
    job = bench.submit(source, "Q8_0")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", LIMITED, str(bench.store.root), job], check=True)
    end = bench.end(job)
    assert end.status == "failed"
    assert "File too large" in end.message
    assert end.resumable
    jobs.resume(bench.store, job)
    assert bench.end(job).sha256 == whole.sha256
