"""What lies on a machine, in folders as other programs make them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from quantdeck.workbench.library import Entry
from quantdeck.workbench.shelf import Place, Shelved, delete, duplicates, look, usual_places


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cached(home: Path, repository: str, commit: str, path: str, content: bytes) -> Path:
    """A file in the Hub's cache as huggingface_hub lays it out."""
    folder = home / f"models--{repository.replace('/', '--')}"
    blob = put(folder / "blobs" / hashlib.sha256(content).hexdigest(), content)
    link = folder / "snapshots" / commit / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return link


def pulled(
    home: Path, name: str, tag: str, content: bytes, file_type: str, registry: str = "registry.ollama.ai/library"
) -> Path:
    """A model as Ollama keeps it."""

    def blob(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        put(home / "blobs" / f"sha256-{digest}", data)
        return f"sha256:{digest}"

    config = blob(json.dumps({"model_format": "gguf", "file_type": file_type}).encode())
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": blob(content), "size": len(content)},
        {"mediaType": "application/vnd.ollama.image.template", "digest": blob(b"{{ .Prompt }}"), "size": 13},
    ]
    manifest = {"schemaVersion": 2, "config": {"digest": config}, "layers": layers}
    return put(home / "manifests" / registry / name / tag, json.dumps(manifest).encode())


@pytest.fixture
def places(tmp_path: Path) -> tuple[Place, ...]:
    environ = {"HF_HOME": str(tmp_path / "hf"), "OLLAMA_MODELS": str(tmp_path / "ollama")}
    return usual_places(environ, tmp_path, [tmp_path / "own"], [str(tmp_path / "chosen")])


def by_name(places: tuple[Place, ...]) -> dict[str, Shelved]:
    shelf = look(places)
    assert shelf.problems == ()
    return {item.name: item for item in shelf.items}


def test_an_empty_machine(places: tuple[Place, ...]) -> None:
    assert look(places).items == ()


def test_every_place_is_read(places: tuple[Place, ...], tmp_path: Path) -> None:
    put(tmp_path / "own" / "a" / "mine-Q4_K_M.gguf", b"12345")
    for number in (1, 2):
        put(tmp_path / "chosen" / f"split-F16-{number:05}-of-00002.gguf", b"123")
    put(tmp_path / "chosen" / "check" / "model.safetensors")
    put(tmp_path / "chosen" / "check" / "config.json", b"{}")
    put(tmp_path / "chosen" / "adapter" / "model.safetensors")
    put(tmp_path / "chosen" / ".mine-Q8_0.gguf.partial")
    put(tmp_path / ".lmstudio" / "models" / "pub" / "repo" / "studio-Q8_0.gguf")
    put(tmp_path / ".lmstudio" / "models" / "pub" / "repo" / "mmproj-F16.gguf")
    link = cached(tmp_path / "hf" / "hub", "bartowski/M-GGUF", "c1", "sub/M-Q6_K.gguf", b"hub")
    pulled(tmp_path / "ollama", "llama3", "8b", b"ollama", "Q4_0")
    pulled(tmp_path / "ollama", "tuned", "latest", b"other", "Q5_K_M", "registry.ollama.ai/someone")
    found = by_name(places)
    assert {name: (item.place, item.kind, item.level) for name, item in found.items()} == {
        "mine-Q4_K_M.gguf": ("own", "model", "Q4_K_M"),
        "split-F16-00001-of-00002.gguf": ("folder", "model", "F16"),
        "check": ("folder", "checkpoint", ""),
        "studio-Q8_0.gguf": ("lmstudio", "model", "Q8_0"),
        "mmproj-F16.gguf": ("lmstudio", "projector", "F16"),
        "M-Q6_K.gguf": ("hub", "model", "Q6_K"),
        "llama3:8b": ("ollama", "model", "Q4_0"),
        "someone/tuned:latest": ("ollama", "model", "Q5_K_M"),
    }
    assert found["split-F16-00001-of-00002.gguf"].n_bytes == 6 and found["split-F16-00001-of-00002.gguf"].is_source
    assert found["check"].path == tmp_path / "chosen" / "check"
    assert found["M-Q6_K.gguf"].path == link and found["M-Q6_K.gguf"].path.name.endswith(".gguf")
    assert found["llama3:8b"].hashes == (hashlib.sha256(b"ollama").hexdigest(),)


def test_a_file_in_two_places_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "a" / "m-Q4_0.gguf")
    shelf = look([Place("own", tmp_path / "a"), Place("folder", tmp_path)])
    assert [(item.name, item.place) for item in shelf.items] == [("m-Q4_0.gguf", "own")]


def test_what_is_registered_is_found_and_named(tmp_path: Path) -> None:
    path = put(tmp_path / "somewhere" / "strange-name.gguf", b"123")
    entry = Entry("a" * 64, str(path), "s", "f", "llama", "Q5_K_M", 3, 2.0, 5.5, 1.0, "2026-01-01")
    (item,) = look([], [entry]).items
    assert (item.level, item.hashes, item.entry) == ("Q5_K_M", ("a" * 64,), entry)


