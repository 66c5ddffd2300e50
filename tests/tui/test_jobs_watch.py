"""`quantdeck jobs watch` in a pipe, in a log and on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from support.command import COMMAND, Said
from support.terminal import Terminal

Run = Callable[..., Said]


def _job(quantdeck: Run, tmp_path: Path) -> str:
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q4_K_M", "-o", str(tmp_path / "o.gguf"), "--detach", "--json")
    return str(said.document["job"])


def test_a_pipe_gets_each_tensor_once_with_its_error(quantdeck: Run, tmp_path: Path) -> None:
    watched = quantdeck("jobs", "watch", _job(quantdeck, tmp_path), "--json")
    lines = watched.err.splitlines()
    assert watched.document["status"] == "done"
    tensors = {tensor["name"]: tensor for tensor in watched.document["tensors"]}
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(told) == {tensor.name for tensor in read_model(SAMPLE.model).tensors}
    assert len([line for line in lines if line.startswith("  ")]) == len(told)
    for name, line in told.items():
        error = tensors[name]["relative_error"]
        assert tensors[name]["type"] in line
        assert line.endswith("copied" if error is None else f"{100 * error:.2f} %")
    assert "Q4_K_M  done in" in watched.err and "\x1b" not in watched.err and "\r" not in watched.err


def test_a_terminal_gets_one_line_drawn_again_and_again(
    quantdeck: Run, tmp_path: Path, environ: dict[str, str]
) -> None:
    terminal = Terminal([*COMMAND, "jobs", "watch", _job(quantdeck, tmp_path)], environ)
    terminal.wait_for("sha256", 60)
    assert terminal.wait() == 0
    shown = [line for line in terminal.text().splitlines() if line.strip()]
    assert len(shown) == 2 and shown[0].startswith("Done in")
    terminal.end()
