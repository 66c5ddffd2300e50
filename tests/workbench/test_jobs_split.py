"""Jobs that write their output as several files, cut and named as llama.cpp's gguf-split does."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.errors import BadArgument, ModelNotFound, ResumeFailed
from quantdeck.workbench.jobs import JobSnapshot, OutputExists, Plan
from quantdeck.workbench.jobs.journal import Rechecked
from quantdeck.workbench.jobs.preflight import NotEnoughSpace
from quantdeck.workbench.library import Library
from quantdeck.workbench.measure import entry_of
from quantdeck.workbench.model import read_model, value, write_header, write_headers
from quantdeck.workbench.recipe import Request
from quantdeck.workbench.sample import SAMPLE
from quantdeck.workbench.shelf import Place, delete, look
from support import checkpoints
from support.jobs import Bench, kill, sha256, write_plain_model, write_split_model

SHAPES = {
    "token_embd.weight": (256, 512),
    "output_norm.weight": (256,),
    "blk.0.attn_k.weight": (256, 200),
    "blk.0.ffn_up.weight": (512, 1500),
    "blk.0.ffn_down.weight": (256, 300),
    "blk.0.odd.weight": (48, 100),
    "blk.1.ffn_up.weight": (512, 600),
    "blk.1.ffn_down.weight": (256, 300),
}
LIMIT = 300_000
"""Bytes a file: in Q8_0, two tensors are larger, and others share files."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_model(tmp_path_factory.mktemp("split") / "source.gguf", SHAPES)


def _outputs(folder: Path, name: str = "out") -> list[Path]:
    return sorted(folder.glob(f"{name}-0*.gguf"))


