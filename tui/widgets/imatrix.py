"""The wizard's pane between level and plan: where the importance matrix comes from."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import OptionList, ProgressBar, Static
from textual.widgets.option_list import Option

from ...workbench.advice import Candidate
from ...workbench.imatrices import Found
from ...workbench.text import printable
from ..describe import imatrix_advice


class ImatrixPane(Vertical):
    """What a matrix is good for at this level, the ones at hand, and the ways to a new one; then its progress."""

    BUILT_IN = "built-in"
    OWN = "own"
    FILE = "file"
    WITHOUT = "without"

    def compose(self) -> ComposeResult:
        yield Static("", id="imatrix-title", classes="title", markup=False)
        yield Static("", id="imatrix-why", markup=False)
        yield OptionList(id="imatrix-choices", markup=False)
        yield ProgressBar(total=1.0, show_eta=False, id="imatrix-bar")
        yield Static("", id="imatrix-progress", markup=False)

    def show(self, row: Candidate, found: Sequence[Found]) -> None:
        """Offer what there is for a level; the first choice is the sensible one."""
        self.query_one("#imatrix-title", Static).update(printable(f"An importance matrix for {row.level}?"))
        self.query_one("#imatrix-why", Static).update(imatrix_advice(row) + "\n")
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(Option(f"Use {each.words}", str(each.path)) for each in found)
        choices.add_options(
            [
                Option("Calibrate now, with the built-in text", self.BUILT_IN),
                Option("Calibrate now, with a text of your own …", self.OWN),
                Option("Use another file …", self.FILE),
            ]
        )
        if not row.needs_imatrix:
            choices.add_option(Option("Go on without", self.WITHOUT))
        choices.highlighted = 0
        self.working = False

    @property
    def working(self) -> bool:
        """True while a calibration runs."""
        return not self.query_one(OptionList).display

    @working.setter
    def working(self, on: bool) -> None:
        self.query_one(OptionList).display = not on
        bar, words = self.query_one(ProgressBar), self.query_one("#imatrix-progress", Static)
        bar.display = words.display = on
        bar.progress = 0
        words.update("Loading the model … (esc stops)")

    def progress(self, fraction: float, words: str) -> None:
        """How the calibration stands."""
        self.query_one(ProgressBar).progress = fraction
        self.query_one("#imatrix-progress", Static).update(printable(words))

    @property
    def reader(self) -> Widget:
        """The choices take the keys; while it works the pane itself."""
        return self.query_one(OptionList)
