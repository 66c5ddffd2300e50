"""Everything that led to a recommendation: the reasons, where the guides disagree, other formats, what else to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from ...workbench.advice import Advice
from ...workbench.text import printable
from ..describe import headline, step_words
from .sheet import Sheet


class DetailsScreen(Sheet[None]):
    """A sheet to read; Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,w,q", "close", "Close", key_display="esc")]

    def __init__(self, advice: Advice) -> None:
        super().__init__()
        self._advice = advice

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="sheet tall"):
            for title, lines in _parts(self._advice):
                yield Static(title, classes="title")
                yield Static(printable("\n".join(f"• {line}" for line in lines)) + "\n", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def action_close(self) -> None:
        """Close the sheet."""
        self.dismiss(None)


def _parts(advice: Advice) -> Iterator[tuple[str, list[str]]]:
    yield headline(advice), list(advice.why)
    if advice.hints:
        yield "What else to try", list(advice.hints)
    yield "The way here", [f"{step.question.text} {step_words(step)} ({step.because})" for step in advice.path]
    others = [each for each in advice.formats if not each.writes]
    if others:
        yield (
            "Formats that suit this hardware and that others make",
            [f"{each.name}: {each.words} Ready made: {', '.join(each.found_at)}." for each in others],
        )
    for settled in advice.settled:
        yield f"Guides disagree: {settled.topic}", [*settled.claims, f"Decided here: {settled.decision}"]
