"""`1` Machine: what this computer is, and what of it may be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ...workbench.text import printable
from ..describe import hardware_facts
from ..widgets.facts import Facts
from .room import Room

if TYPE_CHECKING:
    from ...workbench.hardware import Bandwidth, Hardware


class MachineRoom(Room):
    """The first room: the machine in ten lines, and where to go from here."""

    NAME = "Machine"
    HELP = """
What this computer has, and how much of it a model may use: limits of containers and of other programs are counted.
Memory decides how fast a large model can answer, since every token reads all active weights once. How fast llama.cpp
computes with each type of weights here is measured with it, once, for estimates of speed.
Press m to measure it again, on an otherwise idle machine. Enter opens the wizard.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Wizard", priority=True),
        Binding("r", "look", "Look again"),
        Binding("m", "measure", "Measure"),
    ]

    def compose_middle(self) -> ComposeResult:
        with VerticalScroll(id="machine", can_focus=False):
            yield Facts("Looking at the machine …", id="facts", markup=False)
            yield Static("", id="notes", markup=False)
            yield Static(
                Content.assemble(
                    "\nPress ", ("Enter", "bold $accent"), " to find the quantization that fits this machine."
                ),
                id="next",
            )

    def on_mount(self) -> None:
        """Show what the profile remembers at once, and look again behind it."""
        known = self.session.profile.hardware
        if known:
            self._show((known, self.session.profile.bandwidth))
        self.action_look()

    def enter(self) -> None:
        """On to the wizard."""
        self.app.switch_mode("wizard")

    def action_look(self) -> None:
        """Detect again, in the background."""
        self.in_background(lambda: self.session.look_at_machine(Path.cwd()), self._show)

    def action_measure(self) -> None:
        """Measure memory and computing again."""
        self.tell("Measuring memory and computing …", seconds=3)
        self.in_background(lambda: self.session.look_at_machine(Path.cwd(), measure=True), self._show)

    def _show(self, found: tuple[Hardware, Bandwidth | None]) -> None:
        hardware, bandwidth = found
        self.query_one("#facts", Facts).show(hardware_facts(hardware, bandwidth))
        notes = [*self.session.messages, *hardware.notes]
        self.query_one("#notes", Static).update("\n".join(f"• {printable(note)}" for note in notes))
