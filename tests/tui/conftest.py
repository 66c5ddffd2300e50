"""A home of its own for every test, and the command as users run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import COMMAND, ROOT, Said


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a child that must not touch the developer's own profile."""
    python_path = str(ROOT / ".src")
    return {**os.environ, "QUANTDECK_HOME": str(tmp_path / "home"), "PYTHONPATH": python_path, "TERM": "xterm-256color"}


@pytest.fixture
def quantdeck(environ: dict[str, str], tmp_path: Path) -> Callable[..., Said]:
    """Run `quantdeck ...` in an empty folder and return what it said."""

    def run(*arguments: str, stdin: str = "", timeout: float = 120, cwd: Path = tmp_path) -> Said:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=cwd,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run
