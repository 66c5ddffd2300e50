"""The workbench in a real pseudo-terminal, with keys alone."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from quantdeck.workbench.jobs import JobStore
from support.models import make_model
from support.terminal import Terminal

Start = Callable[..., Terminal]


def _answer_of_a_fresh_quant(terminal: Terminal) -> None:
    """From the first screen through wizard and job to an answer."""
    terminal.wait_for("usable of")
    terminal.press("enter")
    terminal.wait_for("Which model")
    terminal.press("enter")
    terminal.wait_for("Which machine")
    terminal.press("enter")
    terminal.wait_for("What matters most")
    terminal.press("enter")
    terminal.wait_for("How long")
    terminal.press("enter")
    terminal.wait_for("is recommended")
    terminal.press("enter")
    terminal.wait_for("begins")
    terminal.press("enter")
    terminal.wait_for("Enter talks to it", 60)
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    terminal.type("What is the capital of France?")
    terminal.press("enter")
    terminal.wait_for("tokens/s ·", 60)
    answer = terminal.text().split("Model\n")[1]
    assert re.search("[A-Za-z]{3}", answer.split("tokens/s")[0])


def test_from_the_start_to_an_answer_in_twelve_keys(start: Start) -> None:
    terminal = start()
    _answer_of_a_fresh_quant(terminal)
    assert terminal.presses <= 12


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_every_room_fits_the_terminal(start: Start, size: tuple[int, int]) -> None:
    terminal = start(columns=size[0], rows=size[1])
    terminal.wait_for("usable of")
    for key, words in {
        "2": "Which model",
        "3": "No jobs yet",
        "4": "No model is loaded",
        "6": "Nothing has been made",
    }.items():
        terminal.press(key)
        terminal.wait_for(words)
        terminal.wait_for("Settings" if key == "4" else "Quit")
        assert not terminal.text().splitlines()[-1].endswith("…")
        if key == "4":
            terminal.press("esc")
    terminal.press("1", "?")
    terminal.wait_for("Keys everywhere")
    terminal.press("esc", "t")
    terminal.wait_for("Enter keeps it")
    terminal.press("down", "enter", "q")
    assert terminal.wait() == 0, terminal.text()


def test_the_theme_is_remembered(start: Start, environ: dict[str, str]) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("t")
    terminal.wait_for("Paper")
    terminal.press("down", "enter", "q")
    terminal.wait()
    assert 'theme = "Paper"' in (Path(environ["QUANTDECK_HOME"]) / "profile.toml").read_text()


def test_no_color_sends_no_colour(start: Start) -> None:
    terminal = start(NO_COLOR="1")
    terminal.wait_for("usable of")
    colours = {cell.fg for line in terminal.screen.buffer.values() for cell in line.values()}
    assert colours <= {"default"}


def test_sixteen_colours_stay_within_sixteen(start: Start) -> None:
    terminal = start(TERM="linux", COLORTERM="")
    terminal.wait_for("usable of")
    colours = {cell.fg for line in terminal.screen.buffer.values() for cell in line.values()}
    assert len(colours) > 1 and not [colour for colour in colours if re.fullmatch("[0-9a-f]{6}", colour)]


def test_a_bad_model_leaves_the_wizard_standing(start: Start, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    terminal = start()
    terminal.name_to_wizard(bad)
    terminal.wait_for("bad.gguf")
    terminal.press("esc", "1")
    terminal.wait_for("usable of")


def test_a_crash_of_llama_leaves_the_workbench_standing(start: Start) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("4", "ctrl+o")
    terminal.wait_for("Which model?")
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    children = [p for p in psutil.Process(terminal.pid).children(recursive=True) if "llama" in " ".join(p.cmdline())]
    assert children
    for child in children:
        child.send_signal(signal.SIGKILL)
    terminal.type("hello")
    terminal.press("enter")
    terminal.wait_for("What went wrong")
    terminal.press("ctrl+o")
    terminal.wait_for("Which model?")
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    terminal.type("What is the capital of France?")
    terminal.press("enter")
    terminal.wait_for("tokens/s ·", 60)


def test_a_lost_terminal_leaves_no_process_but_the_job(start: Start, environ: dict[str, str]) -> None:
    terminal = start()
    _answer_of_a_fresh_quant(terminal)
    below = psutil.Process(terminal.pid).children(recursive=True)
    terminal.close()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    jobs = JobStore(Path(environ["QUANTDECK_HOME"]) / "jobs").list()
    assert [job.status for job in jobs] == ["done"]
    assert Path(jobs[0].output).stat().st_size == jobs[0].output_bytes


def test_a_terminal_lost_under_nohup_ends_the_program_too(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        terminal = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    terminal.wait_for("usable of")
    terminal.close()


def test_keys_that_arrive_at_once_keep_their_order(start: Start) -> None:
    """A slow line brings several keys in one piece: Enter must not act before those in front of it."""
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("2")
    terminal.wait_for("Which model")
    terminal.type("\x1b[B\r")
    terminal.wait_for("path of a GGUF")
    terminal.press("esc", "4", "ctrl+o")
    terminal.wait_for("Which model?")
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    terminal.type("What is the capital of France?\r")
    terminal.wait_for("tokens/s ·", 60)
    assert "You\n What is the capital of France?" in terminal.text()
    terminal.press("ctrl+s")
    terminal.wait_for("Chat settings")
    terminal.type("\x1b[B" + "\x7f" * 3 + "0\r")
    terminal.wait_for("Write a message")
    terminal.press("ctrl+s")
    terminal.wait_for("Temperature      0.0")


def test_a_home_of_nobody_is_one_sentence(start: Start) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("2")
    terminal.wait_for("Which model")
    terminal.press("down", "enter")
    terminal.wait_for("path of a GGUF")
    terminal.type("~nobody-of-this-name/m.gguf\r")
    terminal.wait_for("home of nobody")
    terminal.press("4", "ctrl+o")
    terminal.wait_for("Which model?")
    terminal.type("~nobody-of-this-name/m.gguf\r")
    terminal.wait_for("home of nobody")


def _to_the_plan(terminal: Terminal) -> None:
    terminal.press("2")
    for words in ("Which model", "Which machine", "What matters most", "How long", "is recommended"):
        terminal.wait_for(words)
        terminal.press("enter")
    terminal.wait_for("begins")


def test_an_impatient_enter_begins_one_job(start: Start, environ: dict[str, str]) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    _to_the_plan(terminal)
    terminal.type("\r\r\r")
    terminal.wait_for("Enter talks to it", 60)
    assert len(JobStore(Path(environ["QUANTDECK_HOME"]) / "jobs").list()) == 1


def test_a_name_that_is_taken(start: Start, environ: dict[str, str]) -> None:
    """The plan takes a free name by itself; the user may name the old file, and then says whether it is replaced."""
    models = Path(environ["QUANTDECK_HOME"]) / "models"
    models.mkdir(parents=True)
    (models / "sample-Q6_K.gguf").write_bytes(b"before")
    terminal = start(columns=200)
    terminal.wait_for("usable of")
    _to_the_plan(terminal)
    assert "sample-Q6_K-2.gguf" in terminal.text()
    terminal.press("o")
    terminal.wait_for("Where shall")
    terminal.type(str(models / "sample-Q6_K.gguf") + "\r")
    terminal.wait_for("Replace it")
    assert (models / "sample-Q6_K.gguf").read_bytes() == b"before"
    terminal.press("y")
    terminal.wait_for("sample-Q6_K.gguf\n")
    terminal.press("enter")
    terminal.wait_for("Enter talks to it", 60)
    assert (models / "sample-Q6_K.gguf").read_bytes()[:4] == b"GGUF"


def test_a_model_without_answers_is_not_asked(start: Start, tmp_path: Path) -> None:
    model = make_model(tmp_path / "b.gguf", "bert", n_layer=1)
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("4", "ctrl+o")
    terminal.wait_for("Which model?")
    terminal.type(f"{model}\r")
    terminal.wait_for("only makes embeddings", 60)
    terminal.press("ctrl+t")
    terminal.wait_for("▌")
    assert "b.gguf · bert" in terminal.text() and "What went wrong" not in terminal.text()


def test_settings_that_are_not_kept_are_told(start: Start, environ: dict[str, str]) -> None:
    secret = "hf_" + 36 * "a"
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("4", "ctrl+s")
    terminal.wait_for("Chat settings")
    terminal.type(f"{secret}\r")
    terminal.wait_for("looks like a secret")
    assert secret not in (Path(environ["QUANTDECK_HOME"]) / "profile.toml").read_text()


def test_a_sheet_closes_once(start: Start) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("4", "ctrl+o")
    terminal.wait_for("Which model?")
    terminal.type("\r\r\r")
    terminal.wait_for("context 512 tokens", 60)
    terminal.press("esc", "1", "t")
    terminal.wait_for("Paper")
    terminal.type("\x1b[B\rq")
    assert terminal.wait() == 0


def test_keys_in_one_bunch_go_where_those_before_them_lead(start: Start, environ: dict[str, str]) -> None:
    """As on a slow line: into another room, a sheet, its field, out of it again, and into the next sheet."""
    terminal = start()
    terminal.wait_for("usable of")
    terminal.type("4\x0fsample\r")
    terminal.wait_for("context 512 tokens", 60)
    terminal.type("\x0f\x15/no/such.gguf")
    terminal.wait_for("/no/such.gguf")
    assert "Which model?" in terminal.text()
    terminal.press("esc", "esc")
    terminal.type("1?q6?\r1t\x1b[B\r3?qq")
    assert terminal.wait() == 0
    assert 'theme = "Paper"' in (Path(environ["QUANTDECK_HOME"]) / "profile.toml").read_text()


def test_a_number_question_can_be_left_and_still_answered(start: Start) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("2")
    for words in ("Which model", "Which machine", "What matters most"):
        terminal.wait_for(words)
        terminal.press("enter")
    terminal.wait_for("How long")
    terminal.press("esc", "?")
    terminal.wait_for("Keys everywhere")
    terminal.press("esc", "enter")
    terminal.wait_for("is recommended")
