"""Importance matrices in the wizard and the Compare room, in a real pseudo-terminal, with keys alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantdeck.workbench.imatrix import ImatrixFile
from support.command import COMMAND
from support.terminal import Terminal

Start = Callable[..., Terminal]


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Start]:
    """Open the workbench, and close whatever is still open afterwards."""
    opened: list[Terminal] = []

    def run(*arguments: str, columns: int = 80, rows: int = 24, **changes: str) -> Terminal:
        opened.append(Terminal([*COMMAND, *arguments], {**environ, **changes}, columns, rows))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.end()


def _to_the_levels(terminal: Terminal) -> None:
    terminal.wait_for("usable of", 60)
    terminal.press("enter")
    for words in ("Which model", "Which machine", "What matters most", "How long"):
        terminal.wait_for(words, 60)
        terminal.press("enter")
    terminal.wait_for("is recommended", 60)


def _to_level(terminal: Terminal, level: str) -> None:
    """Put the cursor on a level near the end of the table and choose it."""
    terminal.press(*["pagedown"] * 3)
    for _ in range(12):
        terminal.press("up")
    for _ in range(24):
        lines = [line for line in terminal.text().splitlines() if f" {level} " in line]
        if lines and _under_cursor(terminal, level):
            terminal.press("enter")
            return
        terminal.press("down")
    raise AssertionError(f"{level} is not in the table:\n{terminal.text()}")


def _under_cursor(terminal: Terminal, level: str) -> bool:
    """True if the line of the level is drawn on another background than its neighbours."""
    for y, line in enumerate(terminal.screen.display):
        if f" {level} " in line:
            row = terminal.screen.buffer[y]
            other = terminal.screen.buffer[y - 1]
            return row[4].bg != other[4].bg and row[4].bg != terminal.screen.buffer[y + 1][4].bg
    return False


def test_a_level_that_needs_a_matrix_gets_one(start: Start, environ: dict[str, str]) -> None:
    terminal = start()
    _to_the_levels(terminal)
    _to_level(terminal, "IQ2_XXS")
    terminal.wait_for("An importance matrix for IQ2_XXS?", 60)
    terminal.wait_for("cannot be made without one")
    assert "Go on without" not in terminal.text()
    terminal.press("enter")
    terminal.wait_for("begins", 120)
    terminal.wait_for("Imatrix")
    made = list((Path(environ["QUANTDECK_HOME"]) / "imatrices").glob("*.gguf"))
    assert len(made) == 1 and ImatrixFile(made[0]).chunk_count > 4
    terminal.press("esc")
    terminal.wait_for("is recommended")
    terminal.press("enter")
    terminal.wait_for("Use sample-f16-calibration", 60)
    terminal.press("enter")
    terminal.wait_for("begins", 60)
    terminal.press("enter")
    terminal.wait_for("Enter talks to it", 120)


def test_a_calibration_that_is_stopped_leaves_the_choices(start: Start, environ: dict[str, str]) -> None:
    terminal = start()
    _to_the_levels(terminal)
    _to_level(terminal, "Q2_K")
    terminal.wait_for("Do not go on without one", 60)
    assert "Go on without" in terminal.text()
    terminal.press("enter")
    terminal.wait_for("esc stops")
    terminal.press("esc")
    terminal.wait_for("Calibrate now, with the built-in text", 60)
    terminal.press("up", "enter")
    terminal.wait_for("begins", 60)
    assert "Imatrix  " not in terminal.text()
