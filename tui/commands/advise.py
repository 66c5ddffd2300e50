"""`quantdeck advise`: which quantization fits, and why."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...workbench.advice import Advice, OtherMachine, Wish, advise
from ...workbench.model import Model
from ...workbench.session import Session, find_model, hub_reference, open_session
from ..describe import LEVEL_COLUMNS, LEVEL_COLUMNS_RIGHT, headline, level_cells
from ..hub_words import ready_words
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Answer the wizard's questions from the flags."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    reference = hub_reference(arguments.model)
    model = find_model(arguments.model, arguments.pre)
    hardware, bandwidth = session.look_at_machine(Path.cwd())
    wish = Wish(
        goal=arguments.goal,
        context=arguments.context,
        users=arguments.slots,
        other=_other_machine(arguments, hardware.memory.total),
    )
    advice = advise(model, hardware, wish, bandwidth, session.corrections)
    measured = session.measured_quality(model.path)
    document = advice.to_dict()
    if arguments.hub if arguments.hub is not None else reference is not None:
        repository = reference.repository if reference else ""
        document["ready_made"] = _ready_made(session, model, repository, advice, terminal)
    say_advice(advice, measured, terminal)
    for row in document["candidates"]:
        row["measured"] = measured.get(row["level"])
    terminal.document(document)
    return 0


def _other_machine(arguments: argparse.Namespace, own_memory: int) -> OtherMachine | None:
    """Another machine, if its memory was given; with --vram alone it is this one with such a card."""
    if arguments.memory is None and arguments.vram is None:
        return None
    vram = arguments.vram or 0
    return OtherMachine("nvidia" if vram else "modern", arguments.memory or own_memory, vram)


def _ready_made(session: Session, model: Model, repository: str, advice: Advice, terminal: Terminal) -> dict[str, Any]:
    """Say whether somebody has made a quantization that fits; returns the same as JSON."""
    origin = session.origin(model, repository)
    if origin is None:
        note = "Ready-made quants are not looked for: nothing in the model names its repository on the Hub."
        terminal.heading(note)
        return {"of": None, "parent": False, "note": note, "files": []}
    from .hub import offer_document

    terminal.progress("Looking on the Hub for ready-made quants …")
    found = session.look_for_ready_made(origin)
    picks = session.ready_made(found, model, advice.machine, advice.setup, advice)
    terminal.heading(ready_words(found, picks, advice.setup.context))
    for pick in picks:
        terminal.say(f"  - {pick.fitted.fits}: quantdeck hub download {pick.repository.id}/{pick.fitted.offer.path}")
    terminal.say()
    return {
        "of": found.origin.repository,
        "parent": found.origin.is_parent,
        "note": found.note,
        "files": [{"repository": pick.repository.id, **offer_document(pick.fitted)} for pick in picks],
    }


def say_advice(advice: Advice, measured: Mapping[str, str], terminal: Terminal) -> None:
    """The recommendation, its reasons, and all levels."""
    terminal.heading(headline(advice))
    for sentence in [*advice.why, *advice.hints]:
        terminal.say(f"  - {sentence}")
    terminal.say()
    rows = [level_cells(advice, row, measured) for row in advice.candidates]
    terminal.table(LEVEL_COLUMNS, rows, LEVEL_COLUMNS_RIGHT)
    for settled in advice.settled:
        terminal.heading(f"Guides disagree: {settled.topic}")
        for claim in settled.claims:
            terminal.say(f"  - {claim}")
        terminal.say(f"  Decided here: {settled.decision}")
