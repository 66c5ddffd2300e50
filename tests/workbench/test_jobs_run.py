"""Whole jobs: real processes, real kernels, small models."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from quantdeck.kernels import TYPES
from quantdeck.workbench import jobs
from quantdeck.workbench.errors import QuantdeckError, ResumeFailed, ValidationFailed
from quantdeck.workbench.jobs import JobSnapshot
from quantdeck.workbench.jobs.journal import Note, RangeDone, Running, SettingsChanged, Waiting, WorkerDied
from quantdeck.workbench.recipe import Request
from quantdeck.workbench.sample import SAMPLE
from support import ggml
from support.jobs import Bench, gone, kill, sha256, write_plain_model

SHAPES = {
    "token_embd.weight": (512, 600),
    "blk.0.attn_q.weight": (512, 512),
    "blk.0.attn_norm.weight": (512,),
    "blk.0.ffn_up.weight": (512, 1500),
    "blk.0.odd.weight": (48, 7),
    "blk.0.ffn_exps.weight": (256, 64, 5),
    "blk.0.ffn_down.weight": (1536, 512),
}
LONG = {f"blk.{i}.ffn_up.weight": (1024, 2048) for i in range(10)}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "small.gguf", SHAPES)


@pytest.fixture(scope="session")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "long.gguf", LONG, "BF16")


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q4_K", "Q6_K"])
def test_every_tensor_has_the_bytes_of_libggml(bench: Bench, source: Path, name: str):
    end = bench.run(source, name)
    assert end.status == "done", end.message
    made, original = gguf.GGUFReader(bench.folder / "out.gguf"), gguf.GGUFReader(source)
    for ours, theirs in zip(made.tensors, original.tensors, strict=True):
        rows = theirs.data.reshape(-1, int(theirs.shape[0]))
        if ours.tensor_type == theirs.tensor_type:
            assert ours.data.tobytes() == theirs.data.tobytes()
        elif name in ("F32", "F16", "BF16"):
            values = rows.astype(np.float32)
            wanted = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
            assert ours.data.tobytes() == wanted.tobytes()
        else:
            assert ours.data.tobytes() == ggml.quantize(rows.astype(np.float32), name).tobytes()
    assert end.sha256 == sha256(bench.folder / "out.gguf")
    assert not bench.partials()


@pytest.mark.parametrize("workers", [1, 3])
def test_result_does_not_depend_on_workers_or_ranges(bench: Bench, source: Path, workers: int):
    one = bench.run(source, "Q4_K", "one.gguf", range_weights=1 << 13, workers=workers)
    two = bench.run(source, "Q4_K", "two.gguf", range_weights=1 << 22)
    assert one.status == two.status == "done"
    assert sha256(bench.folder / "one.gguf") == sha256(bench.folder / "two.gguf")


def test_padding_and_end_are_zeros(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0")
    content = (bench.folder / "out.gguf").read_bytes()
    assert len(content) == end.plan.total
    assert content.startswith(end.plan.files[0].header)
    for offset, length in end.plan.gaps():
        assert content[offset : offset + length] == bytes(length)


def test_figures_are_those_of_the_sampled_rows(bench: Bench, source: Path):
    end = bench.run(source, "Q4_0", range_weights=1 << 13)
    reader = {t.name: t for t in gguf.GGUFReader(source).tensors}
    for progress in end.tensors:
        name, k = progress.tensor.name, progress.tensor.row_length
        if progress.tensor.copied:
            assert progress.errors.n == 0
            assert progress.errors.relative is None
            continue
        rows = reader[name].data.reshape(-1, k).astype(np.float32)[::16].copy()
        back = ggml.dequantize(ggml.quantize(rows, "Q4_0"), "Q4_0", k)
        assert progress.errors.n == rows.size
        assert progress.errors.rmse == pytest.approx(np.sqrt(np.mean((rows.astype(np.float64) - back) ** 2)), rel=1e-6)
        assert progress.errors.relative == pytest.approx(np.linalg.norm(rows - back) / np.linalg.norm(rows), rel=1e-5)
        assert progress.errors.weighted_relative == pytest.approx(progress.errors.relative)
    assert end.bytes_done == end.plan.data_bytes
    assert end.weights_done == end.plan.n_weights


def test_progress_is_seen_while_it_runs(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    assert bench.store.snapshot(job).status == "queued"
    jobs.start(bench.store, job)
    snapshots = list(bench.store.follow(job, 0.05))
    running = [s for s in snapshots if s.status == "running" and s.working]
    assert running, [s.status for s in snapshots]
    assert any(0 < s.fraction < 1 and s.weights_per_second > 0 and s.seconds_left for s in running)
    assert all(name in LONG for s in running for name in s.working.values())
    assert [s.weights_done for s in snapshots] == sorted(s.weights_done for s in snapshots)
    assert snapshots[-1].status == "done"
    assert snapshots[-1].rate_history


def _run_unchecked(bench: Bench, source: Path, name: str) -> JobSnapshot:
    """A job whose weights went bad behind the look at them."""
    proposal = bench.propose(source, name)
    job = bench.store.create(proposal.spec, proposal.plan)
    jobs.start(bench.store, job)
    return bench.end(job)


def test_nan_is_refused_before_there_is_a_job(bench: Bench, tmp_path: Path):
    source = write_plain_model(tmp_path / "bad.gguf", SHAPES, bad=("blk.0.ffn_up.weight", 1234))
    with pytest.raises(ValidationFailed, match=r"blk\.0\.ffn_up\.weight .*NaN or infinity in row 1234;"):
        bench.submit(source, "Q4_K")
    assert bench.store.list() == []


def test_nan_in_the_source_names_tensor_and_row(bench: Bench, tmp_path: Path):
    source = write_plain_model(tmp_path / "bad.gguf", SHAPES, bad=("blk.0.ffn_up.weight", 1234))
    end = _run_unchecked(bench, source, "Q4_K")
    assert end.status == "failed"
    assert "blk.0.ffn_up.weight" in end.message
    assert "row 1234" in end.message
    assert end.exit_code == 6
    assert not bench.partials()
    assert not (bench.folder / "out.gguf").exists()
    with pytest.raises(ResumeFailed):
        jobs.resume(bench.store, end.id)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_in_what_is_copied_is_found_too(bench: Bench, tmp_path: Path, dtype: str):
    source = write_plain_model(tmp_path / "bad.gguf", SHAPES, dtype, bad=("blk.0.odd.weight", 5))
    end = _run_unchecked(bench, source, dtype)
    assert end.status == "failed"
    assert "blk.0.odd.weight" in end.message
    assert "row 5" in end.message


def test_pause_and_resume(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    jobs.pause(bench.store, job)
    paused = bench.until(job, lambda s: s.status == "paused")
    assert gone(lambda: bench.workers(job))
    time.sleep(0.3)
    assert bench.store.snapshot(job).weights_done == paused.weights_done
    assert paused.weights_per_second == 0
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"
    done = [event for event in bench.events(job) if isinstance(event, RangeDone)]
    assert len(done) == len(list(paused.plan.ranges()))


def test_cancel_leaves_nothing(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.05)
    assert bench.partials()
    jobs.cancel(bench.store, job)
    assert bench.store.snapshot(job).status == "cancelled"
    assert bench.store.list()[0].status == "cancelled"
    assert not bench.partials()
    assert bench.quiet()
    assert not (bench.folder / "out.gguf").exists()
    with pytest.raises(ResumeFailed):
        jobs.resume(bench.store, job)
    jobs.cancel(bench.store, job)


def test_cancel_before_the_start_and_after_a_crash(bench: Bench, long_source: Path):
    never = bench.submit(long_source, "Q8_0", "never.gguf")
    jobs.cancel(bench.store, never)
    assert bench.store.snapshot(never).status == "cancelled"
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.05)
    kill(bench.supervisor(job))
    bench.until(job, lambda s: s.status == "interrupted")
    assert bench.partials()
    jobs.cancel(bench.store, job)
    assert bench.store.snapshot(job).status == "cancelled"
    assert not bench.partials()


def test_workers_and_nice_change_while_it_runs(bench: Bench, source: Path):
    job = bench.submit(source, "IQ3_S", range_weights=1 << 12, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    assert len(bench.workers(job)) == 1
    jobs.set_workers(bench.store, job, 3)
    jobs.set_nice(bench.store, job, 7)
    more = bench.until(job, lambda s: len(s.working) == 3)
    assert more.workers == 3
    bench.until(job, lambda s: s.nice == 7)
    assert {p.nice() for p in bench.workers(job)} == {7}
    jobs.set_workers(bench.store, job, 1)
    bench.until(job, lambda s: s.workers == 1 and len(s.working) == 1)
    end = bench.end(job)
    assert end.status == "done"
    assert not [e for e in bench.events(job) if isinstance(e, WorkerDied)]
    assert [e for e in bench.events(job) if isinstance(e, SettingsChanged)]
    with pytest.raises(QuantdeckError, match="0 workers"):
        jobs.set_workers(bench.store, job, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may take any nice level")
def test_nice_level_that_is_not_allowed_is_said(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 14, nice=10)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    jobs.set_nice(bench.store, job, -5)
    assert bench.end(job).status == "done"
    assert any("nice level -5" in e.text for e in bench.events(job) if isinstance(e, Note))


def test_queue_runs_one_after_the_other_in_order(bench: Bench, long_source: Path):
    ids = [bench.submit(long_source, "Q8_0", f"{i}.gguf", range_weights=1 << 16) for i in range(3)]
    order = [ids[1], ids[0], ids[2]]
    for job in order:
        jobs.start(bench.store, job)
    assert all(bench.end(job).status == "done" for job in ids)
    spans = []
    for job in order:
        events = bench.events(job)
        began = next(e.clock for e in events if isinstance(e, Running))
        spans.append((began, events[-1].clock))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans
    assert any(isinstance(e, Waiting) for e in bench.events(ids[2]))
    assert len({sha256(bench.folder / f"{i}.gguf") for i in range(3)}) == 1


def test_paused_job_lets_the_next_one_go_first(bench: Bench, long_source: Path):
    first, second = (bench.submit(long_source, "Q4_K", f"{i}.gguf", range_weights=1 << 15) for i in range(2))
    jobs.start(bench.store, first)
    jobs.start(bench.store, second)
    bench.until(first, lambda s: s.fraction > 0)
    waiting = bench.until(second, lambda s: s.status == "queued" and s.message)
    assert first in waiting.message
    jobs.pause(bench.store, first)
    assert bench.end(second).status == "done"
    assert bench.store.snapshot(first).status == "paused"
    jobs.resume(bench.store, first)
    assert bench.end(first).status == "done"


def test_dead_job_does_not_hold_the_queue(bench: Bench, long_source: Path):
    first, second = (bench.submit(long_source, "Q4_K", f"{i}.gguf", range_weights=1 << 15) for i in range(2))
    jobs.start(bench.store, first)
    jobs.start(bench.store, second)
    bench.until(first, lambda s: s.fraction > 0)
    kill(bench.supervisor(first))
    assert bench.end(second).status == "done"


def test_two_programs_start_the_same_job(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    outcomes: list[str] = []

    def start() -> None:
        try:
            jobs.start(bench.store, job)
            outcomes.append("started")
        except QuantdeckError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("started") == 1, outcomes
    assert sum("another program" in o or "already" in o for o in outcomes) == 3
    end = bench.end(job)
    assert end.status == "done"
    done = [event for event in bench.events(job) if isinstance(event, RangeDone)]
    assert len(done) == len(list(end.plan.ranges()))


def test_source_that_changes_under_the_job(bench: Bench, tmp_path: Path):
    source = write_plain_model(tmp_path / "changing.gguf", LONG)
    job = bench.submit(source, "Q4_K", range_weights=1 << 14, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    with source.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    end = bench.end(job)
    assert end.status == "failed"
    assert "changed while the job ran" in end.message
    assert not (bench.folder / "out.gguf").exists()
    assert not bench.partials()


def test_source_that_changed_before_the_start(bench: Bench, tmp_path: Path):
    source = write_plain_model(tmp_path / "changing.gguf", SHAPES)
    job = bench.submit(source, "Q8_0")
    os.utime(source, ns=(1, 1))
    jobs.start(bench.store, job)
    end = bench.end(job)
    assert end.status == "failed"
    assert "changed since" in end.message
    assert end.exit_code == 7


def test_source_that_shrinks_or_goes_away(bench: Bench, tmp_path: Path):
    for name, harm in {"cut": lambda p: os.truncate(p, 5000), "gone": lambda p: p.unlink()}.items():
        source = write_plain_model(tmp_path / f"{name}.gguf", LONG)
        job = bench.submit(source, "Q4_K", f"{name}-out.gguf", range_weights=1 << 14, workers=1)
        jobs.start(bench.store, job)
        bench.until(job, lambda s: s.fraction > 0)
        harm(source)
        end = bench.end(job)
        assert end.status == "failed"
        assert name in end.message
        assert not (bench.folder / f"{name}-out.gguf").exists()


def test_output_that_appears_meanwhile_is_not_overwritten(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    output = bench.folder / "out.gguf"
    output.write_text("precious")
    end = bench.end(job)
    assert end.status == "failed"
    assert "appeared" in end.message
    assert output.read_text() == "precious"
    output.unlink()
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    assert sha256(output) == end.sha256


def test_overwriting_keeps_the_old_file_until_the_end(bench: Bench, long_source: Path):
    output = bench.folder / "out.gguf"
    output.write_text("old")
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15, overwrite=True)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.3)
    assert output.read_text() == "old"
    assert bench.end(job).status == "done"
    assert sha256(output) == bench.store.snapshot(job).sha256


def test_worker_memory_is_bounded(bench: Bench, tmp_path: Path):
    """Rows of usual length at the usual range size: every worker stays under 100 MB."""
    source = write_plain_model(tmp_path / "wide.gguf", {f"blk.{i}.w.weight": (4096, 2048) for i in range(4)}, "BF16")
    job = bench.submit(source, "Q4_K", range_weights=2 << 20)
    jobs.start(bench.store, job)
    largest = 0
    while not bench.store.snapshot(job).ended_for_good:
        for worker in bench.workers(job):
            with contextlib.suppress(psutil.Error):
                largest = max(largest, worker.memory_info().rss)
        time.sleep(0.02)
    assert bench.store.snapshot(job).status == "done"
    assert 20e6 < largest < 100e6


def test_workers_import_nothing_heavy():
    heavy = ("gguf", "textual", "huggingface_hub", "llama_cpp", "tomlkit", "psutil")
    code = (
        "import sys; from quantdeck.workbench.jobs import worker, supervisor; import quantdeck.workbench.model;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sigterm_to_the_supervisor_leaves_a_job_that_can_be_resumed(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 15)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    kill(bench.supervisor(job), signal.SIGTERM)
    stopped = bench.until(job, lambda s: s.status == "interrupted")
    assert "resume" in stopped.message
    assert bench.quiet()
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"


def test_types_table_is_what_a_plan_lays_out(bench: Bench, source: Path):
    plan = bench.propose(source, "Q6_K").plan
    for tensor in plan.tensors:
        if tensor.type in TYPES:
            assert tensor.n_bytes == tensor.n_rows * TYPES[tensor.type].row_bytes(tensor.row_length)


def test_huge_rows_are_worked_on_in_pieces(bench: Bench, tmp_path: Path):
    """Rows of 9 million weights: the bytes are the same, and no worker holds a row."""
    shapes = {"long.weight": (9 << 20, 2), "vector.weight": (9 << 20,), "small.weight": (256, 4)}
    source = write_plain_model(tmp_path / "huge.gguf", shapes, "BF16")
    job = bench.submit(source, "Q4_0", range_weights=2 << 20, workers=1)
    assert [t.split for t in bench.store.snapshot(job).plan.tensors] == [6, 6, 1]
    jobs.start(bench.store, job)
    largest = 0
    while not bench.store.snapshot(job).ended_for_good:
        for worker in bench.workers(job):
            with contextlib.suppress(psutil.Error):
                largest = max(largest, worker.memory_info().rss)
        time.sleep(0.01)
    assert bench.store.snapshot(job).status == "done"
    assert largest < 100e6
    made, original = gguf.GGUFReader(bench.folder / "out.gguf").tensors, gguf.GGUFReader(source).tensors
    halves = original[0].data.view(np.uint16).astype(np.uint32) << 16
    assert made[0].data.tobytes() == ggml.quantize(halves.view(np.float32).reshape(2, -1), "Q4_0").tobytes()
    assert made[1].data.tobytes() == original[1].data.tobytes()


def test_watchers_cost_next_to_nothing(bench: Bench, long_source: Path):
    """Five watchers, four looks a second each: under 3 % of one core, first look included."""
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 14)
    jobs.start(bench.store, job)
    watches = [bench.store.watch(job) for _ in range(5)]
    began, used = time.monotonic(), time.process_time()
    while not all(watch.look().ended_for_good for watch in watches):
        time.sleep(0.25)
    seconds = time.monotonic() - began
    assert (time.process_time() - used) / max(seconds, 1.0) < 0.03 * len(os.sched_getaffinity(0))


def test_two_stores_with_the_same_output(bench: Bench, long_source: Path, tmp_path: Path):
    """The second job is told so, and cancelling it leaves the first one's file alone."""
    whole = bench.run(long_source, "Q4_K", "whole.gguf")
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 14)
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Bench(other_folder)
    rival = other.submit(long_source, "Q8_0", "../out.gguf")
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    jobs.start(other.store, rival)
    end = other.end(rival)
    assert end.status == "failed"
    assert "Another program is writing" in end.message
    jobs.cancel(other.store, rival)
    assert other.store.snapshot(rival).status == "cancelled"
    assert bench.end(job).sha256 == whole.sha256


