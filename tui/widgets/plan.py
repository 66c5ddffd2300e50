"""The wizard's last pane: what will be made, before anything is written."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from ...workbench.jobs import Proposal
from ...workbench.text import printable
from ..describe import plan_facts
from .facts import Facts


class PlanPane(VerticalScroll):
    """Source, result, level, types, notes; Enter begins."""

    def compose(self) -> ComposeResult:
        yield Static("The plan", classes="title")
        yield Facts("", id="plan-facts", markup=False)
        yield Static("", id="plan-notes", classes="warning", markup=False)
        yield Static(id="plan-next", markup=False)

    def show(self, proposal: Proposal) -> None:
        """Show a plan."""
        self.query_one(Facts).show(plan_facts(proposal))
        self.query_one("#plan-notes", Static).update(printable("\n".join(f"• {note}" for note in proposal.spec.notes)))

        self.checking("")

    def checking(self, words: str) -> None:
        """How the look at the source's weights stands; with no words, what Enter does."""
        begins = Content.assemble("\n", ("Enter", "bold $accent"), " begins. The job goes on if you leave.")
        self.query_one("#plan-next", Static).update(f"\n{words} (esc stops)" if words else begins)

    @property
    def reader(self) -> Widget:
        """Nothing inside needs the keys but scrolling."""
        return self
