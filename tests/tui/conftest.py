"""A home of its own for every test, and the command as users run it, also on a terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.command import COMMAND, ROOT, Said
from support.hub_server import HubServer, hub_server
from support.terminal import Terminal


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


@pytest.fixture
def loopback_hub(environ: dict[str, str], tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub on loopback, which the commands take for the real one; nobody is logged in."""
    environ.pop("HF_TOKEN", None)
    with hub_server() as served:
        environ |= {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "hf")}
        yield served


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Open the workbench, and close whatever is still open afterwards."""
    opened: list[Terminal] = []

    def run(*arguments: str, columns: int = 80, rows: int = 24, **changes: str) -> Terminal:
        opened.append(Terminal([*COMMAND, *arguments], {**environ, **changes}, columns, rows))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.end()
