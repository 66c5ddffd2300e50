"""`quantdeck hub ...` and models on the Hub in other commands, as a user runs them, against the loopback Hub."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantdeck.workbench.sample import SAMPLE
from support.checkpoints import build
from support.command import Said
from support.hub_files import quantized, sample
from support.hub_server import GOOD_TOKEN, HubServer

Quantdeck = Callable[..., Said]
NAME = "bartowski/Small-4M-GGUF"


@pytest.fixture
def server(loopback_hub: HubServer) -> HubServer:
    loopback_hub.add(
        NAME,
        {
            "Small-4M-Q8_0.gguf": quantized("Q8_0"),
            "Small-4M-Q4_K_M.gguf": quantized("Q4_K_M"),
            "Small-4M-F16.gguf": sample(),
        },
    )
    return loopback_hub


def test_search(server: HubServer, quantdeck: Quantdeck) -> None:
    server.add("somebody/other-GGUF", {}, gated="auto")
    said = quantdeck("hub", "search", "small", "--json")
    assert [each["id"] for each in said.document["repositories"]] == [NAME]
    words = quantdeck("hub", "search", "--sort", "likes")
    assert "somebody/other-GGUF" in words.out and "gated" in words.out
    assert "Nothing was found" in quantdeck("hub", "search", "nothing of this").out
    assert quantdeck("hub", "search", "x", "--author", "nobody", "--json").document == {"repositories": []}


def test_files_say_what_fits(server: HubServer, quantdeck: Quantdeck) -> None:
    document = quantdeck("hub", "files", NAME, "--context", "512", "--json").document
    assert document["recommended"] == "Small-4M-Q8_0.gguf" and document["context"] == 512
    files = {each["path"]: each for each in document["files"]}
    assert files["Small-4M-Q4_K_M.gguf"]["level"] == "Q4_K_M"
    assert files["Small-4M-Q4_K_M.gguf"]["bytes"] == len(quantized("Q4_K_M"))
    assert files["Small-4M-Q8_0.gguf"]["fits"] == "yes" and files["Small-4M-Q8_0.gguf"]["memory"]["total"] > 4 << 20
    words = quantdeck("hub", "files", NAME)
    assert "Q8_0 fits here" in words.out and "take this" in words.out


def test_a_hostile_name_does_not_hide_what_fits(server: HubServer, quantdeck: Quantdeck) -> None:
    server.add("evil/small-GGUF", {"../../away-Q6_K.gguf": quantized("Q6_K"), "good-Q8_0.gguf": quantized("Q8_0")})
    assert quantdeck("hub", "files", "evil/small-GGUF", "--json").document["recommended"] == "good-Q8_0.gguf"


def test_what_cannot_be_looked_at_is_not_said_to_be_too_large(server: HubServer, quantdeck: Quantdeck) -> None:
    server.add("meta/gated-GGUF", {"g-Q4_K_M.gguf": quantized("Q4_K_M")}, gated="auto")
    said = quantdeck("hub", "files", "meta/gated-GGUF")
    assert "cannot be told" in said.out and "Nothing in this repository fits" not in said.out


def test_download_what_fits_best(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    said = quantdeck("hub", "download", NAME, "--json")
    target = tmp_path / "home" / "models" / NAME / "Small-4M-Q8_0.gguf"
    assert said.code == 0 and said.document["status"] == "done" and said.document["path"] == str(target)
    assert target.read_bytes() == quantized("Q8_0")
    by_level = quantdeck("hub", "download", NAME, "-q", "q4_k_m", "-o", str(tmp_path / "here"))
    assert "hash checked" in by_level.out and (tmp_path / "here" / "Small-4M-Q4_K_M.gguf").exists()
    assert len(quantdeck("hub", "downloads", "--json").document["downloads"]) == 2
    quantdeck("hub", "download", f"{NAME}/nothing.gguf").fails_in_one_sentence(3)
    quantdeck("hub", "download", NAME, "-q", "Q2_K").fails_in_one_sentence(3)
    quantdeck("hub", "download", "no-name").fails_in_one_sentence(2)


def test_a_checkpoint_is_downloaded_as_a_folder(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    folder = build("llama3", tmp_path / "Tiny", shards=2)
    server.add("owner/Tiny", {path.name: path.read_bytes() for path in folder.iterdir()}, tags=("safetensors",))
    said = quantdeck("hub", "download", "owner/Tiny", "--json")
    target = tmp_path / "home" / "models" / "owner" / "Tiny"
    assert said.document["path"] == str(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert quantdeck("inspect", str(target), "--json").document["format"] == "safetensors"
    assert quantdeck("inspect", "owner/Tiny", "--json").document["format"] == "safetensors"


def test_a_download_goes_on_alone_and_is_cancelled(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    server.bytes_per_second = 0
    quantdeck("hub", "files", NAME)  # the machine is measured before the line is made slow
    server.bytes_per_second = 1_000_000
    said = quantdeck("hub", "download", f"{NAME}/Small-4M-F16.gguf", "-o", str(tmp_path / "here"), "--detach", "--json")
    download = said.document["download"]
    time.sleep(1)
    (listed,) = quantdeck("hub", "downloads", "--json").document["downloads"]
    assert listed["status"] == "running" and 0 < listed["bytes_done"] < listed["bytes"]
    assert "paused" in quantdeck("hub", "downloads", "pause", download[-4:]).out.lower()
    assert quantdeck("hub", "downloads", "cancel", download, "--json").document["status"] == "cancelled"
    assert list((tmp_path / "here").iterdir()) == []
    quantdeck("hub", "downloads", "resume", download).fails_in_one_sentence(7)
    quantdeck("hub", "downloads", "remove", download)
    quantdeck("hub", "downloads", "watch", download).fails_in_one_sentence(2)


def test_inspect_and_advise_before_anything_is_downloaded(server: HubServer, quantdeck: Quantdeck) -> None:
    here, there = quantdeck("inspect", "sample", "--json").document, quantdeck("inspect", NAME, "--json").document
    assert there["path"] == f"{NAME}/Small-4M-F16.gguf"
    assert {**there, "path": 0, "files": 0} == {**here, "path": 0, "files": 0}
    assert quantdeck("inspect", f"{NAME}/Small-4M-Q8_0.gguf", "--json").document["quantized"]
    advice = quantdeck("advise", NAME, "--memory", "8G", "--no-hub", "--json").document
    assert advice == quantdeck("advise", str(SAMPLE.model), "--memory", "8G", "--json").document


def test_advise_says_first_what_is_ready_made(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    server.add("owner/Small-4M", {"Small-4M-F16.gguf": sample()})
    said = quantdeck("advise", "owner/Small-4M", "--context", "512", "--goal", "size")
    assert said.out.strip().startswith("Ready made: Q4_K_M") and f"in {NAME}, fits at 512 tokens" in said.out
    assert f"quantdeck hub download {NAME}/Small-4M-Q4_K_M.gguf" in said.out
    document = quantdeck("advise", "https://huggingface.co/owner/Small-4M", "--json").document
    (file,) = document["ready_made"]["files"]
    assert (file["repository"], file["fits"]) == (NAME, "yes") and file["bytes"] == len(quantized(file["level"]))
    assert document["ready_made"]["of"] == "owner/Small-4M" and document["recommendation"]["level"]
    before = len(server.requests)
    assert "ready_made" not in quantdeck("advise", "sample", "--json").document
    own = tmp_path / "own-f16.gguf"
    own.write_bytes(sample())
    assert "nothing in the model names" in quantdeck("advise", str(own), "--hub").out
    assert len(server.requests) == before


def test_advise_goes_on_where_the_hub_fails(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    model = tmp_path / "home" / "models" / "owner" / "Small-4M" / "Small-4M-F16.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(sample())
    assert "fits at" in quantdeck("advise", str(model), "--hub").out
    server.fail("/api/models", 500, times=99)
    said = quantdeck("advise", str(model), "--hub", "--json")
    note = said.document["ready_made"]["note"]
    assert said.code == 0 and said.document["recommendation"]["level"] and "problem of its own" in note


def test_exit_codes(server: HubServer, quantdeck: Quantdeck, environ: dict[str, str]) -> None:
    server.add("meta/gated", {"a.gguf": sample()}, gated="manual")
    for command in (["hub", "files", "no/body"], ["hub", "download", "meta/gated/a.gguf"], ["inspect", "meta/gated"]):
        assert "hf auth login" in quantdeck(*command).fails_in_one_sentence(4)
    assert quantdeck("hub", "download", "meta/gated/a.gguf", "--json").document["exit_code"] == 4
    environ["HF_TOKEN"] = "hf_wrong"
    assert "hf_wrong" not in quantdeck("hub", "files", NAME).fails_in_one_sentence(4)
    environ["HF_TOKEN"] = GOOD_TOKEN
    said = quantdeck("hub", "download", "meta/gated/a.gguf")
    assert said.code == 0 and GOOD_TOKEN not in said.out + said.err
    quantdeck("hub", "files", "no/body").fails_in_one_sentence(3)
    environ["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in quantdeck("hub", "search", "x").fails_in_one_sentence(1)
    quantdeck("inspect", "folder/missing.gguf").fails_in_one_sentence(3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("evil/../../x", "OWNER/NAME"),
        ("owner/name/../file", "OWNER/NAME"),
        ("owner/\x1b[31mname", "OWNER/NAME"),
        ("o" * 3000 + "/n", "OWNER/NAME"),
        ("https://huggingface.co/datasets/owner/name", "https://huggingface.co/OWNER/NAME"),
        ("hf.co/owner", "https://huggingface.co/OWNER/NAME"),
        ("gpt2", "sample"),
    ],
)
def test_names_that_mean_nothing(server: HubServer, quantdeck: Quantdeck, name: str, hint: str) -> None:
    line = quantdeck("inspect", name).fails_in_one_sentence(3)
    assert hint in line and "\x1b" not in line and len(line) < 300
    assert not server.requests


def test_an_address_is_a_name(server: HubServer, quantdeck: Quantdeck) -> None:
    address = f"https://huggingface.co/{NAME}"
    assert quantdeck("inspect", f"{address}/blob/main/Small-4M-Q8_0.gguf", "--json").document["quantized"]
    files = quantdeck("hub", "files", f"{address}/tree/main", "--json").document
    assert files["recommended"] == "Small-4M-Q8_0.gguf"
    quantdeck("inspect", "  ").fails_in_one_sentence(2)
    assert f"quantdeck hub download hf://{NAME}" in quantdeck("chat", NAME).fails_in_one_sentence(3)


def test_a_level_is_a_name(server: HubServer, quantdeck: Quantdeck, tmp_path: Path) -> None:
    inspected = quantdeck("inspect", f"hf.co/{NAME}:q4_k_m", "--json").document
    assert inspected["path"] == f"{NAME}/Small-4M-Q4_K_M.gguf"
    advice = quantdeck("advise", f"{NAME}:F16", "--memory", "8G", "--no-hub", "--json").document
    assert advice == quantdeck("advise", f"{NAME}/Small-4M-F16.gguf", "--memory", "8G", "--no-hub", "--json").document
    quantdeck("hub", "download", f"{NAME}:Q4_K_M", "-o", str(tmp_path / "here"))
    assert (tmp_path / "here" / "Small-4M-Q4_K_M.gguf").read_bytes() == quantized("Q4_K_M")
    for command in (["inspect"], ["advise"], ["hub", "download"]):
        line = quantdeck(*command, f"{NAME}:Q5_K_M").fails_in_one_sentence(3)
        assert "has no Q5_K_M; it has Q8_0, Q4_K_M, F16." in line
    assert f"hub download hf://{NAME}:Q8_0 fetches" in quantdeck("chat", f"{NAME}:Q8_0").fails_in_one_sentence(3)


def test_a_proxy_is_used(server: HubServer, quantdeck: Quantdeck, environ: dict[str, str]) -> None:
    environ |= {"HTTP_PROXY": server.endpoint, "HF_ENDPOINT": "http://hub.example", "NO_PROXY": ""}
    document = quantdeck("hub", "search", "small", "--json").document
    assert [each["id"] for each in document["repositories"]] == [NAME]
    assert server.asked("http://hub.example/api/models")


def test_names_that_steer_terminals_are_harmless(server: HubServer, quantdeck: Quantdeck) -> None:
    server.add("a/b", {"x\x1b]0;owned\x07-Q4_0.gguf": quantized("Q8_0")})
    said = quantdeck("hub", "files", "a/b")
    assert said.code == 0 and "\x1b]" not in said.out and "Q4_0" in said.out
    quantdeck("hub", "download", "a/b", "-q", "Q4_0").fails_in_one_sentence(6)