def test_job_whose_folder_is_removed_by_hand_ends(bench: Bench, long_source: Path):
    job = bench.submit(long_source, "Q4_K", range_weights=1 << 14, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0)
    folder = bench.store.folder(job).path
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    assert bench.quiet()
    assert not bench.partials()
    assert not (bench.folder / "out.gguf").exists()


def test_file_that_llama_cpp_refuses_gets_no_name(bench: Bench, source: Path):
    """The architecture is one that llama.cpp does not know: the job fails in words, and keeps what it made."""
    job = bench.submit(source, "Q8_0", verify=True)
    jobs.start(bench.store, job)
    end = bench.end(job)
    assert end.status == "failed"
    assert end.exit_code == 6
    assert "plain" in end.message
    assert end.resumable
    assert end.weights_done == end.plan.n_weights
    assert not (bench.folder / "out.gguf").exists()
    assert len(bench.partials()) == 1
    jobs.cancel(bench.store, job)
    assert not bench.partials()


def test_cancel_and_sigterm_while_llama_cpp_verifies(bench: Bench):
    for name, act in {
        "cancel": jobs.cancel,
        "stop": lambda _, job: kill(bench.supervisor(job), signal.SIGTERM),
    }.items():
        proposal = jobs.prepare(
            bench.store, SAMPLE.model, Request("Q8_0"), bench.folder / f"{name}.gguf", jobs.JobOptions(workers=1)
        )
        job = jobs.submit(bench.store, proposal)
        jobs.start(bench.store, job)
        bench.until(job, lambda s: s.status == "verifying")
        act(bench.store, job)
        end = bench.end(job)
        if end.status == "done":
            continue
        assert end.status == {"cancel": "cancelled", "stop": "interrupted"}[name]
        assert bench.quiet()
        if name == "stop":
            jobs.resume(bench.store, job)
            assert bench.end(job).status == "done"
