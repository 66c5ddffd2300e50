"""The Jobs room on a store of its own: what it shows, and how little it does to show it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets._footer import FooterKey

from quantdeck.tui.app import Workbench
from quantdeck.tui.screens.jobs import JobsRoom
from quantdeck.tui.widgets.grid import Grid
from quantdeck.workbench import jobs
from quantdeck.workbench.jobs import JobStore
from quantdeck.workbench.jobs.store import JobFolder
from quantdeck.workbench.recipe import Request
from quantdeck.workbench.sample import SAMPLE
from quantdeck.workbench.session import Session, open_session
from support.jobs import Bench
from support.rooms import notices, until, workbench


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session({**os.environ, "QUANTDECK_HOME": str(tmp_path / "home")})


@pytest.fixture
def waiting(session: Session, tmp_path: Path) -> str:
    """A job that was submitted and never started."""
    proposal = jobs.prepare(
        session.jobs, SAMPLE.model, Request("Q8_0"), tmp_path / "out.gguf", jobs.JobOptions(workers=2)
    )
    return jobs.submit(session.jobs, proposal)


async def test_workers_are_counted_from_what_was_wanted_last(session: Session, waiting: str):
    """Three quick presses are three workers, although the job has not taken notice of the first one yet."""
    app = workbench(session)
    folder = session.jobs.folder(waiting)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, JobsRoom) and app.screen._snapshot)
        await pilot.press("plus", "plus", "plus")
        await until(pilot, lambda: folder.control(folder.spec()).read().workers == 5)
        await pilot.press("minus")
        await until(pilot, lambda: folder.control(folder.spec()).read().workers == 4)


async def test_footer_is_made_anew_only_for_other_keys(session: Session, waiting: str):
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, JobsRoom) and "Resume" in _keys(app))
        before = list(app.screen.query(FooterKey))
        await pilot.press("1", "3")
        await pilot.pause(0.3)
        assert list(app.screen.query(FooterKey)) == before
        jobs.cancel(session.jobs, waiting)
        await until(pilot, lambda: "Remove" in _keys(app) and "Resume" not in _keys(app))


def _keys(app: Workbench) -> list[str]:
    return [key.description for key in app.screen.query(FooterKey)]


async def test_room_is_up_to_date_when_it_is_entered_again(session: Session, waiting: str, monkeypatch):
    monkeypatch.setattr("quantdeck.tui.screens.jobs.LOOK_SECONDS", 1e6)
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, JobsRoom) and app.screen._snapshot)
        await pilot.press("1")
        jobs.cancel(session.jobs, waiting)
        await pilot.press("3")
        await until(pilot, lambda: app.screen._snapshot.status == "cancelled")


async def test_started_job_says_that_logout_would_end_it(session: Session, waiting: str, monkeypatch):
    monkeypatch.setattr(jobs, "logout_warning", lambda: "This system ends your processes.", raising=False)
    app = workbench(session)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, JobsRoom))
        assert not notices(app)
        app.screen.open(waiting)
        await until(pilot, lambda: "ends your processes" in notices(app))


async def test_end_of_a_job_rings_and_is_told_in_other_rooms(session: Session, waiting: str, monkeypatch):
    """Also when it was so quick that no look saw it at work."""
    rings = []
    monkeypatch.setattr(Workbench, "bell", lambda self: rings.append(1))
    app = workbench(session)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app._settled is not None)
        jobs.start(session.jobs, waiting)
        await until(pilot, lambda: "done" in notices(app))
        assert rings == [1]


async def test_five_hundred_jobs_are_read_once(session: Session, tmp_path: Path, monkeypatch):
    """Of jobs that have ended only a file's time is looked at again; one that changes is seen."""
    bench = Bench(tmp_path)
    store = JobStore(session.paths.jobs)
    proposal = bench.propose(SAMPLE.model, "Q8_0")
    first = store.create(proposal.spec, proposal.plan)
    store.abandon(first)
    summary = store.summary(first)
    assert summary
    for number in range(499):
        other = JobFolder(store.root / f"{first[:-4]}{number:04}")
        shutil.copytree(store.root / first, other.path)
        other.write_summary(replace(summary, id=other.id))
    assert len(store.list()) == 500
    reads = []
    monkeypatch.setattr("quantdeck.workbench.jobs.store.JobFolder.read_summary", lambda self: reads.append(self.id))
    assert {job.status for job in store.list()} == {"cancelled"}
    assert not reads
    monkeypatch.undo()
    app = workbench(session)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, JobsRoom) and app.screen.query_one("#list", Grid).row_count)
        assert app.screen.query_one("#list", Grid).row_count == 500
