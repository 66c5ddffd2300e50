"""The top line: the rooms and their keys, and how the running job stands."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

ROOMS = {"1": "Machine", "2": "Wizard", "3": "Jobs", "4": "Chat", "5": "Compare", "6": "Library", "7": "Hub"}


class TitleLine(Horizontal):
    """One line: where we are, where the number keys lead, and the running job on the right."""

    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current
        self._job_words = ""

    def compose(self) -> ComposeResult:
        parts = []
        for key, name in ROOMS.items():
            if name == self._current:
                parts.append(Content.styled(f" {key} {name} ", "bold reverse $primary"))
            else:
                parts.append(Content.assemble((f" {key}", "$accent"), f" {name}"))
        yield Static(Content.styled(" Quantdeck ", "bold $primary"), id="name")
        yield Static(Content("").join(parts), id="rooms")
        yield Static("", id="running", markup=False)

    def show_job(self, words: str) -> None:
        """Say how the running job stands; empty for none. Draws only what changed."""
        if words != self._job_words:
            self._job_words = words
            self.query_one("#running", Static).update(words)
