"""`?`: what this room is for, and every key that works in it now."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from ..widgets.title import ROOMS
from .sheet import Sheet


class HelpScreen(Sheet[None]):
    """Words and keys of the room below it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,enter,q", "dismiss", "Close", key_display="esc")
    ]

    def __init__(self, name: str, words: str, keys: list[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._words, self._keys = name, words, keys

    def compose(self) -> ComposeResult:
        everywhere = [
            *ROOMS.items(),
            ("?", "this help"),
            ("ctrl+p", "commands"),
            ("t", "theme"),
            ("q", "quit; jobs go on"),
        ]
        with VerticalScroll(id="help"):
            yield Static(Content.styled(self._title, "bold $primary"))
            yield Static(" ".join(self._words.split()), markup=False)
            yield Static(Content.styled("\nKeys here", "bold"))
            yield Static(_table(self._keys))
            yield Static(Content.styled("\nKeys everywhere", "bold"))
            yield Static(_table(everywhere))
        yield Footer(show_command_palette=False, compact=True)

    async def action_dismiss(self, result: None = None) -> None:
        """Close the help."""
        self.dismiss(result)


def _table(keys: list[tuple[str, str]]) -> Content:
    width = max((len(key) for key, _ in keys), default=0)
    lines = [Content.assemble(("  " + key.ljust(width), "$accent"), "  " + what) for key, what in keys]
    return Content("\n").join(lines)
