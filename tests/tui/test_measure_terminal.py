"""Importance matrices in the wizard and the Compare room, in a real pseudo-terminal, with keys alone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from quantdeck.workbench.imatrix import ImatrixFile
from quantdeck.workbench.sample import SAMPLE
from support.command import Said
from support.terminal import Terminal

Start = Callable[..., Terminal]


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
        terminal.pump(0.4)
        if _under_cursor(terminal, level):
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
    terminal.press("i")
    terminal.wait_for("Use sample-f16-calibration", 60)
    terminal.press("esc")
    terminal.wait_for("The plan")
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


def test_another_matrix_leaves_the_file_where_it_shall_go(start: Start) -> None:
    terminal = start()
    _to_the_levels(terminal)
    terminal.press("enter")
    terminal.wait_for("begins", 60)
    terminal.press("o")
    terminal.wait_for("Where shall the file go?")
    terminal.press("ctrl+u")
    terminal.type("mine.gguf")
    terminal.press("enter")
    terminal.wait_until(lambda text: "mine.gguf" in text and "Where shall" not in text, "the plan with the name")
    terminal.press("i")
    terminal.wait_for("Go on without", 60)
    terminal.press("up", "enter")
    terminal.wait_for("The plan", 60)
    terminal.wait_for("mine.gguf")


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


def _compare_the_sample(terminal: Terminal) -> None:
    terminal.wait_for("usable of", 60)
    terminal.press("5")
    terminal.wait_for("Nothing to compare yet", 60)
    terminal.press("a")
    terminal.wait_for("Which model?")
    terminal.type("sample")
    terminal.press("enter")
    terminal.wait_for("F16", 60)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_compare_room_fits_the_terminal(start: Start, size: tuple[int, int]) -> None:
    terminal = start(columns=size[0], rows=size[1])
    _compare_the_sample(terminal)
    terminal.wait_for("e Measure")
    terminal.wait_for("q Quit")
    terminal.press("?")
    terminal.wait_for("A dot marks the efficient")


def test_the_compare_room_lives_through_another_size(start: Start) -> None:
    terminal = start(columns=80, rows=24)
    _compare_the_sample(terminal)
    assert "model" not in terminal.text().splitlines()[3]
    terminal.resize(120, 40)
    terminal.press("s")
    terminal.wait_for("By bits/w")
    terminal.wait_until(lambda text: "model" in _heads(text), "the column of models")
    terminal.resize(80, 24)
    terminal.press("s")
    terminal.wait_for("By ppl")
    terminal.wait_until(lambda text: "KL" in _heads(text) and "model" not in _heads(text), "the narrow table")


def _heads(text: str) -> str:
    """The line of the table's column heads."""
    return next((line for line in text.splitlines() if "bits/w" in line and "ppl" in line), "")


def test_a_further_model_stands_in_the_table_that_is_shown(start: Start, quantdeck: Callable[..., Said]) -> None:
    for level in ("Q8_0", "Q4_0"):
        assert quantdeck("quantize", "sample", "gguf", "-q", level, "-o", f"{level}.gguf").code == 0
    arguments = ("--reference", "sample", "--context", "64", "--chunks", "4", "--questions", "none")
    assert quantdeck("evaluate", "Q8_0.gguf", *arguments).code == 0
    terminal = start()
    terminal.wait_for("usable of", 60)
    terminal.press("5")
    terminal.wait_for("measure on the same text, chunks and reference", 60)
    terminal.wait_for("4 chunks of 64")
    terminal.press("m")
    terminal.wait_for("Measured.", 120)
    terminal.wait_for("4 chunks of 64")
    rows = {line.split()[1]: line for line in terminal.text().splitlines() if " MiB " in line and "●" in line}
    assert rows["Q8_0"].count(" %") == 1 and rows["Q4_0"].count(" %") == 2  # the room asks the sample's questions too
    terminal.press("o")
    terminal.wait_for("chunks of 512 tokens: a new table", 60)
    terminal.press("o")
    terminal.wait_for("measure on the same text, chunks and reference", 60)


def test_models_are_measured_and_compared(start: Start, quantdeck: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(SAMPLE.eval_text[:12_000])
    for level in ("Q8_0", "Q3_K_M"):
        assert quantdeck("quantize", "sample", "gguf", "-q", level, "-o", f"{level}.gguf").code == 0
    terminal = start(columns=120, rows=40)
    terminal.wait_for("usable of", 60)
    terminal.press("5")
    terminal.wait_for("Q3_K_M.gguf", 60)
    terminal.press("d")
    terminal.wait_for("On which text?")
    terminal.type(str(tmp_path / "short.txt"))
    terminal.press("enter", "m")
    terminal.wait_for("questions", 120)
    terminal.press("c")
    terminal.wait_for("Stopped", 60)
    terminal.press("m")
    terminal.wait_for("Measured.", 240)
    terminal.wait_for("KL from sample-f16.gguf", 60)
    assert len([line for line in terminal.text().splitlines() if "●" in line and " %" in line]) == 2
    terminal.press("x")
    terminal.wait_for("Where to?")
    terminal.press("ctrl+u")
    terminal.type(str(tmp_path / "table.csv"))
    terminal.press("enter")
    terminal.wait_for("Written to", 60)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    by_level = {row["level"]: row for row in rows}
    assert float(by_level["Q3_K_M"]["kl"]) > float(by_level["Q8_0"]["kl"]) > 0
    terminal.press("x")
    terminal.wait_for("Where to?")
    terminal.press("ctrl+u")
    terminal.type(str(tmp_path / "table.csv"))
    terminal.press("enter")
    terminal.wait_for("Replace it?")
    terminal.press("n", "x")
    terminal.wait_for("Where to?")
    terminal.press("ctrl+u")
    terminal.type(str(tmp_path / "none" / "table.csv"))
    terminal.press("enter")
    terminal.wait_for("There is no folder", 60)
    assert not (tmp_path / "none").exists()
    terminal.press("b")
    terminal.wait_for("ready", 60)
    terminal.type("What is the capital of France?")
    terminal.press("enter")
    terminal.wait_for("tokens agree", 120)
    terminal.press("esc")
    terminal.wait_for("Mark")
    terminal.press("q")
    assert terminal.wait() == 0
