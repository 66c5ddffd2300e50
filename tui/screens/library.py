"""`6` Library: what was made here, and every other model on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from ...workbench.errors import BadArgument
from ...workbench.handover import commands, describe_setting
from ...workbench.library import Entry
from ...workbench.measure import entry_of
from ...workbench.model import read_model
from ...workbench.session import Session
from ...workbench.shelf import PLACE_NAMES, Place, Shelved, delete, duplicates, look, usual_places
from ...workbench.text import printable, size
from ..messages import OpenChat, OpenWizard
from ..widgets.grid import Grid, Row
from .ask import AskYes
from .lines import LinesScreen
from .room import Room

NOTHING = "Nothing has been made yet. Press 2: the wizard makes the first model; 7 finds ready-made ones."


@dataclass(frozen=True)
class Seen:
    """One look: what lies here, entries of the register whose files are gone, and what could not be read."""

    items: tuple[Shelved, ...]
    missing: tuple[Entry, ...]
    problems: tuple[str, ...]


class LibraryRoom(Room):
    """Every model on this machine: own ones, the Hub's cache, Ollama's, LM Studio's, chosen folders."""

    NAME = "Library"
    HELP = """
Everything that was made here, newest first, and what other programs keep on this machine: the Hub's cache, Ollama,
LM Studio, and the folders named in the profile (paths.models). Enter talks to a model, or opens the wizard on one of
16 bits. h shows the command lines that run it elsewhere, u finds files that are there twice. Forgetting an entry leaves
its file alone; deleting removes both, after a question, and the names by which its program knows it. Of what is
incomplete the line below says what is missing; it can only be deleted.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Chat", priority=True),
        Binding("w", "wizard", "Wizard"),
        Binding("x", "compare", "Compare", tooltip="Put it into the comparison"),
        Binding("h", "handover", "Run", tooltip="Command lines for llama.cpp, Ollama, LM Studio, Python"),
        Binding("u", "duplicates", "Same", tooltip="Find files with the same bytes"),
        Binding("f", "forget", "Forget", tooltip="Take the entry out of the list; the file stays"),
        Binding("d", "delete", "Delete"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._items: dict[str, Shelved] = {}
        self._missing: dict[str, Entry] = {}

    def compose_middle(self) -> ComposeResult:
        with Vertical(id="library"):
            titles = ["level", "model", "size", "where", "bits", "made", "state"]
            yield Grid(titles, right=[2, 4], names="model", id="entries")
            yield Static("", id="where", markup=False)

    def on_screen_resume(self) -> None:
        """Look each time the room is entered."""
        self._look()

    # -- looking -----------------------------------------------------------------------------------------------------

    def _places(self) -> tuple[Place, ...]:
        chosen = self.session.profile.paths
        own = [self.session.paths.models, *([Path(chosen.output).expanduser()] if chosen.output else [])]
        return usual_places(os.environ, Path.home(), own, chosen.models)

    def _look(self) -> None:
        self.in_background(self._read, self._show)

    def _read(self) -> Seen:
        listing = self.session.library.entries()
        shelf = look(self._places(), listing.entries)
        missing = tuple(entry for entry in listing.entries if entry.missing)
        return Seen(shelf.items, missing, listing.problems + shelf.problems)

    def _show(self, seen: Seen) -> None:
        self._items = {str(item.path): item for item in seen.items}
        self._missing = {entry.sha256: entry for entry in seen.missing}
        rows = [*map(_item_row, self._items.items()), *map(_missing_row, seen.missing)]
        self.query_one(Grid).show(rows)
        self.query_one(Grid).focus()
        if not rows:
            self.query_one("#where", Static).update(NOTHING)
        for problem in seen.problems:
            self.tell(problem, "warning")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say where the file under the cursor lies, and where it comes from."""
        key = event.row_key.value or ""
        item = self._items.get(key)
        entry = item.entry if item else self._missing.get(key)
        lines = [str(item.path)] if item else [entry.path] if entry else []
        if item and item.kind != "checkpoint" and len(item.files) > 1:
            lines[0] += f" and {len(item.files) - 1} more"
        if item and item.problem:
            lines.append(f"incomplete: {item.problem}")
        if entry:
            lines += [f"from {entry.source}"] if entry.source else []
            lines += [f"sha256 {'of all ' if entry.files else ''}{entry.sha256}"]
        elif item and item.hashes:
            lines.append(f"sha256 {item.hashes[0]}")
        self.query_one("#where", Static).update(printable("\n".join(lines)))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: talk to it, or quantize what has 16 bits."""
        if item := self._whole():
            self.post_message(OpenWizard(item.path) if item.kind == "checkpoint" else OpenChat(item.path))

    def _current(self) -> Shelved | None:
        return self._items.get(self.query_one(Grid).current_key or "")

    def _whole(self) -> Shelved | None:
        """The item under the cursor, unless parts of it are missing: then they are named."""
        item = self._current()
        if item and item.problem:
            self.tell(f"{item.name} is incomplete: {item.problem}. Fetch it again, or delete it with d.", "warning", 8)
            return None
        return item

    def _entry(self) -> Entry | None:
        item = self._current()
        return item.entry if item else self._missing.get(self.query_one(Grid).current_key or "")

    # -- keys --------------------------------------------------------------------------------------------------------

    def action_wizard(self) -> None:
        """Quantize the source of this model in another way, or the model itself if it has 16 bits."""
        if (entry := self._entry()) and entry.source:
            self.post_message(OpenWizard(Path(entry.source)))
        elif item := self._whole():
            self.post_message(OpenWizard(item.path))

    def action_handover(self) -> None:
        """The command lines that run it elsewhere."""
        item = self._whole()
        if not item:
            return

        def lines() -> list[tuple[str, str]]:
            if item.kind != "model":
                raise BadArgument("Only finished GGUF models are handed over.")
            model = read_model(item.path)
            setting = self.session.run_setting(model)
            facts = "\n".join(f"{label}: {value}" for label, value in describe_setting(setting).items())
            parts = [(item.name, "\n".join(filter(None, [facts, setting.note])))]
            return parts + [(each.program, f"{each.lines}\n# {each.note}") for each in commands(model, setting)]

        def show(parts: list[tuple[str, str]]) -> None:
            self.app.push_screen(LinesScreen(parts))

        self.in_background(lines, show)

    def action_compare(self) -> None:
        """Put it into the comparison, which registers it by its hash."""
        if not (item := self._whole()):
            return

        def show(_: Entry) -> None:
            self.app.switch_mode("compare")

        self.in_background(lambda: entry_of(self.session.library, item.path, read_model(item.path)), show)

    def action_duplicates(self) -> None:
        """Files with the same bytes."""
        items = [item for item in self._items.values() if not item.problem]

        def show(groups: tuple[tuple[Shelved, ...], ...]) -> None:
            if not groups:
                self.tell("No two files hold the same bytes.")
                return
            twice = sum(group[0].n_bytes * (len(group) - 1) for group in groups)
            parts = [(f"{size(twice)} are there more than once", "Delete what you do not need with d.")]
            parts += [
                (f"{group[0].name}, {size(group[0].n_bytes)}", "\n".join(str(i.path) for i in group))
                for group in groups
            ]
            self.app.push_screen(LinesScreen(parts))

        self.tell("Files of equal size are being compared …", seconds=3)
        self.in_background(lambda: duplicates(items), show)

    def action_forget(self) -> None:
        """Take the entry out of the register."""
        if entry := self._entry():
            self.in_background(lambda: self.session.library.remove(entry.sha256), lambda _: self._look())

    def action_delete(self) -> None:
        """Ask, then delete the files and forget them."""
        item = self._current()
        if not item:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_background(lambda: self._delete(item), lambda _: self._look())

        what = "what is left of " if item.problem else ""
        whose = "" if item.place == "own" else f" of {PLACE_NAMES[item.place]}"
        self.app.push_screen(
            AskYes(f"Delete {what}{item.name}{whose} ({size(item.n_bytes)}) for good? {item.path}"), answered
        )

    def _delete(self, item: Shelved) -> None:
        delete(item, self._places())
        if item.entry:
            self.session.library.remove(item.entry.sha256)


def _item_row(keyed: tuple[str, Shelved]) -> Row:
    key, item = keyed
    entry = item.entry
    state = "" if entry is None else "changed" if entry.changed else "verified" if entry.verified else "unverified"
    state = "incomplete" if item.problem else state
    cells = [
        item.level or {"checkpoint": "16 bits", "projector": "vision"}.get(item.kind, "?"),
        item.name,
        size(item.n_bytes),
        PLACE_NAMES[item.place],
        f"{entry.bits_per_weight:.2f}" if entry else "",
        entry.created_at[:10] if entry else "",
        state,
    ]
    return key, cells


def _missing_row(entry: Entry) -> Row:
    made = entry.created_at[:10]
    return entry.sha256, [
        entry.level,
        entry.name,
        size(entry.n_bytes),
        "",
        f"{entry.bits_per_weight:.2f}",
        made,
        "missing",
    ]
