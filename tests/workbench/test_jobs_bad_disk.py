"""Disks that answer with a read or write error in the middle of a job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.model import read_model
from support.bad_disk import CC, BadDisk
from support.jobs import Bench, kill, write_plain_model

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not CC, reason="needs Linux and a C compiler")

SHAPES = {f"blk.{i}.ffn_up.weight": (1024, 768) for i in range(6)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_plain_model(tmp_path / "source.gguf", SHAPES, "BF16")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BadDisk:
    """A disk for every process that the test starts; good until it is spoilt."""
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = BadDisk(folder)
    for name, value in disk.environ.items():
        monkeypatch.setenv(name, value)
    return disk


def _fails_in_words_and_goes_on(bench: Bench, disk: BadDisk, job: str, whole: str, path: Path) -> None:
    end = bench.end(job)
    assert end.status == "failed" and end.resumable, end
    assert "Input/output error" in end.message and path.name in end.message, end.message
    assert end.message.count(". ") == 0 and end.message.endswith("."), end.message
    assert not (bench.folder / "out.gguf").exists()
    assert bench.quiet() and "Traceback" not in bench.log(job)
    disk.mend()
    jobs.resume(bench.store, job)
    assert bench.end(job).sha256 == whole


@pytest.mark.parametrize("operation", ["read source", "write output", "read output", "sync output"])
def test_an_error_in_the_middle(bench: Bench, disk: BadDisk, source: Path, operation: str) -> None:
    """Whatever fails, the job says which file, leaves nothing under the final name, and can go on."""
    whole = bench.run(source, "Q8_0", "whole.gguf")
    job = bench.submit(source, "Q8_0", range_weights=1 << 14)
    verb, which = operation.split()
    path = source if which == "source" else bench.folder / ".out.gguf.partial"
    middle = read_model(source if which == "source" else bench.folder / "whole.gguf").tensors[3].offset
    disk.spoil(verb, path, 0 if verb == "sync" else middle)
    jobs.start(bench.store, job)
    _fails_in_words_and_goes_on(bench, disk, job, whole.sha256, path)


def test_an_error_while_finished_ranges_are_checked(bench: Bench, disk: BadDisk, source: Path) -> None:
    whole = bench.run(source, "Q8_0", "whole.gguf")
    job = bench.submit(source, "Q8_0", range_weights=1 << 12, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.2)
    supervisor = bench.supervisor(job)
    assert supervisor and kill(supervisor) and bench.quiet()
    partial = bench.folder / ".out.gguf.partial"
    disk.spoil("read", partial, bench.store.snapshot(job).plan.tensors[0].offset)
    jobs.resume(bench.store, job)
    _fails_in_words_and_goes_on(bench, disk, job, whole.sha256, partial)
