"""`quantdeck handover`, `card` and `upload`: what follows when a file is finished."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ...workbench.errors import BadArgument
from ...workbench.files import write_atomically
from ...workbench.handover import RunSetting, commands, describe_setting, model_card
from ...workbench.library import Entry
from ...workbench.model import Model, read_model
from ...workbench.session import Session, model_path, open_session
from ...workbench.text import printable, size
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Command lines for other programs."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    model = read_model(model_path(arguments.model))
    setting = session.run_setting(model, arguments.context)
    terminal.facts(describe_setting(setting))
    if setting.note:
        terminal.warn(setting.note)
    found = commands(model, setting)
    for command in found:
        terminal.heading(command.program)
        terminal.say(command.lines)
        if command.note:
            terminal.say(f"  # {command.note}")
    terminal.document(
        {
            "path": str(model.path),
            "context": setting.context,
            "gpu_layers": setting.gpu_layers,
            "all_layers": setting.placement.all_layers,
            "fits": setting.placement.fits,
            "note": setting.note,
            "commands": {each.program: {"lines": each.lines, "note": each.note} for each in found},
        }
    )
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    """The model card, on standard output or into a file."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    model, _, setting, entry = _gather(session, arguments.model)
    card = model_card(model, setting, entry)
    if arguments.output:
        write_atomically(Path(arguments.output).expanduser(), card.encode("utf-8", "replace"))
        terminal.say(f"The card is in {arguments.output}.")
    else:
        terminal.say(card.rstrip())
    if entry is None:
        terminal.warn("the library does not know this file, so the card cannot say how it was made")
    terminal.document(
        {"path": str(model.path), "card": card, "output": arguments.output, "registered": entry is not None}
    )
    return 0


def run_upload(arguments: argparse.Namespace) -> int:
    """Ask, then put file and card on the Hub."""
    from ...workbench.hub import Hub, check_upload, upload

    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    model, files, setting, entry = _gather(session, arguments.model)
    check_upload(files, arguments.repository)
    total = size(sum(file.stat().st_size for file in files))
    question = f"Upload {printable(files[0].name)} ({total}) to {arguments.repository}? Others may see it. [y/N] "
    if not arguments.yes and not _agreed(question, arguments.json):
        raise BadArgument("Nothing was uploaded; answer y, or give --yes.")
    done = upload(Hub(), files, arguments.repository, model_card(model, setting, entry), arguments.private)
    terminal.say(f"Uploaded: {done.url}")
    terminal.document({"repository": arguments.repository, "url": done.url, "files": list(done.files)})
    return 0


def _agreed(question: str, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _gather(session: Session, name: str) -> tuple[Model, tuple[Path, ...], RunSetting, Entry | None]:
    model = read_model(model_path(name))
    return model, model.files, session.run_setting(model), session.library.find(model.path)
