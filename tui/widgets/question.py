"""The wizard's first panes: which model, and one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ...workbench.advice import Walk
from ...workbench.session import SAMPLE_WORD
from ...workbench.text import printable, size


class ModelPane(Vertical):
    """The built-in sample, the latest models, and any other file."""

    OTHER, HUB = "other", "hub"

    def compose(self) -> ComposeResult:
        yield Static("Which model shall be quantized?", classes="title")
        yield OptionList(id="choices", markup=False)

    def show(self, recent: Sequence[str]) -> None:
        """List what can be chosen."""
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_option(Option("The built-in sample model (4 M parameters): try everything in seconds", SAMPLE_WORD))
        choices.add_options(
            Option(printable(f"{Path(path).name}   {Path(path).parent}"), path) for path in dict.fromkeys(recent)
        )
        choices.add_option(Option("Another file, or OWNER/NAME on the Hub …", self.OTHER))
        choices.add_option(Option("Find one on the Hub …", self.HUB))
        choices.highlighted = 0

    @property
    def reader(self) -> Widget:
        """The list takes the keys."""
        return self.query_one(OptionList)


class QuestionPane(Vertical):
    """One question with its help, and the answers or a field; the answer that the machine suggests is filled in."""

    def compose(self) -> ComposeResult:
        yield Static("", id="text", classes="title", markup=False)
        yield OptionList(id="answers", markup=False)
        yield Input(id="number")
        yield Static("", id="because", markup=False)
        yield Static("", id="problem", classes="error", markup=False)
        yield Static("", id="help-text", classes="muted", markup=False)

    def show(self, walk: Walk) -> None:
        """Show the question that the walk has come to."""
        question = walk.question
        assert question is not None
        filled_in, because = walk.filled_in
        self.query_one("#text", Static).update(printable(question.text))
        self.query_one("#help-text", Static).update(printable(question.help))
        self.query_one("#because", Static).update(f"Filled in: {printable(because)}.")
        self.complain("")
        answers, number = self.query_one(OptionList), self.query_one(Input)
        self._kind = question.kind
        answers.display, number.display = question.kind == "choice", question.kind != "choice"
        if question.kind == "choice":
            answers.clear_options()
            answers.add_options(Option(printable(answer.text), answer.key) for answer in question.answers)
            answers.highlighted = [answer.key for answer in question.answers].index(str(filled_in))
        else:
            number.value = size(filled_in) if question.kind == "bytes" else str(filled_in)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """What stands in the field."""
        return self.query_one(Input).value

    def complain(self, problem: str) -> None:
        """Say what is wrong with the answer."""
        self.query_one("#problem", Static).update(printable(problem))

    @property
    def reader(self) -> Widget:
        """The answers or the field take the keys."""
        answers = self.query_one(OptionList)
        return answers if answers.display else self.query_one(Input)
