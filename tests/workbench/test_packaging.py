"""The wheel holds exactly what the tree holds: an editable install would hide a forgotten package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED_FOLDERS = ("kernels", "themes", "tui", "workbench")
SHIPPED_ENDINGS = (".py", ".toml", ".tcss", ".gguf", ".txt", ".jsonl", ".md", "LICENSE")


def _files() -> set[str]:
    """What git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, so that nothing lands in the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in _files():
        if not name.startswith((".src", "tests/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(copy / "out")], cwd=copy, check=True, capture_output=True)
    return zipfile.ZipFile(next((copy / "out").glob("*.whl")))


def test_wheel_holds_the_whole_tree(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in _files() if name.split("/")[0] in SHIPPED_FOLDERS and name.endswith(SHIPPED_ENDINGS)}
    expected = {f"quantdeck/{name}" for name in shipped} | {"quantdeck/__init__.py", "quantdeck/py.typed"}
    packed = {name for name in wheel.namelist() if name.startswith("quantdeck/")}
    assert packed == expected


def test_wheel_has_the_command_and_no_tests(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "quantdeck = quantdeck.tui.cli:main" in wheel.read(entry_points).decode()
    assert not [name for name in names if "tests/" in name or ".src" in name]
