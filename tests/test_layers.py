"""tui -> workbench -> kernels, and what a command may import before it has something to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold() -> None:
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def _imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


HEAVY = {"numpy", "textual", "llama_cpp", "gguf", "huggingface_hub", "jinja2", "rich"}


@pytest.mark.parametrize("arguments", ["['--help']", "['--version']", "['quantize', '--help']"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    statement = f"from quantdeck.tui.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert not _imported_by(statement) & HEAVY


def test_the_workbench_does_not_need_the_screen() -> None:
    statement = "import pkgutil, quantdeck.workbench as w, importlib\n" + (
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(w.__path__, 'quantdeck.workbench.')\n"
        " if not m.name.endswith(('.child', '__main__'))]"
    )
    assert "textual" not in _imported_by(statement)


def test_the_kernels_need_numpy_alone() -> None:
    loaded = _imported_by("import quantdeck.kernels")
    assert not loaded & (HEAVY - {"numpy"})


def test_a_header_is_read_without_numpy() -> None:
    program = (
        "from quantdeck.workbench.model import read_model\n"
        "from quantdeck.workbench.sample import SAMPLE\n"
        "assert read_model(SAMPLE.model).tensors"
    )
    assert not _imported_by(program) & HEAVY


@pytest.mark.parametrize("command", ["calibrate", "chat", "evaluate", "advise", "inspect", "jobs", "quantize"])
def test_commands_begin_without_what_takes_long(command: str) -> None:
    assert not _imported_by(f"import quantdeck.tui.commands.{command}") & HEAVY


def test_llama_cpp_comes_up_with_its_functions_alone() -> None:
    """Neither its class `Llama`, nor numpy before a service needs it; who wants the whole package still gets it."""
    begun = "import quantdeck.workbench.llama.engine, quantdeck.workbench.llama.serve_load"
    assert not _imported_by(begun) & {"numpy", "jinja2", "diskcache"}
    assert "jinja2" in _imported_by(
        f"{begun}\nfrom llama_cpp import Llama, llama_cpp\nassert llama_cpp is quantdeck.workbench.llama.engine.lib"
    )
