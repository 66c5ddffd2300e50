"""Small questions: a path, a number, yes or no."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, Input, Static

from ...workbench.text import printable
from .sheet import Sheet


class AskText(Sheet[str | None]):
    """One line of text; dismissed with it, or with None after Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_none", "Cancel", key_display="esc")]

    def __init__(self, question: str, before: str = "", hint: str = "") -> None:
        super().__init__()
        self._question, self._before, self._hint = question, before, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="ask"):
            yield Static(printable(self._question), markup=False)
            yield Input(self._before, placeholder=self._hint, select_on_focus=True)
        yield Footer(show_command_palette=False, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: that is the answer."""
        self.dismiss(event.value.strip())

    def action_dismiss_none(self) -> None:
        """Esc: no answer."""
        self.dismiss(None)


class AskYes(Sheet[bool]):
    """A question that y answers with yes and everything else with no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,enter", "answer(False)", "No", key_display="n"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="ask"):
            yield Static(printable(self._question), markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)
