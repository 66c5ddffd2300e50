"""`quantdeck detect`: what this machine is."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from ...workbench.session import open_session
from ..describe import hardware_facts
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Look at the machine, remember it in the profile, say it."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    hardware, bandwidth = session.look_at_machine(output=Path.cwd(), measure=arguments.measure)
    terminal.facts(hardware_facts(hardware, bandwidth))
    for note in [*session.messages, *hardware.notes]:
        terminal.say(f"  note: {note}")
    terminal.document({**asdict(hardware), "bandwidth": asdict(bandwidth) if bandwidth else None})
    return 0
