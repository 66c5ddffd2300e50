"""`quantdeck` without a command: the workbench."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from ...workbench.errors import QuantdeckError
from ...workbench.session import open_session

FRAMES_PER_SECOND = "10"


def run(arguments: argparse.Namespace) -> int:
    """Open the screens on this terminal."""
    return open_workbench(None)


def open_workbench(model: Path | None) -> int:
    """Open the screens, in the wizard if there is a model to begin with."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise QuantdeckError(
            "The workbench needs a terminal; quantdeck --help lists the commands that work without one."
        )
    if hasattr(signal, "SIGHUP"):
        # Under nohup it would stay without a terminal and read from nothing, at full speed. Jobs go on anyway.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Read by Textual when it is imported: over a slow line every frame costs, and nothing here moves for show.
    os.environ.setdefault("TEXTUAL_FPS", FRAMES_PER_SECOND)
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    from ..app import Workbench
    from ..theme import builtin_themes, default_theme

    session = open_session(os.environ)
    themes = builtin_themes(session.paths.themes)
    app = Workbench(session, themes, default_theme(session.profile.theme, themes, os.environ), model)
    app.run()
    return app.return_code or 0
