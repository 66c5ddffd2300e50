"""What fails behind a room: one sentence, nothing left in memory, and nothing else stopped by it."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from quantdeck.tui.fault import sentence
from quantdeck.tui.messages import OpenChat
from quantdeck.tui.screens import compare
from quantdeck.tui.screens.chat import ChatRoom
from quantdeck.tui.screens.compare import CompareRoom
from quantdeck.tui.screens.library import LibraryRoom
from quantdeck.tui.screens.machine import MachineRoom
from quantdeck.tui.screens.side_by_side import SideBySide
from quantdeck.tui.screens.wizard import WizardRoom
from quantdeck.tui.widgets.grid import Grid
from quantdeck.tui.widgets.imatrix import ImatrixPane
from quantdeck.workbench.errors import BadArgument, QuantdeckError
from quantdeck.workbench.measure import entry_of
from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from quantdeck.workbench.session import Session, open_session
from support.rooms import notices, until, workbench
from support.sample_variants import with_bytes


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("QUANTDECK_HOME", str(tmp_path / "home"))
    return open_session(os.environ)


def _not_numbers(path: Path) -> Path:
    """A model that loads and then computes no numbers: llama.cpp lives, its answer is refused."""
    return with_bytes(path, "output_norm.weight", np.full(256, np.nan, np.float32).tobytes())


def test_every_failure_is_a_sentence(session: Session):
    assert sentence(BadArgument("No such level.")) == "No such level."
    assert sentence(OSError(errno.ENOSPC, "No space left on device", "/x/y")) == (
        "/x/y cannot be used: no space left on device."
    )
    assert sentence(OSError(errno.EIO, "Input/output error")) == "The system refused: input/output error."
    assert "not enough memory" in sentence(MemoryError())
    assert "should not have happened (KeyError" in sentence(KeyError("x"))
    assert list(session.paths.logs.glob("fault-*.log"))


async def test_the_system_speaks_without_numbers(session: Session):
    app = workbench(session)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/x/y")

    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: isinstance(app.screen, MachineRoom))
        app.screen.in_background(full, lambda _: None)
        await until(pilot, lambda: "/x/y cannot be used" in notices(app))
        assert "Errno" not in notices(app)


async def test_a_failed_answer_leaves_no_model_in_memory(session: Session, tmp_path: Path):
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, MachineRoom))
        app.post_message(OpenChat(_not_numbers(tmp_path / "m.gguf")))
        await until(pilot, lambda: isinstance(app.screen, ChatRoom) and app.screen._llama)
        pid = app.screen._llama.pid
        await pilot.press(*"Hi", "enter")
        await until(pilot, lambda: app.screen._llama is None)
        await until(pilot, lambda: not psutil.pid_exists(pid))
        assert not app.screen._busy


async def test_side_by_side_keeps_no_model_that_failed(session: Session, tmp_path: Path):
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, MachineRoom))
        app.push_screen(SideBySide(session, [_not_numbers(tmp_path / "m.gguf"), SAMPLE.model]))
        await until(pilot, lambda: isinstance(app.screen, SideBySide) and not any(s.busy for s in app.screen._sides))
        bad, good = app.screen._sides
        pid = bad.llama.pid
        await pilot.press(*"Hi", "enter")
        await until(pilot, lambda: good.tokens and bad.llama is None)
        await until(pilot, lambda: not psutil.pid_exists(pid))
        assert "not numbers" in bad.state and "tokens/s" in good.state


async def test_another_failure_does_not_end_a_measurement(session: Session, monkeypatch: pytest.MonkeyPatch):
    stopped, begun = threading.Event(), threading.Event()

    def slow(_session, _path, _settings, _heard, cancelled):
        begun.set()
        while not cancelled():
            time.sleep(0.01)
        stopped.set()
        raise compare.Cancelled("stopped")

    monkeypatch.setattr(compare, "measure", slow)
    entry_of(session.library, SAMPLE.model, read_model(SAMPLE.model))
    app = workbench(session)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, CompareRoom) and app.screen._entries)
        await pilot.press("e")
        await until(pilot, begun.is_set)
        await pilot.press("a", *"none", "enter")
        await until(pilot, lambda: "none" in notices(app))
        assert app.screen._busy and app.screen.query_one("#measuring").display
        await pilot.press("c")
        await until(pilot, lambda: not app.screen._busy)
        assert stopped.is_set()


async def test_a_failure_that_comes_too_late_does_not_end_a_calibration(session: Session):
    app = workbench(session)
    late = threading.Event()

    def fails() -> None:
        late.wait(20)
        raise QuantdeckError("The Hub cannot be reached.")

    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, WizardRoom))
        room = app.screen
        room._work_out(fails, lambda _: None, awaited=False)
        room._turn += 1  # the user went on
        pane = room.query_one(ImatrixPane)
        pane.working = True
        done = threading.Event()
        late.set()
        room.in_background(lambda: None, lambda _: done.set())
        await until(pilot, done.is_set)
        await pilot.pause(0.2)
        assert pane.working and "cannot be reached" not in notices(app)


async def test_a_model_made_elsewhere_goes_to_the_wizard_itself(session: Session, monkeypatch: pytest.MonkeyPatch):
    model = session.paths.models / "elsewhere-F16.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(SAMPLE.model.read_bytes())
    assert not entry_of(session.library, model, read_model(model)).source
    monkeypatch.setenv("HOME", str(session.paths.data))
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("6")
        await until(pilot, lambda: isinstance(app.screen, LibraryRoom) and app.screen._items)
        app.screen.query_one(Grid).go_to(str(model))
        app.screen.action_wizard()
        await until(pilot, lambda: isinstance(app.screen, WizardRoom) and app.screen._model == model)
