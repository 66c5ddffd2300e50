"""Checkpoints in the wizard at 80 by 24: what is wrong with them is said, and nothing begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from quantdeck.workbench.checkpoint.stored import read_stored
from quantdeck.workbench.jobs import JobStore
from support.checkpoints import build
from support.command import COMMAND, Said
from support.terminal import Terminal


@pytest.fixture
def terminal(environ: dict[str, str]) -> Iterator[Terminal]:
    opened = Terminal(list(COMMAND), environ, 80, 24)
    yield opened
    opened.end()


def _with_nan(folder: Path) -> Path:
    build("llama3", folder, dtype="F16")
    tensor = read_stored(folder / "model.safetensors", 0)["model.layers.1.mlp.up_proj.weight"]
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset + 2000)
        file.write(np.float16("nan").tobytes())
    return folder


def test_weights_that_are_no_numbers_begin_no_job(terminal: Terminal, environ: dict[str, str], tmp_path: Path) -> None:
    terminal.name_to_wizard(_with_nan(tmp_path / "model"))
    for words in ("Which machine", "What matters most", "How long", "is recommended"):
        terminal.wait_for(words)
        terminal.press("enter")
    terminal.wait_for("begins")
    terminal.press("enter")
    terminal.wait_for("infinity")
    assert "model.layers.1.mlp.up_proj.weight" in terminal.text()
    terminal.press("esc")
    terminal.wait_for("is recommended")
    assert JobStore(Path(environ["QUANTDECK_HOME"]) / "jobs").list() == []


@pytest.mark.parametrize("options", [["--json"], ["--detach"], ["--detach", "--json"], []])
def test_the_command_refuses_them_too(
    quantdeck: Callable[..., Said], environ: dict[str, str], tmp_path: Path, options: list[str]
) -> None:
    folder = _with_nan(tmp_path / "model")
    said = quantdeck("quantize", str(folder), "gguf", "-q", "Q4_K_M", "-o", str(tmp_path / "out.gguf"), *options)
    assert said.code == 6 and "up_proj.weight" in said.err + said.out and "in row 3; the source" in said.err + said.out
    assert quantdeck("jobs", "list", "--json").document["jobs"] == []


def test_how_to_go_on_with_an_unknown_pre_tokenizer(terminal: Terminal, tmp_path: Path) -> None:
    folder = build("qwen2", tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|" * 60 + "."
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    terminal.name_to_wizard(folder)
    terminal.wait_for("--pre NAME.")
    assert "is not known" in terminal.text() and "Which model" in terminal.text()
