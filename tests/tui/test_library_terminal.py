"""The library's room in a real pseudo-terminal: models of other programs, hand-over, doubles, deleting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import COMMAND
from support.hub_files import quantized
from support.terminal import Terminal


@pytest.fixture
def terminal(environ: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    """A machine with a model in the Hub's cache, and the same one twice in our own folder."""
    content = quantized("Q8_0")
    cache = tmp_path / "hf" / "hub" / "models--someone--M-GGUF"
    blob = cache / "blobs" / hashlib.sha256(content).hexdigest()
    link = cache / "snapshots" / ("0" * 40) / "cached-Q8_0.gguf"
    own = tmp_path / "home" / "models" / "mine-Q8_0.gguf"
    for path in (blob, link, own):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    own.write_bytes(content)
    link.symlink_to(blob)
    opened = Terminal([*COMMAND], {**environ, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)})
    opened.wait_for("usable of")
    opened.press("6")
    opened.wait_for("mine-Q8_0.gguf")
    opened.wait_for("cached-Q8_0.gguf")
    yield opened
    opened.end()


def test_hand_over_doubles_and_chat(terminal: Terminal) -> None:
    terminal.wait_for("Quit")
    assert "Hub cache" in terminal.text() and not terminal.text().splitlines()[-1].endswith("…")
    terminal.press("h")
    terminal.wait_for("llama-server -m")
    terminal.press("esc", "u")
    terminal.wait_for("are there more than once")
    terminal.press("esc", "enter")
    terminal.wait_for("context 512 tokens", 60)


def test_to_the_comparison(terminal: Terminal) -> None:
    terminal.press("x")
    terminal.wait_for("KL", 40)
    terminal.wait_for("Q8_0")


def test_deleting_asks_first(terminal: Terminal, tmp_path: Path) -> None:
    files = [*tmp_path.rglob("blobs/*"), tmp_path / "home" / "models" / "mine-Q8_0.gguf"]
    terminal.press("d")
    terminal.wait_for("for good?")
    terminal.press("n")
    assert all(file.exists() for file in files)
    for _ in range(2):
        terminal.press("d")
        terminal.wait_for("for good?")
        terminal.press("y")
        terminal.pump(1)
    terminal.wait_for("Nothing has been made")
    assert not any(file.exists() for file in files)


def test_what_is_incomplete_is_only_deleted(terminal: Terminal, tmp_path: Path) -> None:
    link = tmp_path / "hf" / "hub" / "models--someone--M-GGUF" / "snapshots" / ("0" * 40) / "dead-Q4_0.gguf"
    link.symlink_to(tmp_path / "hf" / "hub" / "models--someone--M-GGUF" / "blobs" / ("1" * 64))
    terminal.press("1", "6")
    terminal.wait_for("dead-Q4_0.gguf")
    terminal.wait_for("incomplete")
    while "incomplete: dead-Q4_0.gguf is a link to nothing" not in terminal.text():
        terminal.press("down" if terminal.presses < 12 else "up")
        terminal.pump(0.3)
    for key in ("enter", "x", "w", "h"):
        terminal.press(key)
        terminal.wait_for("dead-Q4_0.gguf is incomplete")
        assert "Delete" in terminal.text().splitlines()[-1]
    terminal.press("d")
    terminal.wait_for("Delete what is left of dead-Q4_0.gguf")
    assert link.is_symlink()
    terminal.press("y")
    terminal.pump(1)
    assert not link.is_symlink() and "cached-Q8_0.gguf" in terminal.text()