def test_duplicates_are_hashed_only_where_sizes_are_equal(places: tuple[Place, ...], tmp_path: Path) -> None:
    put(tmp_path / "own" / "one-Q4_0.gguf", b"same")
    put(tmp_path / "own" / "else-Q4_0.gguf", b"diff")
    put(tmp_path / "own" / "alone-Q4_0.gguf", b"alone")
    pulled(tmp_path / "ollama", "two", "latest", b"same", "Q4_0")
    hashed: list[str] = []

    def note(path: Path) -> str:
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    (group,) = duplicates(look(places).items, note)
    assert {item.name for item in group} == {"one-Q4_0.gguf", "two:latest"}
    assert sorted(hashed) == ["else-Q4_0.gguf", "one-Q4_0.gguf"]


def test_deleting_leaves_what_others_use(places: tuple[Place, ...], tmp_path: Path) -> None:
    ollama = tmp_path / "ollama"
    pulled(ollama, "one", "latest", b"shared", "Q4_0")
    pulled(ollama, "two", "latest", b"shared", "Q4_0")
    hub = tmp_path / "hf" / "hub"
    cached(hub, "a/b", "c1", "m-Q8_0.gguf", b"hub")
    blob = ollama / "blobs" / f"sha256-{hashlib.sha256(b'shared').hexdigest()}"
    delete(by_name(places)["one:latest"] if "one:latest" in by_name(places) else by_name(places)["two:latest"], places)
    assert blob.exists() and len(list((ollama / "manifests").rglob("latest"))) == 1
    (left,) = [item for item in look(places).items if item.place == "ollama"]
    delete(left, places)
    assert not blob.exists()
    delete(by_name(places)["m-Q8_0.gguf"], places)
    assert look(places).items == () and not list(hub.rglob("blobs/*"))


def test_deleting_a_link_leaves_what_lies_elsewhere(places: tuple[Place, ...], tmp_path: Path) -> None:
    mine = tmp_path / "mine-Q4_0.gguf"
    mine.write_bytes(b"mine")
    snapshot = tmp_path / "hf" / "hub" / "models--a--b" / "snapshots" / "c1"
    snapshot.mkdir(parents=True)
    (snapshot / "m-Q4_0.gguf").symlink_to(mine)
    delete(by_name(places)["m-Q4_0.gguf"], places)
    assert mine.read_bytes() == b"mine" and not (snapshot / "m-Q4_0.gguf").is_symlink()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"layers": 3}', b'{"layers": [{"digest": "sha256:../../x"}]}', b"\xff"]
)
def test_broken_manifests_are_passed_over(places: tuple[Place, ...], tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "bad" / "latest", content)
    assert look(places).items == ()


def test_loops_and_dead_links_do_no_harm(places: tuple[Place, ...], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "dead-Q4_0.gguf").symlink_to(folder / "nothing")
    (folder / "fifo.gguf").mkdir()
    assert look(places).items == ()


def test_what_is_incomplete_says_why(places: tuple[Place, ...], tmp_path: Path) -> None:
    hub, ollama = tmp_path / "hf" / "hub", tmp_path / "ollama"
    for number in (1, 4):
        put(tmp_path / "chosen" / f"big-Q4_K_M-{number:05}-of-00004.gguf")
    put(tmp_path / "chosen" / "check" / "model-00002-of-00002.safetensors")
    put(tmp_path / "chosen" / "check" / "config.json", b"{}")
    cached(hub, "a/whole", "c1", "w-Q8_0.gguf", b"whole")
    cached(hub, "a/gone", "c1", "g-Q8_0.gguf", b"gone").resolve().unlink()
    for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        cached(hub, "b/Half", "c1", name, name.encode())
    (hub / "models--b--Half" / "snapshots" / "c1" / "model-00001-of-00002.safetensors").resolve().unlink()
    pulled(ollama, "lost", "8b", b"lost weights", "Q4_0")
    (ollama / "blobs" / f"sha256-{hashlib.sha256(b'lost weights').hexdigest()}").unlink()
    pulled(ollama, "fine", "8b", b"fine", "Q4_0")
    found = by_name(places)
    assert {name: item.problem for name, item in found.items()} == {
        "big-Q4_K_M-00001-of-00004.gguf": "shards 2, 3 of 4 missing",
        "check": "shard 1 of 2 missing",
        "w-Q8_0.gguf": "",
        "g-Q8_0.gguf": "g-Q8_0.gguf is a link to nothing",
        "b/Half": "model-00001-of-00002.safetensors is a link to nothing",
        "lost:8b": "1 of its 3 blobs missing",
        "fine:8b": "",
    }
    assert found["g-Q8_0.gguf"].n_bytes == 0 and found["g-Q8_0.gguf"].hashes == () and found["lost:8b"].level == "Q4_0"
    for item in found.values():
        if item.problem:
            delete(item, places)
    assert set(by_name(places)) == {"w-Q8_0.gguf", "fine:8b"}
    assert not list((tmp_path / "chosen").rglob("*.*.gguf")) and not list(hub.glob("models--a--gone/snapshots/*/*"))


def test_hundreds_of_files_are_quick(places: tuple[Place, ...], tmp_path: Path) -> None:
    for number in range(600):
        put(tmp_path / "own" / f"{number % 20}" / f"m{number}-Q4_K_M.gguf")
    start = time.process_time()
    assert len(look(places).items) == 600
    assert time.process_time() - start < 1
