"""The register: what goes in comes out, damage stays where it is, and nothing of others is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from quantdeck.workbench import library as module
from quantdeck.workbench.errors import BadArgument
from quantdeck.workbench.library import Entry, Figure, Library, LibraryError

FIGURE = Figure("perplexity", 5.89, "2026-11-21T09:00:00+00:00", {"text": "eval.txt", "context": 512, "error": 0.04})


def entry(number: int = 0, **changes) -> Entry:
    made = Entry(
        sha256=sha256(str(number).encode()).hexdigest(),
        path=f"/models/m{number}.gguf",
        source="m-f16.gguf",
        source_fingerprint="f00d",
        architecture="llama",
        level="Q4_K_M",
        n_bytes=5,
        ratio=3.3,
        bits_per_weight=4.85,
        seconds=12.5,
        created_at=f"2026-11-21T09:{number // 60:02d}:{number % 60:02d}+00:00",
        recipe={"level": "Q4_K_M", "pure": False, "tensor_types": [["attn", "Q8_0"]], "imatrix": None},
        verified=True,
        verification="Loaded in llama.cpp and answered.",
    )
    return replace(made, **changes)


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path / "library")


def file_of(library: Library, of: Entry) -> Path:
    return library.folder / f"{of.sha256}.json"


def test_what_goes_in_comes_out(library):
    made = entry(figures=(FIGURE,), imatrix="cal.gguf", imatrix_sha256="ab" * 32)
    library.add(made)
    assert library.get(made.sha256) == replace(made, missing=True)
    assert library.entries().entries == (replace(made, missing=True),)
    assert json.loads(file_of(library, made).read_text())["schema"] == 1


def test_nothing_there(library):
    assert library.entries() == module.Listing((), ())
    assert library.get("0" * 64) is None
    assert library.find(Path("/models/m0.gguf")) is None
    assert not library.remove("0" * 64)
    with pytest.raises(BadArgument, match="no model"):
        library.add_figures("0" * 64, FIGURE)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "x" * 64, "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_only_hashes_name_entries(library, name):
    for call in (library.get, library.remove, lambda n: library.add_figures(n, FIGURE)):
        with pytest.raises(BadArgument, match="64 hexadecimal"):
            call(name)
    with pytest.raises(BadArgument):
        library.add(entry(sha256=name))


def test_missing_and_changed_files_are_marked(library, tmp_path):
    files = [tmp_path / f"{name}.gguf" for name in ("same", "grown", "gone")]
    files[0].write_bytes(b"12345")
    files[1].write_bytes(b"123456")
    for number, file in enumerate(files):
        library.add(entry(number, path=str(file)))
    marks = {e.name: (e.missing, e.changed) for e in library.entries().entries}
    assert marks == {"same.gguf": (False, False), "grown.gguf": (False, True), "gone.gguf": (True, False)}
    assert '"missing"' not in file_of(library, entry(2)).read_text()


def test_latest_first_and_found_by_path(library, tmp_path):
    for number in (2, 0, 1):
        library.add(entry(number))
    assert [e.name for e in library.entries().entries] == ["m2.gguf", "m1.gguf", "m0.gguf"]
    assert library.find(Path("/models/../models/m1.gguf")).sha256 == entry(1).sha256
    newer = entry(3, path="/models/m1.gguf")
    library.add(newer)
    assert library.find(Path("/models/m1.gguf")).sha256 == newer.sha256


def test_the_same_bytes_again_keep_figures_and_places(library):
    library.add(entry(figures=(FIGURE,)))
    library.add(entry(path="/elsewhere/x.gguf", figures=(FIGURE, replace(FIGURE, value=1.0)), seconds=3.0))
    found = library.get(entry().sha256)
    assert (found.path, found.other_paths, found.seconds) == ("/elsewhere/x.gguf", ("/models/m0.gguf",), 3.0)
    assert [figure.value for figure in found.figures] == [5.89, 1.0]
    assert library.find(Path("/models/m0.gguf")) == found
    library.add(entry())
    assert library.get(entry().sha256).other_paths == ("/elsewhere/x.gguf",)


def test_figures_add_up_and_unknown_keys_stay(library):
    library.add(entry())
    file = file_of(library, entry())
    raw = json.loads(file.read_text()) | {"stars": 5}
    file.write_text(json.dumps(raw))
    updated = library.add_figures(entry().sha256, FIGURE)
    assert updated.figures == (FIGURE,)
    updated = library.add_figures(entry().sha256, replace(FIGURE, kind="kl_divergence", value=0.01))
    assert [figure.kind for figure in library.get(entry().sha256).figures] == ["perplexity", "kl_divergence"]
    assert json.loads(file.read_text())["stars"] == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_no_numbers_are_refused(library, value):
    library.add(entry())
    before = file_of(library, entry()).read_bytes()
    with pytest.raises(BadArgument, match="cannot be registered"):
        library.add_figures(entry().sha256, replace(FIGURE, value=value))
    assert file_of(library, entry()).read_bytes() == before


def damages():
    good = {"schema": 1, **module.to_table(entry())}
    without = {key: value for key, value in good.items() if key != "level"}
    yield from [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"sha256": "x"}', b"null"]
    yield json.dumps(without).encode()
    yield json.dumps(good | {"n_bytes": "five"}).encode()
    yield json.dumps(good | {"sha256": "0" * 64}).encode()


@pytest.mark.parametrize("content", list(damages()))
def test_damage_is_reported_and_the_rest_is_listed(library, content):
    library.add(entry(1))
    file = file_of(library, entry(0))
    file.write_bytes(content)
    listing = library.entries()
    assert [e.sha256 for e in listing.entries] == [entry(1).sha256]
    assert len(listing.problems) == 1
    assert file.name in listing.problems[0]
    for act in (lambda: library.get(entry(0).sha256), lambda: library.add(entry(0))):
        with pytest.raises(LibraryError, match="damaged"):
            act()
    assert file.read_bytes() == content


def test_wrong_optional_values_are_reported_and_the_entry_stays(library):
    library.add(entry())
    file = file_of(library, entry())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"figures": [{"kind": 3}], "verified": "yes"}))
    listing = library.entries()
    assert listing.entries[0].figures == ()
    assert not listing.entries[0].verified
    assert any("figures" in problem for problem in listing.problems)


def test_strange_things_in_the_folder(library):
    library.add(entry())
    (library.folder / "notes.txt").write_text("mine")
    (library.folder / f"{'a' * 64}.json").mkdir()
    os.mkfifo(library.folder / f"{'b' * 64}.json")
    (library.folder / f"{'c' * 64}.json").symlink_to(f"{'c' * 64}.json")
    listing = library.entries()
    assert len(listing.entries) == 1
    assert len(listing.problems) == 3


def test_newer_schema_is_read_but_not_changed(library):
    library.add(entry())
    file = file_of(library, entry())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))
    before = file.read_bytes()
    assert library.get(entry().sha256) is not None
    with pytest.raises(LibraryError, match="newer"):
        library.add_figures(entry().sha256, FIGURE)
    assert file.read_bytes() == before


def test_removing_forgets_and_leaves_the_model(library, tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"12345")
    library.add(entry(path=str(model)))
    assert library.remove(entry().sha256)
    assert library.entries().entries == ()
    assert model.exists()


def test_paths_that_are_not_text_survive(library):
    library.add(entry(path="/models/\udcff.gguf"))
    assert library.get(entry().sha256).path == "/models/\udcff.gguf"


def test_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    library = Library(tmp_path / "file")
    with pytest.raises(LibraryError, match="cannot be written"):
        library.add(entry())
    with pytest.raises(LibraryError, match="cannot be read"):
        library.entries()


def test_full_disk_is_one_sentence(library, monkeypatch):
    library.add(entry())
    before = file_of(library, entry()).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(LibraryError, match="No space left on device"):
        library.add_figures(entry().sha256, FIGURE)
    assert file_of(library, entry()).read_bytes() == before


def test_two_programs_add_to_one_entry(library):
    library.add(entry())
    program = (
        "import sys\nfrom pathlib import Path\nfrom quantdeck.workbench.library import Figure, Library\n"
        "for i in range(20):\n"
        "    Library(Path(sys.argv[1])).add_figures(sys.argv[2], Figure(sys.argv[3], float(i), ''))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(library.folder), entry().sha256]
    children = [subprocess.Popen([*command, name], env=environment) for name in ("a", "b")]
    assert [child.wait(60) for child in children] == [0, 0]
    figures = library.get(entry().sha256).figures
    assert sorted((figure.kind, figure.value) for figure in figures) == [(n, float(i)) for n in "ab" for i in range(20)]


def test_five_hundred_entries_are_quick(library):
    library.folder.mkdir()
    for number in range(500):
        made = {"schema": 1, **module.to_table(entry(number, figures=(FIGURE,) * 5))}
        file_of(library, entry(number)).write_text(json.dumps(made))
    library.entries()
    start = time.process_time()
    assert len(library.entries().entries) == 500
    # Measured at 0.1 s; the bound only catches work that grows with the square of the entries.
    assert time.process_time() - start < 1.0
