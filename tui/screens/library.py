"""`6` Library: what was made here."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from ...workbench.library import Entry, Listing
from ...workbench.session import Session
from ...workbench.text import printable, size
from ..messages import OpenChat, OpenWizard
from ..widgets.grid import Grid, Row
from .ask import AskYes
from .room import Room


class LibraryRoom(Room):
    """Every model that was quantized, with size, quality figures and where it lies."""

    NAME = "Library"
    HELP = """
Everything that was made, newest first, with the figures that were measured. Forgetting an entry leaves its file alone;
deleting removes both, after a question.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Chat", priority=True),
        Binding("w", "wizard", "Wizard"),
        Binding("f", "forget", "Forget"),
        Binding("d", "delete", "Delete the file"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entries: dict[str, Entry] = {}

    def compose_middle(self) -> ComposeResult:
        with Vertical(id="library"):
            yield Grid(
                ["level", "model", "size", "bits/weight", "ratio", "made", "state"], right=[2, 3, 4], id="entries"
            )
            yield Static("", id="where", markup=False)

    def on_screen_resume(self) -> None:
        """Read the library each time the room is entered."""
        self._read()

    def _read(self) -> None:
        self.in_background(self.session.library.entries, self._show)

    def _show(self, listing: Listing) -> None:
        self._entries = {entry.sha256: entry for entry in listing.entries}
        self.query_one(Grid).show([_row(entry) for entry in listing.entries])
        self.query_one(Grid).focus()
        if not listing.entries:
            self.query_one("#where", Static).update(
                "Nothing has been made yet. Press 2: the wizard makes the first model."
            )
        for problem in listing.problems:
            self.tell(problem, "warning")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say where the file under the cursor lies."""
        if entry := self._current():
            self.query_one("#where", Static).update(
                f"{printable(entry.path)}\nfrom {printable(entry.source)}\nsha256 {entry.sha256}"
            )

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: talk to it."""
        self.action_chat()

    def _current(self) -> Entry | None:
        return self._entries.get(self.query_one(Grid).current_key or "")

    def action_chat(self) -> None:
        """Talk to the model under the cursor."""
        if entry := self._current():
            self.post_message(OpenChat(Path(entry.path)))

    def action_wizard(self) -> None:
        """Quantize the source of this model in another way."""
        if entry := self._current():
            self.post_message(OpenWizard(Path(entry.source)))

    def action_forget(self) -> None:
        """Take the entry out of the list."""
        if entry := self._current():
            self.in_background(lambda: self.session.library.remove(entry.sha256), lambda _: self._read())

    def action_delete(self) -> None:
        """Ask, then delete the file and forget it."""
        entry = self._current()
        if not entry:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_background(lambda: self._delete(entry), lambda _: self._read())

        self.app.push_screen(AskYes(f"Delete {entry.path} ({size(entry.n_bytes)}) for good?"), answered)

    def _delete(self, entry: Entry) -> None:
        Path(entry.path).unlink(missing_ok=True)
        self.session.library.remove(entry.sha256)


def _row(entry: Entry) -> Row:
    state = (
        "missing" if entry.missing else "changed" if entry.changed else "verified" if entry.verified else "unverified"
    )
    cells = [
        entry.level,
        entry.name,
        size(entry.n_bytes),
        f"{entry.bits_per_weight:.2f}",
        f"{entry.ratio:.2f} ×",
        entry.created_at[:10],
        state,
    ]
    return entry.sha256, cells
