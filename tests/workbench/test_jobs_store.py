"""The store and what is checked before a job begins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.errors import (
    BadArgument,
    ModelNotFound,
    NotEnoughMemory,
    QuantdeckError,
    ResumeFailed,
    ValidationFailed,
)
from quantdeck.workbench.jobs import JobStore, NotEnoughSpace, OutputExists, preflight, store
from quantdeck.workbench.jobs.control import Control, ControlFile
from quantdeck.workbench.jobs.logout import logout_warning
from quantdeck.workbench.jobs.plan import Plan
from quantdeck.workbench.jobs.spec import JobSpec
from quantdeck.workbench.recipe import Request
from support.jobs import Bench, kill, sha256, write_plain_model

SHAPES = {"a.weight": (256, 64), "b.weight": (512, 33), "b.norm.weight": (512,)}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("source") / "small.gguf", SHAPES)


def test_plan_and_spec_survive_the_store(bench: Bench, source: Path):
    proposal = bench.propose(source, "Q4_K", nice=3)
    job = jobs.submit(bench.store, proposal)
    folder = bench.store.folder(job)
    assert Plan.read(folder.path) == proposal.plan
    assert folder.spec() == replace(proposal.spec, request=folder.spec().request)
    assert folder.spec().request["level"] == "Q4_K"
    text = folder.spec_path.read_text()
    assert str(source) in text
    assert "nice = 3" in text


def test_spec_holds_any_name_that_is_text(tmp_path: Path):
    odd = 'a "quoted" \\ name\n\twith \x7f \x1b[31m \u202e \U0001f600 = [x] #'
    spec = JobSpec(
        source=odd, output="/o", level="Q8_0", workers=1, notes=(odd, ""), request={"pure": False, "x": [[odd]]}
    )
    spec.write(tmp_path / "spec.toml")
    assert JobSpec.read(tmp_path / "spec.toml") == spec
    with pytest.raises(BadArgument, match="UTF-8"):
        replace(spec, source="bad \udcff name").write(tmp_path / "spec.toml")


def test_a_dry_run_writes_nothing(bench: Bench, source: Path):
    proposal = bench.propose(source, "Q8_0")
    assert sorted(bench.folder.iterdir()) == []
    assert proposal.plan.total == proposal.spec.output_bytes
    assert proposal.plan == bench.propose(source, "Q8_0").plan


def test_ids_are_sortable_and_can_be_shortened(bench: Bench, source: Path):
    first = bench.submit(source, "Q4_K", "1.gguf")
    second = bench.submit(source, "Q8_0", "2.gguf")
    assert first[:8].isdigit()
    assert "-q4_k-" in first
    assert bench.store.ids() == sorted([first, second])
    assert bench.store.folder(first[-4:]).id == first
    with pytest.raises(BadArgument, match="Several"):
        bench.store.folder(first[:8])
    with pytest.raises(BadArgument, match="no job"):
        bench.store.folder("nothing")
    with pytest.raises(BadArgument, match="no job"):
        bench.store.folder("../store")


@pytest.mark.parametrize("what", ["exists", "folder", "missing", "source", "hard link", "symbolic link", "name"])
def test_output_is_checked(bench: Bench, source: Path, what: str):
    output = bench.folder / "out.gguf"
    name, kind, overwrite = "out.gguf", BadArgument, True
    if what == "exists":
        output.write_text("x")
        kind, overwrite = OutputExists, False
    elif what == "folder":
        output.mkdir()
    elif what == "missing":
        name = "no/such/folder/out.gguf"
    elif what == "source":
        source = Path(shutil.copy(source, output))
    elif what == "hard link":
        os.link(source, output)
    elif what == "symbolic link":
        output.symlink_to(source)
    elif what == "name":
        name = "x" * 250
    before = source.read_bytes()
    with pytest.raises(kind):
        bench.propose(source, "Q8_0", name, overwrite=overwrite)
    assert source.read_bytes() == before
    assert not bench.store.ids()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(bench: Bench, source: Path):
    (bench.folder / "locked").mkdir(mode=0o500)
    with pytest.raises(BadArgument, match="may not write"):
        bench.propose(source, "Q8_0", "locked/out.gguf")


def test_space_counts_what_other_jobs_still_need(bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch):
    total = bench.propose(source, "F32", "x.gguf").plan.total
    room = [10 * total + preflight.SPARE_BYTES]
    usage = shutil.disk_usage(bench.folder)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=room[0]))
    job = bench.submit(source, "F32", "one.gguf")
    room[0] = int(1.5 * total) + preflight.SPARE_BYTES
    with pytest.raises(NotEnoughSpace, match="other jobs still need"):
        bench.propose(source, "F32", "two.gguf")
    jobs.cancel(bench.store, job)
    bench.propose(source, "F32", "two.gguf")
    room[0] = total // 2
    with pytest.raises(NotEnoughSpace, match="make room"):
        bench.propose(source, "F32", "two.gguf")


def test_memory_is_checked(bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch):
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=250 << 20))
    with pytest.raises(NotEnoughMemory, match="use 2 workers"):
        bench.propose(source, "Q8_0", workers=8)
    bench.propose(source, "Q8_0", workers=2)


def test_nonsense_is_refused(bench: Bench, source: Path):
    for options in ({"workers": 0}, {"workers": 100000}, {"nice": 20}, {"nice": -21}):
        with pytest.raises(BadArgument, match="no sense"):
            bench.propose(source, "Q8_0", **options)


def test_two_jobs_cannot_make_the_same_file(bench: Bench, source: Path):
    job = bench.submit(source, "Q8_0")
    with pytest.raises(BadArgument, match=f"Job {job} already makes"):
        bench.propose(source, "Q4_K")
    link = bench.folder / "link"
    link.symlink_to(bench.folder, target_is_directory=True)
    with pytest.raises(BadArgument, match="already makes"):
        bench.propose(source, "Q4_K", "link/out.gguf")


def test_source_that_changed_since_the_proposal(bench: Bench, tmp_path: Path):
    source = write_plain_model(tmp_path / "s.gguf", SHAPES)
    proposal = bench.propose(source, "Q8_0")
    with source.open("r+b") as file:
        file.seek(100)
        file.write(b"!")
    os.utime(source, ns=(proposal.plan.sources[0].mtime_ns,) * 2)
    with pytest.raises(ResumeFailed, match="has changed"):
        jobs.submit(bench.store, proposal)
    source.unlink()
    with pytest.raises(ModelNotFound):
        jobs.submit(bench.store, proposal)
    assert not bench.store.ids()


def test_prepare_says_what_is_wrong_with_the_model(bench: Bench, tmp_path: Path):
    empty = tmp_path / "empty.gguf"
    empty.write_bytes(b"")
    with pytest.raises(ValidationFailed):
        jobs.prepare(bench.store, empty, Request("Q8_0"), tmp_path / "out.gguf")
    with pytest.raises(ModelNotFound):
        jobs.prepare(bench.store, tmp_path / "none.gguf", Request("Q8_0"), tmp_path / "out.gguf")


def test_500_finished_jobs_are_listed_quickly(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0")
    assert bench.quiet()
    model = bench.store.folder(end.id)
    for i in range(500):
        other = bench.store.root / f"20260101-0000-q8_0-{i:04x}"
        shutil.copytree(model.path, other)
        summary = json.loads((other / "summary.json").read_text()) | {"id": other.name}
        (other / "summary.json").write_text(json.dumps(summary))
    ratios = []
    for _ in range(7):
        began = time.perf_counter()
        for summary in bench.store.root.glob("*/summary.json"):
            json.loads(summary.read_text())
        reading = time.perf_counter() - began
        listed = bench.store.list()
        ratios.append((time.perf_counter() - began - reading) / reading)
    assert len(listed) == 501
    assert {one.status for one in listed} == {"done"}
    assert min(ratios) < 10, ratios  # of the time that reading their summaries takes


def test_damaged_jobs_are_shown_and_can_be_removed(bench: Bench, source: Path):
    good = bench.run(source, "Q8_0")
    harms = {
        "no spec": lambda f: f.spec_path.unlink(),
        "bad spec": lambda f: f.spec_path.write_bytes(b"\xff\xfe = ["),
        "odd spec": lambda f: f.spec_path.write_text('source = 5\noutput = "x"\nlevel = "x"\nworkers = 1\n'),
        "no plan": lambda f: (f.path / "plan.json").unlink(),
        "bad plan": lambda f: (f.path / "plan.json").write_text('{"tensors": 5}'),
        "bad header": lambda f: (f.path / "header.bin").write_bytes(b"x"),
        "empty": lambda f: [p.unlink() for p in f.path.iterdir()],
    }
    damaged = []
    for i, harm in enumerate(harms.values()):
        job = bench.submit(source, "Q8_0", f"{i}.gguf")
        harm(bench.store.folder(job))
        damaged.append(job)
    (bench.store.root / "a file").write_text("")
    listed = {summary.id: summary for summary in bench.store.list()}
    assert set(listed) == {good.id, *damaged}
    for job in damaged:
        assert listed[job].status == "failed"
        assert "missing or damaged" in listed[job].message
        with pytest.raises(ResumeFailed):
            bench.store.snapshot(job)
        with pytest.raises(QuantdeckError):
            jobs.start(bench.store, job)
        bench.store.remove(job)
    assert bench.store.ids() == [good.id]


def test_job_without_a_journal_or_with_rubbish_begins_anew(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf")
    for i, content in enumerate((None, b"", b"\0" * 3000, os.urandom(5000), b'{"event":"done"}\n' * 3)):
        job = bench.submit(source, "Q4_K", f"{i}.gguf")
        journal = bench.store.folder(job).journal
        journal.unlink() if content is None else journal.write_bytes(content)
        assert bench.store.snapshot(job).status == "queued"
        jobs.start(bench.store, job)
        assert bench.end(job).sha256 == whole.sha256


def test_journal_garbled_in_the_middle_loses_only_that_range(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf", range_weights=1 << 12)
    job = bench.submit(source, "Q4_K", range_weights=1 << 12)
    folder = bench.store.folder(job)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.2)
    supervisor = bench.supervisor(job)
    if supervisor:
        kill(supervisor)
    assert bench.quiet()
    if bench.store.snapshot(job).status == "done":
        pytest.skip("the job was faster than the kill")
    lines = [line for line in folder.journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    places = [i for i, line in enumerate(lines) if b'"range_done"' in line]
    lines[places[0]] = lines[places[0]][:20] + b"\xff" + lines[places[0]][20:]
    folder.journal.write_bytes(b"".join(lines) + b'{"event":"range_d')
    assert bench.store.snapshot(job).garbled_lines == 1
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.status == "done"
    assert end.sha256 == whole.sha256
    assert end.garbled_lines == 2


def test_list_of_a_running_or_cut_off_job_reads_no_journal(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write_plain_model(tmp_path / "s.gguf", {f"{i}.weight": (512, 2048) for i in range(8)})
    job = bench.submit(source, "Q4_K", range_weights=1 << 13, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.05)
    monkeypatch.setattr(store, "JobWatch", None)
    [running] = bench.store.list()
    assert running.status == "running"
    monkeypatch.undo()
    kill(bench.supervisor(job))
    assert bench.quiet()
    monkeypatch.setattr(store, "JobWatch", None)
    [cut_off] = bench.store.list()
    assert cut_off.status == "interrupted"
    assert "resume" in cut_off.message
    monkeypatch.undo()
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"
    [done] = bench.store.list()
    assert (done.status, done.fraction) == ("done", 1.0)


def test_summary_that_is_damaged_is_made_up_for(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0")
    path = bench.store.folder(end.id).summary_path
    assert bench.quiet()
    for content in (b"", b"[]", b'{"id": 5}', b"\xff", path.read_bytes().replace(b"done", b"odd!")):
        path.write_bytes(content)
        [summary] = bench.store.list()
        assert (summary.status, summary.sha256) == ("done", end.sha256)


def test_remove_only_what_has_ended(bench: Bench, source: Path):
    job = bench.submit(source, "Q8_0")
    with pytest.raises(BadArgument, match="not ended"):
        bench.store.remove(job)
    jobs.start(bench.store, job)
    assert bench.end(job).status == "done"
    assert bench.quiet()
    bench.store.remove(job)
    assert bench.store.list() == []
    assert (bench.folder / "out.gguf").exists()


def test_ended_jobs_refuse_to_start_or_resume(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0")
    assert bench.quiet()
    before = sha256(bench.folder / "out.gguf")
    with pytest.raises(ResumeFailed, match="already"):
        jobs.start(bench.store, end.id)
    with pytest.raises(ResumeFailed, match="nothing to resume"):
        jobs.resume(bench.store, end.id)
    with pytest.raises(QuantdeckError, match="nothing to pause"):
        jobs.pause(bench.store, end.id)
    jobs.cancel(bench.store, end.id)
    assert bench.store.snapshot(end.id).status == "done"
    assert sha256(bench.folder / "out.gguf") == before


def test_store_that_is_no_folder(tmp_path: Path, source: Path):
    (tmp_path / "store").write_text("a file")
    bench = Bench(tmp_path)
    assert bench.store.list() == []
    with pytest.raises(QuantdeckError, match="cannot be written"):
        bench.submit(source, "Q8_0")


def test_control_file_keeps_the_last_sound_wish(tmp_path: Path):
    control = ControlFile(tmp_path, Control("run", 2, 0))
    assert control.read() == Control("run", 2, 0)
    control.change(workers=5)
    control.change(wish="pause")
    assert ControlFile(tmp_path, Control()).read() == Control("pause", 5, 0)
    for content in (b"", b"[]", b'{"wish":"fly","workers":1,"nice":0}', b'{"wish":"run","workers":0,"nice":0}'):
        (tmp_path / "control.json").write_bytes(content)
        assert control.read() == Control("pause", 5, 0)


def test_five_watchers_read_only_what_is_new(bench: Bench, source: Path):
    job = bench.submit(source, "Q8_0")
    watch = bench.store.watch(job)
    watch.look()
    jobs.start(bench.store, job)
    bench.end(job)
    assert watch.look().status == "done"
    offset = watch._reader._offset
    assert offset == bench.store.folder(job).journal.stat().st_size
    assert watch.look().status == "done"


def test_logout_warning_follows_logind(tmp_path: Path):
    assert logout_warning(tmp_path, "ann") == ""
    (tmp_path / "etc/systemd/logind.conf.d").mkdir(parents=True)
    (tmp_path / "etc/systemd/logind.conf").write_text("[Login]\n#KillUserProcesses=yes\n")
    assert logout_warning(tmp_path, "ann") == ""
    (tmp_path / "etc/systemd/logind.conf").write_text("[Login]\nKillUserProcesses=yes\n")
    assert "systemd-run --user --scope" in logout_warning(tmp_path, "ann")
    assert logout_warning(tmp_path, "root") == ""
    (tmp_path / "etc/systemd/logind.conf.d/50-local.conf").write_text("[Login]\nKillUserProcesses=no\n")
    assert logout_warning(tmp_path, "ann") == ""
    (tmp_path / "etc/systemd/logind.conf.d/60-worse.conf").write_text("not a section\n")
    (tmp_path / "etc/systemd/logind.conf.d/70-yes.conf").write_text("[Login]\nKillUserProcesses=1\n")
    assert "enable-linger" in logout_warning(tmp_path, "ann")
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/ann").write_text("")
    assert logout_warning(tmp_path, "ann") == ""


def test_listing_needs_no_numpy(bench: Bench, source: Path):
    """The first frame lists the jobs; arithmetic can wait."""
    bench.run(source, "Q8_0")
    code = (
        "import sys; from pathlib import Path; from quantdeck.workbench.jobs import JobStore;"
        "assert JobStore(Path(sys.argv[1])).list();"
        "print('numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(bench.store.root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
    assert JobStore(bench.store.root).list()
