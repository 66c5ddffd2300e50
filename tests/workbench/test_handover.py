"""Command lines and model cards for finished files, and their way to the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from quantdeck.workbench.advice.machine import this_machine
from quantdeck.workbench.errors import AuthenticationNeeded, BadArgument
from quantdeck.workbench.handover import base_models, commands, model_card, run_setting, template_family
from quantdeck.workbench.hub import Hub, Patience, upload
from quantdeck.workbench.library import Entry, Figure
from quantdeck.workbench.model import Model, read_model, value
from support.command import COMMAND, ROOT
from support.hub_files import quantized
from support.hub_server import GOOD_TOKEN, HubServer, hub_server
from support.machines import DDR5, machine, nvidia
from support.sample_variants import make_variant

CPU = this_machine(machine(16), DDR5)
CARD = this_machine(machine(16, nvidia(12, "RTX 3060"), gpu_offload=True), DDR5)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    path = tmp_path / "a folder" / "Small 4M-Q8_0.gguf"
    path.parent.mkdir()
    path.write_bytes(quantized("Q8_0"))
    return read_model(path)


def entry_of(model: Model) -> Entry:
    figure = Figure("kl_divergence", 0.0123, "2026-01-01", {"text": "/home/me/eval.txt", "tokens": 4096})
    recipe = {"level": "Q8_0", "pure": True, "tensor_types": [["ffn", "Q6_K"]], "imatrix": "/home/me/i.gguf"}
    return Entry(
        "c" * 64, str(model.path), "/home/me/secret/source-f16.gguf", "f", "llama", "Q8_0", model.path.stat().st_size,
        1.87, 8.5, 2.0, "2026-01-01T10:00:00", recipe, "/home/me/i.gguf", "d" * 64, True, "loaded", (figure,),
    )  # fmt: skip


def test_every_program_gets_context_and_layers(model: Model) -> None:
    setting = run_setting(model, CARD, 4096)
    assert setting.context == 512 == model.get("llama.context_length")
    assert setting.gpu_layers == setting.placement.all_layers > 1
    found = {each.program: each.lines for each in commands(model, setting)}
    assert set(found) == {"llama-server", "llama-cli", "Ollama", "LM Studio", "llama-cpp-python"}
    for program in ("llama-server", "llama-cli"):
        words = shlex.split(found[program])
        assert words[words.index("-m") + 1] == str(model.path)
        assert words[words.index("-c") + 1] == "512"
        assert words[words.index("-ngl") + 1] == str(setting.gpu_layers)
    assert f"FROM {model.path}\nPARAMETER num_ctx 512\nPARAMETER num_gpu {setting.gpu_layers}" in found["Ollama"]
    assert 'PARAMETER stop "<|im_end|>"' in found["Ollama"] and "--gpu max" in found["LM Studio"]
    on_cpu = {each.program: each.lines for each in commands(model, run_setting(model, CPU, 256))}
    assert "-c 256 -ngl 0" in on_cpu["llama-cli"] and "num_gpu" not in on_cpu["Ollama"]
    assert "--gpu off" in on_cpu["LM Studio"]


def test_the_python_lines_run(model: Model) -> None:
    lines = next(each.lines for each in commands(model, run_setting(model, CPU, 512)) if "python" in each.program)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]


def test_the_modelfile_survives_the_shell(model: Model, tmp_path: Path) -> None:
    lines = next(each.lines for each in commands(model, run_setting(model, CPU, 512)) if each.program == "Ollama")
    shell = lines.split("\nollama create")[0]
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True)
    assert (tmp_path / "Modelfile").read_text().splitlines()[0] == f"FROM {model.path}"


def test_a_context_that_does_not_fit_is_shortened(model: Model) -> None:
    long = replace(model, metadata={**model.metadata, "llama.context_length": value("uint32", 1 << 20)})
    small = replace(CPU, budget=replace(CPU.budget, ram=96 << 20))
    setting = run_setting(long, small, 1 << 20)
    assert setting.context < 1 << 20 and setting.placement.fits != "no" and f"{setting.context:,}" in setting.note
    none = run_setting(long, replace(CPU, budget=replace(CPU.budget, ram=1 << 20)), 4096)
    assert none.placement.fits == "no" and "missing" in none.note


@pytest.mark.parametrize(
    ("template", "family"),
    [("{{ '<|im_start|>' }}", "ChatML"), ("<start_of_turn>", "Gemma"), ("{{ x }}", ""), (None, "")],
)
def test_templates_are_told_apart(tmp_path: Path, template: str | None, family: str) -> None:
    item = None if template is None else value("string", template)
    model = read_model(make_variant(tmp_path / "m.gguf", {"tokenizer.chat_template": item}))
    assert template_family(model)[0] == family
    note = next(each.note for each in commands(model, run_setting(model, CPU, 512)) if each.program == "Ollama")
    assert ("no chat template" in note) == (template is None)


def test_a_path_that_steers_a_terminal_is_refused(model: Model) -> None:
    with pytest.raises(BadArgument):
        commands(replace(model, path=Path("/tmp/a\nrm -rf.gguf")), run_setting(model, CPU, 512))


def test_the_card_says_everything_but_paths(model: Model) -> None:
    card = model_card(model, run_setting(model, CPU, 512), entry_of(model))
    assert "/home/me" not in card and "secret" not in card and str(model.path.parent) not in card
    for words in ("source-f16.gguf", "Q8\\_0", "c" * 64, "kl divergence", "0.0123", "eval.txt", "d" * 64, "apache-2.0"):
        assert words in card, words
    data = ModelCard(card).data
    assert data.license == "apache-2.0" and "gguf" in data.tags and data.library_name == "gguf"


def test_hostile_metadata_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    evil = 'x\n---\nlicense: mit\n"<script>alert(1)</script> | `a` \x1b[31m'
    changes = {key: value("string", evil) for key in ("general.name", "general.license", "general.description")}
    model = read_model(make_variant(tmp_path / "m.gguf", changes))
    card = model_card(model, run_setting(model, CPU, 512), None)
    assert "\x1b" not in card and "<script>" not in card.split("---\n", 2)[2]
    assert ModelCard(card).data.license.startswith("x --- license: mit")


def test_the_origin_is_named_where_the_file_names_it(tmp_path: Path) -> None:
    url = value("string", "https://huggingface.co/meta-llama/Llama-3.2-1B")
    bad = value("string", "https://evil.example/meta/x")
    changes = {"general.base_model.0.repo_url": url, "general.base_model.1.repo_url": bad}
    model = read_model(make_variant(tmp_path / "m.gguf", changes))
    assert base_models(model) == ["meta-llama/Llama-3.2-1B"]
    card = ModelCard(model_card(model, run_setting(model, CPU, 512)))
    assert card.data.base_model == ["meta-llama/Llama-3.2-1B"]


# -- upload ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # The other way of transfer is a service of its own, which no loopback server speaks.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server() as served:
        yield served


def test_an_upload_arrives_whole(server: HubServer, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(Patience(first_wait=0.01), endpoint=server.endpoint)
    with pytest.raises(AuthenticationNeeded, match="write access"):
        upload(hub, model.files, "me/model", "# card")
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    done = upload(hub, model.files, "me/model", "# card")
    assert done.files == ("Small 4M-Q8_0.gguf", "README.md") and "/commit/" in done.url
    assert server.uploads == {hashlib.sha256(quantized("Q8_0")).hexdigest(): quantized("Q8_0")}
    kinds = [(line["key"], line["value"].get("path")) for line in server.commits]
    assert ("lfsFile", "Small 4M-Q8_0.gguf") in kinds and ("file", "README.md") in kinds
    assert server.sent_tokens("network") == set()


def test_a_card_that_is_there_stays(server: HubServer, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    server.add("me/model", {"README.md": b"mine"})
    hub = Hub(Patience(first_wait=0.01), endpoint=server.endpoint)
    assert upload(hub, model.files, "me/model", "# card").files == ("Small 4M-Q8_0.gguf",)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AuthenticationNeeded) as caught:
        upload(hub, model.files, "me/model", "# card")
    assert "hf_wrong" not in str(caught.value)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def quantdeck(server: HubServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environ = {
        **os.environ,
        "QUANTDECK_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT / ".src"),
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        env = {**environ, **changes}
        return subprocess.run(
            [*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False, stdin=-3
        )

    return run


def test_commands(
    quantdeck: Callable[..., subprocess.CompletedProcess[str]], model: Model, tmp_path: Path, server: HubServer
) -> None:
    document = json.loads(quantdeck("handover", str(model.path), "--json").stdout)
    assert document["context"] == 512 and "llama-server -m" in document["commands"]["llama-server"]["lines"]
    assert "ollama create" in quantdeck("handover", "sample").stdout
    card = tmp_path / "card.md"
    done = quantdeck("card", str(model.path), "-o", str(card))
    assert done.returncode == 0 and card.read_text().startswith("---\n") and "does not know" in done.stderr
    assert quantdeck("upload", str(model.path), "me/model", "--yes").returncode == 4
    refused = quantdeck("upload", str(model.path), "me/model", HF_TOKEN=GOOD_TOKEN)
    assert refused.returncode == 2 and "--yes" in refused.stderr and not server.uploads
    said = quantdeck("upload", str(model.path), "me/model", "--yes", "--json", HF_TOKEN=GOOD_TOKEN)
    assert json.loads(said.stdout)["files"] == ["Small 4M-Q8_0.gguf", "README.md"], said.stderr
    assert server.uploads and GOOD_TOKEN not in said.stdout + said.stderr
