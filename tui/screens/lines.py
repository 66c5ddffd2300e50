"""A sheet of texts to read and to copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from ...workbench.text import printable
from .sheet import Sheet


class LinesScreen(Sheet[None]):
    """Titles with lines below them, as (title, lines); Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "close", "Close", key_display="esc")]

    def __init__(self, parts: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._parts = parts

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="sheet tall"):
            for title, lines in self._parts:
                yield Static(printable(title), classes="title", markup=False)
                yield Static(printable(lines) + "\n", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def action_close(self) -> None:
        """Close the sheet."""
        self.dismiss(None)
