"""`quantdeck calibrate`: make an importance matrix."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ...workbench.llama import Child
from ...workbench.llama.calibrate import (
    Calibration,
    CalibrationProgress,
    CalibrationSettings,
    Coverage,
    calibrate,
    check_output,
    coverage,
)
from ...workbench.llama.corpus import read_corpus
from ...workbench.measure import full_disk_named
from ...workbench.model import read_model
from ...workbench.sample import SAMPLE
from ...workbench.session import SAMPLE_WORD, model_path, open_session, user_path
from ...workbench.text import duration
from ..describe import coverage_lines
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, and say what the text did not reach."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    model = model_path(arguments.model)
    corpus = text_file(arguments.data, SAMPLE.calibration_file)
    read_corpus(corpus)  # its faults are told before a folder is made
    output = user_path(arguments.output) if arguments.output else None
    if output is None:
        from ...workbench.imatrices import home_of

        session.paths.imatrices.mkdir(parents=True, exist_ok=True)
        output = home_of(session.paths.imatrices, model, corpus)
    check_output(output)
    settings = CalibrationSettings(
        context=arguments.context,
        chunks=arguments.chunks,
        parse_special=arguments.parse_special,
        with_output=arguments.with_output,
        threads=arguments.threads or session.load_settings(model).prompt_threads,
        gpu_layers=arguments.gpu_layers,
    )
    try:
        with full_disk_named(output.parent):
            done, reached = _calibrate(model, corpus, output, session.paths.logs, settings, terminal, arguments.child)
    except KeyboardInterrupt:
        terminal.warn("what was computed is kept: the same command goes on there")
        raise
    _say(done, reached, terminal)
    terminal.document(_document(model, corpus, done, reached))
    return 0


def text_file(name: str | None, built_in: Path) -> Path:
    """The text that a user means: a path; none or the word `sample` is the built-in one."""
    if name is None or (name == SAMPLE_WORD and not Path(name).exists()):
        return built_in
    return user_path(name)


def _calibrate(
    model: Path,
    corpus: Path,
    output: Path,
    logs: Path,
    settings: CalibrationSettings,
    terminal: Terminal,
    child: Child | None,
) -> tuple[Calibration, Coverage]:
    legacy = output.suffix == ".dat"
    target = output.with_name(f".{output.name}.gguf") if legacy else output

    told = False

    def heard(p: CalibrationProgress) -> None:
        nonlocal told
        if p.done == p.resumed:
            import_module("...workbench.imatrix", __package__)  # takes its time, and now llama.cpp is busy anyway
        if p.resumed and not told:
            told = True
            terminal.say(f"{model.name}: goes on at chunk {min(p.resumed + 1, p.chunks)} of {p.chunks}.")
        left = f" · {duration(p.seconds_left)} left" if p.done > p.resumed else ""
        resumed = f" ({p.resumed} from before)" if p.resumed else ""
        terminal.progress(f"{model.name}: {p.done} of {p.chunks} chunks{resumed}{left}")

    done = calibrate(model, corpus, target, logs, settings, heard, child=child)
    from ...workbench.imatrix import ImatrixFile, read_imatrix, write_legacy_imatrix

    reached = coverage(ImatrixFile(target), read_model(model))  # the legacy form does not hold numbers of tokens
    if legacy:
        write_legacy_imatrix(output, read_imatrix(target))
        target.unlink()
    return replace(done, path=output), reached


def _say(done: Calibration, reached: Coverage, terminal: Terminal) -> None:
    markers = "special tokens parsed" if done.parse_special else "no special tokens parsed"
    terminal.say(
        f"{done.path}: {done.tokens:,} tokens in {done.chunks} chunks, {markers}, in {duration(done.seconds)}."
    )
    for line in coverage_lines(reached):
        terminal.say(f"  {line}")


def _document(model: Path, corpus: Path, done: Calibration, reached: Coverage) -> dict[str, Any]:
    return {
        "model": str(model),
        "text": str(corpus),
        "imatrix": str(done.path),
        "chunks": done.chunks,
        "tokens": done.tokens,
        "resumed": done.resumed,
        "parse_special": done.parse_special,
        "seconds": done.seconds,
        "coverage": {**asdict(reached), "complete": reached.complete},
    }
