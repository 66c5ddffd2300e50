"""`quantdeck advise`: which quantization fits, and why."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from ...workbench.advice import Advice, OtherMachine, Wish, advise
from ...workbench.session import find_model, open_session
from ..describe import LEVEL_COLUMNS, LEVEL_COLUMNS_RIGHT, headline, level_cells
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Answer the wizard's questions from the flags."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
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
    say_advice(advice, measured, terminal)
    document = advice.to_dict()
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