def _cut(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """gguf-split's rule, in its own words: a file ends where the next tensor would take it beyond the limit."""
    files: list[list[int]] = []
    for number, size in enumerate(sizes):
        if files and sum(sizes[i] for i in files[-1]) + size <= limit:
            files[-1].append(number)
        else:
            files.append([number])
    return files


def _same_weights(whole: Path, parts: Sequence[Path]) -> None:
    """The files hold the tensors of `whole` with their bytes and in their order, as gguf's own reader sees them."""
    expected = gguf.GGUFReader(whole).tensors
    found = [tensor for part in parts for tensor in gguf.GGUFReader(part).tensors]
    assert [t.name for t in found] == [t.name for t in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.tensor_type, list(ours.shape)) == (theirs.tensor_type, list(theirs.shape))
        assert ours.data.tobytes() == theirs.data.tobytes(), ours.name


def _split_values(part: Path) -> dict[str, tuple[str, int]]:
    fields = gguf.GGUFReader(part).fields
    return {name: (f.types[0].name, f.contents()) for name, f in fields.items() if name.startswith("split.")}


# -- the files ---------------------------------------------------------------------------------------------------------


def test_files_are_cut_and_described_as_gguf_split_does(bench: Bench, source: Path):
    whole = bench.run(source, "Q8_0", "whole.gguf")
    end = bench.run(source, "Q8_0", max_file_bytes=LIMIT)
    assert (whole.status, end.status) == ("done", "done"), end.message
    sizes = [t.n_bytes + -t.n_bytes % 32 for t in whole.plan.tensors]
    files = _cut(sizes, LIMIT)
    parts = _outputs(bench.folder)
    assert len(parts) == len(files) > 3
    assert [p.name for p in parts] == [f"out-{i + 1:05}-of-{len(files):05}.gguf" for i in range(len(files))]
    _same_weights(bench.folder / "whole.gguf", parts)
    large = []
    for number, (part, chosen) in enumerate(zip(parts, files, strict=True)):
        assert [t.name for t in gguf.GGUFReader(part).tensors] == [whole.plan.tensors[i].name for i in chosen]
        assert _split_values(part) == {
            "split.no": ("UINT16", number),
            "split.tensors.count": ("INT32", len(SHAPES)),
            "split.count": ("UINT16", len(files)),
        }
        if sum(sizes[i] for i in chosen) > LIMIT:
            large.append(chosen)
    assert [len(chosen) for chosen in large] == [1, 1]
    first, *others = [read_model(bench.folder / "whole.gguf").metadata, *(_metadata(part) for part in parts)]
    assert list(others[0].items())[: len(first)] == list(first.items())
    assert all(len(metadata) == 3 for metadata in others[1:])
    assert not bench.partials()


def _metadata(part: Path):
    from quantdeck.workbench.model.gguf import read_gguf

    return read_gguf(part).metadata


def test_hashes_are_those_of_each_file_and_of_all(bench: Bench, source: Path):
    end = bench.run(source, "Q4_K", max_file_bytes=LIMIT)
    parts = _outputs(bench.folder)
    assert end.hashes == tuple(map(sha256, parts))
    assert end.sha256 == hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert sum(part.stat().st_size for part in parts) == end.plan.total == end.spec.output_bytes
    assert end.spec.output == str(parts[0])
    for number, part in enumerate(parts):
        content = part.read_bytes()
        assert all(content[offset:][:length] == bytes(length) for offset, length in end.plan.gaps(number))


def test_a_limit_that_is_never_reached_gives_one_file_that_says_so(bench: Bench, source: Path):
    end = bench.run(source, "Q8_0", max_file_bytes=10**9)
    assert end.status == "done"
    [part] = _outputs(bench.folder)
    assert part.name == "out-00001-of-00001.gguf"
    assert _split_values(part)["split.count"] == ("UINT16", 1)
    assert end.hashes == (end.sha256,) == (sha256(part),)


def test_a_first_tensor_that_is_larger_than_a_file(bench: Bench, source: Path):
    """gguf-split refuses that; a file of its own is what it gives to any other large tensor."""
    end = bench.run(source, "Q8_0", max_file_bytes=1)
    assert end.status == "done"
    assert len(_outputs(bench.folder)) == len(SHAPES)


@pytest.mark.parametrize("alignment", [32, 128])
def test_alignment_is_that_of_each_file(alignment: int, tmp_path: Path):
    metadata = {"general.architecture": value("string", "plain")}
    if alignment != 32:
        metadata["general.alignment"] = value("uint32", alignment)
    layout = [(f"t{i}", (32, 3), "Q8_0") for i in range(5)]
    headers = write_headers(metadata, layout, 2 * 128)
    assert [len(header.offsets) for header in headers] == [2, 2, 1]
    for number, header in enumerate(headers):
        step = alignment if number == 0 else 32
        assert all(offset % step == 0 for offset in header.offsets)
        (tmp_path / f"x-{number + 1:05}-of-00003.gguf").write_bytes(header.content + bytes(header.total_size))
    assert [t.file for t in read_model(tmp_path / "x-00001-of-00003.gguf").tensors] == [0, 0, 1, 1, 2]
    assert write_headers(metadata, layout) == (write_header(metadata, layout, alignment),)


def test_result_does_not_depend_on_workers_or_ranges(bench: Bench, source: Path):
    one = bench.run(source, "Q4_K", "one.gguf", range_weights=1 << 13, workers=3, max_file_bytes=LIMIT)
    two = bench.run(source, "Q4_K", "two.gguf", range_weights=1 << 22, workers=1, max_file_bytes=LIMIT)
    assert one.status == two.status == "done"
    assert one.hashes == two.hashes


def test_a_split_source_gives_the_files_of_the_whole_one(bench: Bench, source: Path, tmp_path: Path):
    parts = write_split_model(tmp_path, "parts", SHAPES, 1)
    whole = bench.run(parts[0], "Q8_0", "a.gguf", max_file_bytes=LIMIT)
    again = bench.run(source, "Q8_0", "b.gguf", max_file_bytes=LIMIT)
    assert whole.hashes == again.hashes
    third = bench.run(bench.folder / "b-00001-of-00005.gguf", "Q8_0", "c.gguf")
    assert third.sha256 == bench.run(source, "Q8_0", "d.gguf").sha256


def test_plan_survives_its_folder(bench: Bench, source: Path, tmp_path: Path):
    plan = bench.propose(source, "Q8_0", max_file_bytes=LIMIT).plan
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan
    document = json.loads((tmp_path / "plan.json").read_text())
    document["files"][1][0] += 1
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(ResumeFailed):
        Plan.read(tmp_path)


def test_plans_of_older_versions_make_one_file(bench: Bench, source: Path, tmp_path: Path):
    plan = bench.propose(source, "Q8_0").plan
    plan.write(tmp_path)
    document = json.loads((tmp_path / "plan.json").read_text())
    document["total"] = document.pop("files")[0][1]
    for tensor in document["tensors"]:
        del tensor["file"]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert Plan.read(tmp_path) == plan


# -- what the rest of the product makes of them ------------------------------------------------------------------------


def _quantize(bench: Bench, source: Path, level: str, output: str, limit: int, **options):
    how = jobs.JobOptions(2, max_file_bytes=limit, **options)
    proposal = jobs.prepare(bench.store, source, Request(level), bench.folder / output, how)
    job = jobs.submit(bench.store, proposal)
    jobs.start(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    return end


def test_llama_loads_the_sample_from_its_files(bench: Bench):
    end = _quantize(bench, SAMPLE.model, "Q4_K_M", "out.gguf", 1_000_000)
    whole = jobs.prepare(bench.store, SAMPLE.model, Request("Q4_K_M"), bench.folder / "whole.gguf")
    job = jobs.submit(bench.store, whole)
    jobs.start(bench.store, job)
    assert bench.end(job).status == "done"
    assert end.facts["tokens"] > 8
    assert len(end.hashes) == 3
    _same_weights(bench.folder / "whole.gguf", _outputs(bench.folder))


@pytest.mark.parametrize("level", ["F16", "Q8_0"])
def test_checkpoints_are_split_too(bench: Bench, tmp_path: Path, level: str):
    folder = checkpoints.build("llama3", tmp_path / "llama3")
    end = _quantize(bench, folder, level, "out.gguf", 30_000)
    assert len(end.hashes) > 2
    whole = jobs.prepare(bench.store, folder, Request(level), bench.folder / "whole.gguf")
    job = jobs.submit(bench.store, whole)
    jobs.start(bench.store, job)
    assert bench.end(job).status == "done"
    _same_weights(bench.folder / "whole.gguf", _outputs(bench.folder))


def test_library_and_shelf_know_all_files(bench: Bench):
    library = Library(bench.folder / "library")
    end = _quantize(bench, SAMPLE.model, "Q8_0", "out.gguf", 1_000_000, library=library.folder)
    parts = _outputs(bench.folder)
    [entry] = library.entries().entries
    assert (entry.path, entry.n_bytes, entry.sha256) == (str(parts[0]), end.plan.total, end.sha256)
    assert [(f.path, f.n_bytes, f.sha256) for f in entry.files] == [
        (str(part), part.stat().st_size, sha256(part)) for part in parts
    ]
    assert not entry.missing and not entry.changed
    assert entry_of(library, parts[0], read_model(parts[0])) == entry

    [item] = look([], [entry]).items
    assert item.path == parts[0] and item.n_bytes == end.plan.total
    assert item.hashes == end.hashes and item.entry == entry
    [same] = look([Place("folder", bench.folder)], [entry]).items
    assert same.entry == entry and same.files == tuple(parts)

    parts[1].rename(bench.folder / "elsewhere")
    assert library.entries().entries[0].missing
    (bench.folder / "elsewhere").rename(parts[1])
    with parts[1].open("ab") as file:
        file.write(b"x")
    assert library.entries().entries[0].changed
    delete(item, [])
    assert not _outputs(bench.folder)


def test_files_that_were_split_elsewhere_are_known_by_the_hash_of_all(bench: Bench):
    end = _quantize(bench, SAMPLE.model, "Q8_0", "out.gguf", 1_000_000)
    library = Library(bench.folder / "library")
    entry = entry_of(library, Path(end.spec.output), read_model(Path(end.spec.output)))
    assert entry.sha256 == end.sha256 and entry.n_bytes == end.plan.total
    assert tuple(file.sha256 for file in entry.files) == end.hashes
    assert library.find(Path(end.spec.output)) == entry


# -- before it begins --------------------------------------------------------------------------------------------------


def test_a_dry_run_names_all_files(bench: Bench, source: Path):
    proposal = bench.propose(source, "Q8_0", max_file_bytes=LIMIT)
    assert sorted(bench.folder.iterdir()) == []
    assert len(proposal.spec.outputs) == len(proposal.plan.files) == len(proposal.spec.partials)
    assert all(path.parent == bench.folder for path in (*proposal.spec.outputs, *proposal.spec.partials))


def test_any_file_that_is_there_already_is_refused(bench: Bench, source: Path):
    *_, last = bench.propose(source, "Q8_0", max_file_bytes=LIMIT).spec.outputs
    last.write_text("mine")
    with pytest.raises(OutputExists, match=last.name):
        bench.propose(source, "Q8_0", max_file_bytes=LIMIT)
    assert bench.propose(source, "Q8_0", max_file_bytes=LIMIT, overwrite=True)
    last.unlink()
    last.mkdir()
    with pytest.raises(BadArgument, match="is a folder"):
        bench.propose(source, "Q8_0", max_file_bytes=LIMIT, overwrite=True)


def test_no_file_of_the_source_is_written_over(bench: Bench, source: Path):
    end = bench.run(source, "F16", max_file_bytes=LIMIT)
    assert end.status == "done"
    parts = _outputs(bench.folder)
    with pytest.raises(BadArgument, match="source itself"):
        bench.propose(parts[0], "F16", max_file_bytes=LIMIT, overwrite=True)
    (bench.folder / "other-00002-of-00002.gguf").write_bytes(b"")


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_the_name_of_one_file_of_several_is_no_name_for_all(bench: Bench, source: Path, limit: int | None):
    with pytest.raises(BadArgument, match="one file of several"):
        bench.propose(source, "Q8_0", "out-00001-of-00003.gguf", max_file_bytes=limit)


def test_sizes_and_numbers_that_make_no_sense(bench: Bench, tmp_path: Path):
    many = write_plain_model(tmp_path / "many.gguf", {f"t{i}": (32, 1) for i in range(1000)})
    with pytest.raises(BadArgument, match="1000 files, and 999 are allowed"):
        bench.propose(many, "Q8_0", max_file_bytes=1)
    with pytest.raises(BadArgument, match="no sense"):
        bench.propose(many, "Q8_0", max_file_bytes=0)


def test_two_jobs_for_one_file_are_refused(bench: Bench, source: Path):
    bench.submit(source, "Q8_0", max_file_bytes=LIMIT)
    with pytest.raises(BadArgument, match="already makes"):
        bench.submit(source, "Q8_0", max_file_bytes=LIMIT)


def test_room_is_asked_for_all_files(bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch):
    proposal = bench.propose(source, "Q8_0", max_file_bytes=LIMIT)
    from quantdeck.workbench.jobs import preflight

    usage = preflight.shutil.disk_usage(bench.folder)
    free = proposal.plan.total + preflight.SPARE_BYTES - 1
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(NotEnoughSpace):
        bench.propose(source, "Q8_0", max_file_bytes=LIMIT)


# -- kills, cancels, harm ----------------------------------------------------------------------------------------------


def _ends_like(bench: Bench, job: str, whole: JobSnapshot) -> None:
    """The job is done, its files are those of one that nobody disturbed, and nothing was done twice or left behind."""
    end = bench.end(job)
    assert end.status == "done", end.message
    assert end.hashes == whole.hashes == tuple(map(sha256, _outputs(bench.folder)))
    bench.nothing_was_done_twice(job)
    assert not bench.partials()


def test_killed_again_and_again(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf", max_file_bytes=LIMIT)
    rng = random.Random(7)
    job = bench.submit(source, "Q4_K", range_weights=1 << 12, max_file_bytes=LIMIT, workers=2)
    jobs.start(bench.store, job)
    for _ in range(5):
        time.sleep(rng.uniform(0.05, 0.4))
        if (supervisor := bench.supervisor(job)) and kill(supervisor):
            assert bench.quiet()
            if bench.store.snapshot(job).status != "done":
                assert not _outputs(bench.folder)
                assert len(bench.partials()) in (0, len(whole.hashes))
                jobs.resume(bench.store, job)
    _ends_like(bench, job, whole)


DYING_SUPERVISOR = """
import os, signal, sys
from pathlib import Path
from quantdeck.workbench import processes
from quantdeck.workbench.jobs import supervisor

folder, outputs, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def dying(method):
    def call(self, *args, **options):
        global left
        if self.parent == outputs:
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return method(self, *args, **options)
    return call

Path.replace, Path.unlink, Path.rename = map(dying, (Path.replace, Path.unlink, Path.rename))
processes.part, processes.told = lambda: None, lambda: folder
supervisor.main(os.open(os.devnull, os.O_WRONLY), 0)
"""


def _killed_while_publishing(bench: Bench, job: str, steps: int) -> None:
    """Run a job with a supervisor that is killed when it has removed or renamed `steps` files beside the output."""
    command = [sys.executable, "-c", DYING_SUPERVISOR, str(bench.store.folder(job).path), str(bench.folder), str(steps)]
    done = subprocess.run(command, timeout=60, check=False, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert bench.quiet()
    assert bench.store.snapshot(job).status == "interrupted"


def _looks_finished(first: Path) -> bool:
    try:
        read_model(first)
    except ModelNotFound:
        return False
    return True


THREE = {"a.weight": (256, 200), "b.weight": (256, 200), "c.weight": (256, 200)}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_plain_model(tmp_path / "three.gguf", THREE)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_killed_between_renames_is_finished_by_the_next_run(bench: Bench, three: Path, steps: int):
    """0: the first file is still to be cleared away; 1: nothing has its name; 2, 3: the last ones have theirs."""
    whole = bench.run(three, "Q8_0", "whole.gguf", max_file_bytes=1)
    job = bench.submit(three, "Q8_0", max_file_bytes=1)
    _killed_while_publishing(bench, job, steps)
    names = [path.name for path in _outputs(bench.folder)]
    assert names == ["out-00002-of-00003.gguf", "out-00003-of-00003.gguf"][2 - max(0, steps - 1) :]
    assert not any(_looks_finished(path) for path in _outputs(bench.folder))
    jobs.resume(bench.store, job)
    _ends_like(bench, job, whole)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_killed_while_an_older_model_is_replaced(bench: Bench, three: Path, tmp_path: Path, steps: int):
    """Until its first file is gone the older model is whole; then nothing looks finished, least of all a mixture."""
    other = write_plain_model(tmp_path / "older.gguf", THREE, seed=1)
    old = bench.run(other, "Q8_0", max_file_bytes=1)
    new = bench.run(three, "Q8_0", "new.gguf", max_file_bytes=1)
    assert old.hashes != new.hashes
    job = bench.submit(three, "Q8_0", max_file_bytes=1, overwrite=True)
    _killed_while_publishing(bench, job, steps)
    if steps == 0:
        assert tuple(map(sha256, _outputs(bench.folder))) == old.hashes
    else:
        assert not any(_looks_finished(path) for path in _outputs(bench.folder))
    jobs.resume(bench.store, job)
    assert bench.end(job).status == "done"
    assert tuple(map(sha256, _outputs(bench.folder))) == new.hashes
    assert not bench.partials()


@pytest.mark.parametrize("steps", [0, 2, 3])
def test_cancel_after_a_kill_between_renames_leaves_nothing(bench: Bench, three: Path, steps: int):
    job = bench.submit(three, "Q8_0", max_file_bytes=1)
    _killed_while_publishing(bench, job, steps)
    before = {path.name for path in bench.folder.iterdir()} - {p.name for p in _outputs(bench.folder)}
    jobs.cancel(bench.store, job)
    assert bench.store.snapshot(job).status == "cancelled"
    assert not _outputs(bench.folder) and not bench.partials()
    assert {path.name for path in bench.folder.iterdir()} <= before


@pytest.mark.parametrize("harm", ["partial removed", "partial changed", "file removed", "file changed"])
def test_harm_between_renames_is_made_good(bench: Bench, three: Path, harm: str):
    """What is damaged is made again, and what has its name already is taken back meanwhile if it is ours."""
    whole = bench.run(three, "Q8_0", "whole.gguf", max_file_bytes=1)
    job = bench.submit(three, "Q8_0", max_file_bytes=1)
    _killed_while_publishing(bench, job, 3)
    victim = bench.partials()[0] if "partial" in harm else _outputs(bench.folder)[0]
    if "removed" in harm:
        victim.unlink()
    else:
        with victim.open("r+b") as file:
            file.seek(-64, os.SEEK_END)
            file.write(b"harm")
    jobs.resume(bench.store, job)
    end = bench.end(job) if harm != "file changed" else bench.until(job, lambda s: bool(s.message))
    if harm == "file changed":  # nobody knows whose it is
        assert "exists already" in end.message and end.resumable
        assert victim.name in end.message
        assert not _looks_finished(victim)
        assert bench.quiet()
        victim.unlink()
        jobs.resume(bench.store, job)
        end = bench.end(job)
    assert end.status == "done", end.message
    assert end.hashes == whole.hashes == tuple(map(sha256, _outputs(bench.folder)))
    assert not bench.partials()


def test_cancel_while_it_runs_leaves_nothing(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_K", range_weights=1 << 12, max_file_bytes=LIMIT)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    assert len(bench.partials()) == len(bench.store.snapshot(job).plan.files)
    jobs.cancel(bench.store, job)
    assert bench.quiet()
    assert not bench.partials() and not _outputs(bench.folder)


def test_one_partial_file_of_several_that_is_gone_is_made_again(bench: Bench, source: Path):
    whole = bench.run(source, "Q4_K", "whole.gguf", max_file_bytes=LIMIT)
    job = bench.submit(source, "Q4_K", range_weights=1 << 12, workers=1, max_file_bytes=LIMIT)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.3)
    kill(bench.supervisor(job))
    assert bench.quiet()
    bench.partials()[0].unlink()
    jobs.resume(bench.store, job)
    end = bench.end(job)
    assert end.hashes == whole.hashes, end.message
    [recheck] = [event for event in bench.events(job) if isinstance(event, Rechecked)]
    assert recheck.lost and {tensor for tensor, _ in recheck.lost} <= {0, 1, 2}


def test_partial_files_that_are_harmed_while_it_runs(bench: Bench, source: Path):
    job = bench.submit(source, "Q4_K", range_weights=1 << 12, max_file_bytes=LIMIT, workers=1)
    jobs.start(bench.store, job)
    bench.until(job, lambda s: s.fraction > 0.1)
    last = bench.partials()[-1]
    os.truncate(last, 100)
    end = bench.until(job, lambda s: bool(s.message)) if bench.store.folder(job).is_alive else bench.end(job)
    assert last.name in end.message and "changed or removed" in end.message
    assert not _outputs(bench.folder)


def test_more_files_than_a_process_may_open_by_default(bench: Bench, tmp_path: Path):
    whole = write_plain_model(tmp_path / "whole.gguf", {f"t{i}.weight": (32, 2) for i in range(100)})
    job = bench.submit(whole, "Q8_0", max_file_bytes=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, limits[1]))
    try:
        jobs.start(bench.store, job)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    end = bench.end(job)
    assert end.status == "done", end.message
    assert len(read_model(Path(end.spec.output)).files) == 100


def test_a_spec_survives_its_file(bench: Bench, source: Path):
    spec = bench.propose(source, "Q8_0", max_file_bytes=LIMIT).spec
    spec.write(bench.folder / "spec.toml")
    read = type(spec).read(bench.folder / "spec.toml")
    assert read == replace(spec, request=read.request)
    assert (read.outputs, read.partials) == (spec.outputs, spec.partials)
