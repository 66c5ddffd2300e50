"""`quantdeck evaluate`: measure models, and hold them against each other."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

from ...workbench.comparison import COLUMNS, Comparison, as_csv, as_markdown, cells_of, compare
from ...workbench.errors import BadArgument
from ...workbench.files import write_atomically
from ...workbench.llama import Child
from ...workbench.llama.evaluate import EvaluationSettings
from ...workbench.measure import (
    Measurement,
    MeasureProgress,
    MeasureSettings,
    check,
    default_settings,
    evaluations,
    measure,
    read_questions,
)
from ...workbench.session import Session, model_path, open_session, user_path
from ...workbench.text import printable, size
from ..describe import measurement_facts, stage_words
from ..terminal import Terminal
from .calibrate import text_file

NO_QUESTIONS = "none"


def run(arguments: argparse.Namespace) -> int:
    """Measure every model on the same text, then the table."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    models = [model_path(name) for name in arguments.models]
    reference = model_path(arguments.reference) if arguments.reference else None
    for name, ending in ((arguments.markdown, ".md"), (arguments.csv, ".csv")):
        if name:
            _check_table(user_path(name), ending)
    todo = [(model, _settings(model, reference, arguments)) for model in models]
    for model, settings in todo:
        check(session, model, settings)  # before hours are spent on another of them
    try:
        children = chain([arguments.child], repeat(None))  # of llama.cpp; one is there already
        measured = [_one(session, *each, terminal, child) for each, child in zip(todo, children, strict=False)]
    except KeyboardInterrupt:
        terminal.warn("what was computed is kept: the same command goes on there")
        raise
    table = compare([done.entry for done in measured])
    if len(measured) > 1:
        _say_table(table, terminal)
    for name, write in ((arguments.markdown, as_markdown), (arguments.csv, as_csv)):
        if name:
            write_atomically(user_path(name).absolute(), write(table).encode())
            terminal.say(f"The table is in {name}.")
    documents = [done.to_dict() for done in measured]
    for document, row in zip(documents, table.rows, strict=True):
        document["efficient"] = row.efficient
    terminal.document(documents[0] if len(documents) == 1 else {"models": documents})
    return 0


def _check_table(path: Path, ending: str) -> None:
    """Before hours of measuring: a folder that is there, and no file that is anything but an earlier table."""
    shown = printable(str(path))
    if not path.absolute().parent.is_dir():
        raise BadArgument(f"There is no folder to write {shown} into; make it first.")
    if path.exists() and (path.suffix.lower() != ending or not path.is_file()):
        raise BadArgument(f"{shown} exists and does not end in {ending}; choose another name for the table.")


def _settings(model: Path, reference: Path | None, arguments: argparse.Namespace) -> MeasureSettings:
    evaluation = EvaluationSettings(
        context=arguments.context,
        chunks=arguments.chunks,
        parse_special=arguments.parse_special,
        threads=arguments.threads,
        gpu_layers=arguments.gpu_layers,
    )
    usual = default_settings(model, evaluation, reference)
    settings = replace(
        usual,
        corpus=text_file(arguments.data, usual.corpus),
        keep_reference=not arguments.lock_step,
        speed=not arguments.no_speed,
    )
    if arguments.questions == NO_QUESTIONS:
        return replace(settings, questions=(), questions_name="")
    if arguments.questions:
        path = user_path(arguments.questions)
        return replace(settings, questions=read_questions(path), questions_name=path.name)
    return settings


def _one(
    session: Session, model: Path, settings: MeasureSettings, terminal: Terminal, child: Child | None
) -> Measurement:
    told: set[str] = set()

    def heard(p: MeasureProgress) -> None:
        if p.resumed and p.stage not in told:
            told.add(p.stage)
            terminal.say(f"{model.name}: {stage_words(p)}.")
        if p.disk_bytes and "disk" not in told:
            told.add("disk")
            where = evaluations(session)
            terminal.say(f"The reference's logits take {size(p.disk_bytes)} in {where}; later models use them again.")
        terminal.progress(f"{model.name}: {stage_words(p)}")

    done = measure(session, model, settings, heard, child=child)
    terminal.heading(f"{model.name}")
    terminal.facts(measurement_facts(done))
    for note in done.notes:
        terminal.say(f"  note: {note}")
    return done


def _say_table(table: Comparison, terminal: Terminal) -> None:
    terminal.heading(f"On {table.basis.words}" if table.basis else "Compared")
    header = ["model", "level", *(column.title for column in COLUMNS), ""]
    rows = [[row.name, row.label, *cells_of(row), "efficient" if row.efficient else ""] for row in table.rows]
    terminal.table(header, rows, right=range(2, 2 + len(COLUMNS)))
