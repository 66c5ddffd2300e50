"""The wizard's third pane: the recommendation, and all levels ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from ...workbench.advice import Advice
from ...workbench.text import printable
from ..describe import LEVEL_COLUMNS, LEVEL_COLUMNS_RIGHT, headline, level_cells
from .grid import Grid, Row

WHY_SHOWN = 2
ROOMY = 36
FIT_COLOURS = {"yes": "fit-ok", "tight": "fit-tight", "no": "fit-no"}


class ResultPane(Vertical):
    """A headline, the two sentences that matter most, and a table whose cursor is on the recommended level."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._levels: list[Row] = []

    def compose(self) -> ComposeResult:
        yield Static("", id="headline", classes="title", markup=False)
        yield Static("", id="why", markup=False)
        yield Grid(LEVEL_COLUMNS, LEVEL_COLUMNS_RIGHT, FIT_COLOURS, id="levels")

    def show(self, advice: Advice, measured: Mapping[str, str], ready: Sequence[Row] = ()) -> None:
        """Show an advice, what is ready made first; `measured` says what is known of this model's levels."""
        self.query_one("#headline", Static).update(printable(headline(advice)))
        reasons = advice.hints if advice.level is None else advice.why
        shown = reasons if self.app.size.height >= ROOMY else reasons[:WHY_SHOWN]
        more = "" if len(shown) == len(reasons) else "\n(w: all reasons)"
        self.query_one("#why", Static).update(printable("\n".join(f"• {sentence}" for sentence in shown) + more))
        self._levels = [(row.level, level_cells(advice, row, measured)) for row in advice.candidates]
        self.show_ready(ready)
        self.query_one(Grid).go_to(advice.level or "")

    def show_ready(self, ready: Sequence[Row]) -> None:
        """What is ready made, above the levels; the cursor stays on its row."""
        self.query_one(Grid).show([*ready, *self._levels])

    @property
    def reader(self) -> Grid:
        """The table takes the keys."""
        return self.query_one(Grid)
