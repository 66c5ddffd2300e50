"""The Hub's client against a loopback server, through the real huggingface_hub."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from quantdeck.workbench.advice import Estimator, Setup
from quantdeck.workbench.advice.machine import this_machine
from quantdeck.workbench.errors import (
    AuthenticationNeeded,
    BadArgument,
    ModelNotFound,
    QuantdeckError,
    ValidationFailed,
)
from quantdeck.workbench.hub import (
    Hub,
    HubError,
    Patience,
    Reference,
    Unreachable,
    best,
    choose,
    fitted,
    offers,
    only_pickled,
    parse_reference,
    providers,
    read_remote,
)
from quantdeck.workbench.hub.names import local_name
from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from support import hub_server
from support.checkpoints import build
from support.hub_files import quantized, sample, shards
from support.hub_server import COMMIT, GOOD_TOKEN, HubServer
from support.machines import DDR5, machine

NAME = "owner/Small-4M-GGUF"


@pytest.fixture
def hub(server: HubServer) -> Hub:
    """A client that does not wait long."""
    return Hub(Patience(first_wait=0.01), endpoint=server.endpoint)


def add_quants(server: HubServer) -> None:
    server.add(
        NAME,
        {
            "README.md": b"# small",
            "Small-4M-Q8_0.gguf": quantized("Q8_0"),
            "Small-4M-UD-Q4_K_XL.gguf": quantized("Q4_K_M"),
            **shards("BF16/Small-4M-F16", 3),
            "mmproj-F16.gguf": sample(),
            "imatrix.gguf": sample()[:5000],
            "Small-4M.imatrix.dat": b"x" * 5000,
        },
    )


# -- what a user may type ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", Reference("owner/name")),
        ("owner/name/", Reference("owner/name")),
        ("owner/name/a/b-Q4_K_M.gguf", Reference("owner/name", "a/b-Q4_K_M.gguf")),
        ("hf://owner/name", Reference("owner/name")),
        ("https://huggingface.co/owner/name", Reference("owner/name")),
        ("https://huggingface.co/owner/name/tree/main", Reference("owner/name", "", "main")),
        ("https://huggingface.co/owner/name/resolve/v1/a.gguf?download=true", Reference("owner/name", "a.gguf", "v1")),
        ("https://huggingface.co/owner/name/tree/main/BF16", Reference("owner/name", "", "main")),
        ("https://huggingface.co/owner/name/blob/main/a%20b.gguf", Reference("owner/name", "a b.gguf", "main")),
        (
            "https://huggingface.co/owner/name/raw/refs%2Fpr%2F1/config.json",
            Reference("owner/name", "config.json", "refs/pr/1"),
        ),
        ("https://huggingface.co/owner/name#readme", Reference("owner/name")),
        ("https://huggingface.co/owner/name/discussions/3", Reference("owner/name")),
        ("HTTPS://HuggingFace.co/owner/name", Reference("owner/name")),
        ("hf.co/owner/name", Reference("owner/name")),
        ("huggingface.co/owner/name/blob/main/a.gguf", Reference("owner/name", "a.gguf", "main")),
        ("owner/name:Q4_K_M", Reference("owner/name", level="Q4_K_M")),
        ("hf.co/owner/name:ud-q4_k_xl", Reference("owner/name", level="ud-q4_k_xl")),
        ("hf.co/owner/name:name-Q8_0.gguf", Reference("owner/name", level="name-Q8_0.gguf")),
        ("hf.co/owner/name:latest", Reference("owner/name")),
        ("owner/name:", None),
        ("owner/name:Q4_K_M/x", None),
        ("owner/name:Q4:K", None),
        ("owner/name:\x1b[2J", None),
        ("owner:Q4_K_M/name", None),
        ("https://huggingface.co/datasets/owner/name", None),
        ("https://huggingface.co/spaces/owner/name", None),
        ("https://huggingface.co/owner", None),
        ("https://example.com/owner/name", None),
        ("owner/name/../file", None),
        ("owner/name/a/../../../../etc/passwd", None),
        ("owner/name//file.gguf", None),
        ("https://huggingface.co/owner/name/blob/main/..%2F..%2Fx.gguf", None),
        ("https://huggingface.co/owner/name/blob/main/a%1B[2Jb.gguf", None),
        ("owner/name/a\x1b[2J.gguf", None),
        ("own\u00e9r/name", None),
        ("folder/model.gguf", None),
        ("./owner/name", None),
        ("../name/x", None),
        ("/owner/name", None),
        ("~/models/x", None),
        ("name", None),
        ("owner/na me", None),
        ("owner/..", None),
        ("o" * 2000 + "/name", None),
        ("", None),
    ],
)
def test_references(text: str, expected: Reference | None) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b.gguf",
        "a//b.gguf",
        "..",
        "",
        "a\\..\\b.gguf",
        ".bashrc",
        "-rf.gguf",
        "x" * 300 + ".gguf",
        "a\x1b[2Jb.gguf",
        "a\nb.gguf",
        "a\0.gguf",
        "a\u202egguf.exe",
        "trailing ",
    ],
)
def test_hostile_names_are_refused_in_harmless_words(path: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        local_name(path)
    words = str(caught.value)
    assert words.isprintable() and len(words) < 300


@pytest.mark.parametrize("path", ["model.gguf", "Q4/model-Q4_K_M-00001-of-00002.gguf", "模型 Q8_0.gguf"])
def test_ordinary_names_stay(path: str) -> None:
    assert local_name(path) == path.rpartition("/")[2]


# -- search and repositories -------------------------------------------------------------------------------------------


def test_search_sorts_and_filters(server: HubServer, hub: Hub) -> None:
    server.add("bartowski/Llama-3-8B-GGUF", {}, downloads=10, likes=99, updated="2026-03-01T00:00:00.000Z")
    server.add("unsloth/Llama-3-8B-GGUF", {}, downloads=50, likes=1, updated="2026-01-01T00:00:00.000Z", gated="auto")
    server.add("meta/Llama-3-8B", {}, downloads=90, tags=("safetensors",))
    server.add("meta/Secret-Llama", {}, private=True)
    names = [found.id for found in hub.search("llama", tag="gguf")]
    assert names == ["unsloth/Llama-3-8B-GGUF", "bartowski/Llama-3-8B-GGUF"]
    assert [found.id for found in hub.search("llama", sort="likes", limit=1)] == ["bartowski/Llama-3-8B-GGUF"]
    assert hub.search("LLAMA 8b", sort="updated")[0].id == "bartowski/Llama-3-8B-GGUF"
    found = hub.search(author="unsloth")
    assert len(found) == 1 and found[0].gated and found[0].updated.startswith("2026-01-01")


def test_a_repository_with_many_files_over_several_pages(server: HubServer, hub: Hub) -> None:
    files = {f"folder/file-{number:03}.txt": b"%d" % number for number in range(95)}
    server.add(NAME, {**files, "large.gguf": b"x" * 9000}, card={"license": "mit", "base_model": ["meta/Llama"]})
    repository = hub.repository(NAME)
    assert len(repository.files) == 96 and len(server.asked("cursor=")) == 2
    assert repository.commit == COMMIT and repository.license == "mit" and repository.base_models == ("meta/Llama",)
    large = repository.file("large.gguf")
    assert large.n_bytes == 9000 and len(large.sha256) == 64 and not large.git_sha1
    assert len(repository.file("folder/file-000.txt").git_sha1) == 40
    with pytest.raises(ModelNotFound, match="hub files"):
        repository.file("other.gguf")


def test_providers_have_a_key_each() -> None:
    keys = [provider.key for provider in providers()]
    assert len(set(keys)) == len(keys) >= 7
    assert {"bartowski", "unsloth", "lmstudio-community"} <= {provider.author for provider in providers()}


# -- failures ----------------------------------------------------------------------------------------------------------


def fails(hub: Hub, kind: type[QuantdeckError], reference: Reference | None = None) -> str:
    """Asking for the repository, or for a file of it, fails in one harmless sentence of this kind."""
    with pytest.raises(kind) as caught:
        if reference:
            hub.read(reference, 0, 10)
        else:
            hub.repository(NAME)
    words = str(caught.value)
    assert words.isprintable() and words.endswith((".", "?")) and "hf_good" not in words and "hf_bad" not in words
    return words


def test_repositories_that_are_not_there(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hf auth login" in fails(hub, AuthenticationNeeded)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert "check the name" in fails(hub, ModelNotFound)
    with pytest.raises(BadArgument):
        hub.repository("no name")


def test_gated_repositories_say_what_to_do(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = server.add(NAME, {"a.gguf": b"x" * 9000}, gated="manual")
    file = Reference(NAME, "a.gguf")
    assert hub.repository(NAME).about.gated
    assert f"https://huggingface.co/{NAME}" in fails(hub, AuthenticationNeeded, file)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert "not valid" in fails(hub, AuthenticationNeeded, file)
    assert "not valid" in fails(hub, AuthenticationNeeded)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert hub.read(file, 0, 10) == b"x" * 10
    repo.granted = False
    assert "accept its conditions" in fails(hub, AuthenticationNeeded, file)
    monkeypatch.setenv("HF_TOKEN", "hf_bad\ttoken")
    assert "damaged" in fails(hub, AuthenticationNeeded)


def test_the_token_never_reaches_another_server(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add(NAME, {"a.gguf": b"x" * 9000}, private=True)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert hub.read(Reference(NAME, "a.gguf"), 8990, 100) == b"x" * 10
    assert server.sent_tokens("hub") == {f"Bearer {GOOD_TOKEN}"}
    assert server.asked("/blobs/") and server.sent_tokens("network") == set()


def test_a_token_saved_by_the_login_is_used(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(GOOD_TOKEN + "\n")
    server.add(NAME, {}, private=True)
    assert hub.repository(NAME).about.private


def test_too_many_requests_wait_as_long_as_asked(server: HubServer) -> None:
    server.add(NAME, {})
    waits: list[float] = []
    hub = Hub(Patience(first_wait=0.25), waits.append, server.endpoint)
    server.fail("/api/models", 429, 2, retry_after="7")
    server.fail("/api/models", 503, 1)
    assert hub.repository(NAME).id == NAME
    assert waits == [7.0, 7.0, 1.0]
    server.fail("/api/models", 429, 1, retry_after="86400")
    assert "1 d 0 h" in fails(hub, Unreachable)
    server.fail("/api/models", 429, 1, ratelimit='"api";r=0;t=3')
    assert hub.repository(NAME) and waits[-1] == 3.0
    server.fail("/api/models", 500, 99)
    assert "status 500" in fails(hub, Unreachable)
    assert len(waits) == 7


def test_nobody_listens(server: HubServer) -> None:
    hub = Hub(Patience(tries=2, first_wait=0.01), endpoint="http://127.0.0.1:9")
    assert "cannot be reached" in fails(hub, Unreachable)


def test_a_server_that_is_silent(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.add(NAME, {"a.gguf": b"x" * 9000})
    server.bytes_per_second = 1
    hub = Hub(Patience(tries=2, first_wait=0.01), endpoint=server.endpoint)
    with pytest.raises(Unreachable):
        hub.read(Reference(NAME, "a.gguf"), 0, 9000)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"id": 3}', b'{"id": "a/b", "sha": "x"}', b"\xff"])
def test_answers_that_make_no_sense(
    server: HubServer, hub: Hub, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_whole", lambda *_: answer)
    server.add(NAME, {})
    assert "HF_ENDPOINT" in fails(hub, HubError)
    with suppress(HubError):
        assert hub.search("x") == ()


def test_a_hostile_tree_is_refused_or_left(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add_quants(server)
    pages = 0

    def endless(handler: Any, *_: Any) -> None:
        nonlocal pages
        pages += 1
        handler.json([], {"Link": f'<{server.endpoint}/api/models/{NAME}/tree/{COMMIT}?page={pages}>; rel="next"'})

    monkeypatch.setattr(hub_server._HubHandler, "_tree", endless)
    assert hub.repository(NAME).files == () and pages == 1
    deep = b"[" * 200_000 + b"]" * 200_000
    monkeypatch.setattr(hub_server._HubHandler, "_tree", lambda handler, *_: handler.answer(200, deep))
    with pytest.raises(HubError, match="does not answer as the Hub does"):
        hub.repository(NAME)
    nameless = {"type": "file", "path": "\ud800.gguf", "size": 5000, "oid": "0" * 40}
    monkeypatch.setattr(hub_server._HubHandler, "_tree", lambda handler, *_: handler.json([nameless]))
    with pytest.raises(ModelNotFound):
        read_remote(hub, Reference(NAME))


def test_a_part_without_bounds_is_refused(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add_quants(server)
    where = {"Content-Range": f"bytes 0-9/{'9' * 5000}"}
    for handler in (hub_server._HubHandler, hub_server._NetworkHandler):
        monkeypatch.setattr(handler, "send_file", lambda self, *_: self.answer(206, b"0123456789", where))
    with pytest.raises(HubError, match="does not say which part"):
        hub.read(Reference(NAME, "Small-4M-Q8_0.gguf"), 0, 10)


def test_a_broken_connection_is_tried_again(server: HubServer, hub: Hub) -> None:
    server.add(NAME, {"a.gguf": bytes(range(256)) * 100})
    server.cut(100, 0)
    assert hub.read(Reference(NAME, "a.gguf"), 1000, 5000) == (bytes(range(256)) * 100)[1000:6000]
    server.ignores_ranges = True
    with pytest.raises(HubError, match="parts of files"):
        hub.read(Reference(NAME, "a.gguf"), 1000, 10)


# -- what a repository offers ------------------------------------------------------------------------------------------


def test_offers_are_decoded_and_grouped(server: HubServer, hub: Hub) -> None:
    add_quants(server)
    found = {offer.name: offer for offer in offers(hub.repository(NAME))}
    assert {name: offer.kind for name, offer in found.items()} == {
        "Small-4M-UD-Q4_K_XL.gguf": "model",
        "Small-4M-Q8_0.gguf": "model",
        "Small-4M-F16-00001-of-00003.gguf": "model",
        "mmproj-F16.gguf": "projector",
        "imatrix.gguf": "imatrix",
        "Small-4M.imatrix.dat": "imatrix",
    }
    assert found["Small-4M-UD-Q4_K_XL.gguf"].level == "UD-Q4_K_XL"
    split = found["Small-4M-F16-00001-of-00003.gguf"]
    assert len(split.parts) == 3 and not split.missing and split.can_be_quantized
    assert split.n_bytes == sum(part.n_bytes for part in split.parts) > len(sample())


def test_missing_shards_and_pickles(server: HubServer, hub: Hub) -> None:
    files = shards("m-F16", 3)
    del files["m-F16-00002-of-00003.gguf"]
    server.add(NAME, files)
    (offer,) = offers(hub.repository(NAME))
    assert offer.missing == 1
    server.add("owner/pickled", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    assert only_pickled(hub.repository("owner/pickled"))
    with pytest.raises(ModelNotFound, match="pickled"):
        read_remote(hub, Reference("owner/pickled"))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("q8_0", "Small-4M-Q8_0.gguf"),
        ("UD-Q4_K_XL", "Small-4M-UD-Q4_K_XL.gguf"),
        ("q4_k_xl", "Small-4M-UD-Q4_K_XL.gguf"),
        ("i1-Q8_0", "Small-4M-Q8_0.gguf"),
        ("fp16", "BF16/Small-4M-F16-00001-of-00003.gguf"),
        ("Small-4M-Q8_0.gguf", "Small-4M-Q8_0.gguf"),
    ],
)
def test_a_level_is_a_name_of_a_file(server: HubServer, hub: Hub, level: str, expected: str) -> None:
    add_quants(server)
    offer = choose(hub.repository(NAME), Reference(NAME, level=level))
    assert offer.path == expected and not offer.missing
    assert str(read_remote(hub, Reference(NAME, level=level)).path) == f"{NAME}/{expected}"


@pytest.mark.parametrize(
    ("names", "level", "found"),
    [
        (["Q4_K_M", "UD-Q4_K_M", "Q4_K_P"], "q4_k_m", "m-Q4_K_M.gguf"),
        (["Q4_K_M", "UD-Q4_K_M", "Q4_K_P"], "UD-Q4_K_M", "m-UD-Q4_K_M.gguf"),
        (["Q4_K_M", "Q4_K_P"], "q4_k_p", "m-Q4_K_P.gguf"),
        (["IQ4_XS", "IQ2_KS"], "IQ2_KS", "m-IQ2_KS.gguf"),
        (["Q4_K"], "Q4_K_M", "m-Q4_K.gguf"),
        (["x_Q4_K_M", "UD-Q4_K_M"], "Q4_K_M", "m-x_Q4_K_M.gguf"),
        (["i1-Q4_K_M"], "Q4_K_M", "m-i1-Q4_K_M.gguf"),
    ],
)
def test_the_file_most_like_a_level(server: HubServer, hub: Hub, names: list[str], level: str, found: str) -> None:
    server.add(NAME, {f"m-{name}.gguf": name.encode() for name in names})
    assert choose(hub.repository(NAME), Reference(NAME, level=level)).path == found


def test_a_level_that_none_or_several_have(server: HubServer, hub: Hub) -> None:
    levels = ["Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_L", "Q5_K_M", "Q6_K", "Q8_0"]
    server.add(NAME, {f"m-{level}.gguf": bytes(n) for n, level in enumerate(levels, 1)})
    with pytest.raises(ModelNotFound) as none:
        choose(hub.repository(NAME), Reference(NAME, level="Q4_K_M"))
    assert str(none.value) == f"{NAME} has no Q4_K_M; it has Q4_K_L, Q4_K_S, Q5_K_M, Q6_K, Q8_0 and 2 more."
    server.add(NAME, {f"{folder}/m-Q4_K_M.gguf": folder.encode() for folder in "abcdefg"})
    with pytest.raises(ModelNotFound, match=r"has 7 files at q4_k_m: a/m-Q4_K_M.gguf, .* and 2 more; name one"):
        choose(hub.repository(NAME), Reference(NAME, level="q4_k_m"))
    with pytest.raises(ModelNotFound, match=r"has no M; it has"):
        choose(hub.repository(NAME), Reference(NAME, level="M"))
    server.add(NAME, {"mmproj-F16.gguf": b"x", "model.safetensors": b"x", "config.json": b"{}"})
    with pytest.raises(ModelNotFound, match="has no F16; no file"):
        choose(hub.repository(NAME), Reference(NAME, level="F16"))


def test_what_fits_is_marked_and_the_best_is_found(server: HubServer, hub: Hub) -> None:
    add_quants(server)
    repository = hub.repository(NAME)
    model = read_remote(hub, Reference(NAME))
    here = this_machine(machine(8), DDR5)
    rows = fitted(offers(repository), model, here, Setup(512))
    assert {row.offer.name: row.fits for row in rows if row.offer.kind == "model"} == dict.fromkeys(
        ["Small-4M-UD-Q4_K_XL.gguf", "Small-4M-Q8_0.gguf", "Small-4M-F16-00001-of-00003.gguf"], "yes"
    )
    choice = best(rows)
    assert choice and choice.offer.name == "Small-4M-Q8_0.gguf"
    # The estimate from sizes is near what the file's own header says.
    exact = Estimator(read_remote(hub, Reference(NAME, "Small-4M-Q8_0.gguf"))).as_it_is(here, Setup(512))
    assert choice.memory and choice.memory.total == pytest.approx(exact.memory.total, rel=0.02)
    tiny = replace(here, budget=replace(here.budget, ram=2 << 20))
    assert best(fitted(offers(repository), model, tiny, Setup(512))) is None
    assert all(not row.fits for row in fitted(offers(repository), None, here, Setup(512)))


# -- headers by ranges -------------------------------------------------------------------------------------------------


def test_a_remote_header_equals_the_local_one(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    add_quants(server)
    local = tmp_path / "q.gguf"
    local.write_bytes(quantized("Q8_0"))
    expected, remote = read_model(local), read_remote(hub, Reference(NAME, "Small-4M-Q8_0.gguf"))
    assert remote == replace(expected, path=remote.path, files=remote.files)
    assert [t.offset for t in remote.tensors] == [t.offset for t in expected.tensors]
    assert str(remote.path) == f"{NAME}/Small-4M-Q8_0.gguf"
    split = read_remote(hub, Reference(NAME, "BF16/Small-4M-F16-00002-of-00003.gguf"))
    assert len(split.files) == 3 and split.tensors == read_model(SAMPLE.model).tensors
    # A whole repository is its 16-bit model.
    assert read_remote(hub, Reference(NAME)).path == split.path


def test_a_remote_checkpoint_equals_the_local_one(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    folder = build("llama3", tmp_path / "Tiny", shards=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.add("owner/Tiny", {**files, "original/weights.pth": b"x" * 9000})
    expected, remote = read_model(folder), read_remote(hub, Reference("owner/Tiny"))
    assert remote.metadata == expected.metadata and remote.tensors == expected.tensors
    assert str(remote.path) == "owner/Tiny" and remote.format == "safetensors"
    assert not server.asked("weights.pth")


def test_only_the_header_travels(server: HubServer, hub: Hub) -> None:
    large = sample() + bytes(40 << 20)
    server.add(NAME, {"a-F16.gguf": large})
    read_remote(hub, Reference(NAME))
    ranges = [r.headers["range"] for r in server.asked("/blobs/")]
    assert ranges == [f"bytes=0-{(1 << 20) - 1}"]


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF" + bytes(5000),
        b"x" * 5000,
        sample()[:200_000],
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 1) + bytes(5000),
    ],
)
def test_damaged_remote_files_are_refused(server: HubServer, hub: Hub, content: bytes) -> None:
    server.add(NAME, {"a.gguf": content})
    with pytest.raises(ValidationFailed) as caught:
        read_remote(hub, Reference(NAME, "a.gguf"))
    assert str(caught.value).isprintable()


def test_a_size_that_is_a_lie_is_found_out(server: HubServer, hub: Hub) -> None:
    server.add(NAME, {"a.gguf": sample()})
    server.lies_about_size["a.gguf"] = 5000
    with pytest.raises(ValidationFailed):
        read_remote(hub, Reference(NAME))


def test_a_checkpoint_larger_than_any_file(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    folder = build("llama2", tmp_path / "model")
    server.add("owner/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    (weights,) = (file.name for file in folder.iterdir() if file.name.endswith(".safetensors"))
    server.lies_about_size[weights] = 1 << 59
    with pytest.raises(QuantdeckError, match="owner/model"):
        read_remote(hub, Reference("owner/model"))


def test_what_is_no_model(server: HubServer, hub: Hub) -> None:
    server.add(NAME, {"README.md": b"x"})
    with pytest.raises(ModelNotFound, match="neither"):
        read_remote(hub, Reference(NAME, "README.md"))
    with pytest.raises(ModelNotFound, match="no GGUF"):
        read_remote(hub, Reference(NAME))
