"""The workbench in a terminal of its own making, for tests that look into its rooms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

from quantdeck.tui.app import Workbench
from quantdeck.tui.theme import builtin_themes, default_theme
from quantdeck.workbench.session import Session

PATIENCE = 200


def workbench(session: Session) -> Workbench:
    themes = builtin_themes(session.paths.themes)
    return Workbench(session, themes, default_theme("", themes, {}))


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Wait ten seconds and more for something to become true."""
    for _ in range(PATIENCE):
        await pilot.pause(0.05)
        if condition():
            return
    raise AssertionError("it did not come to that")


def notices(app: Workbench) -> str:
    """Everything that the room has told in its corner."""
    return " ".join(notice.message for notice in app._notifications)
