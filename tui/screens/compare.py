"""`5` Compare: models by what was measured of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, ProgressBar, Static

from ...workbench.comparison import COLUMNS, WRITERS, Compared, Comparison, cells_of, compare, ordered, quality
from ...workbench.errors import BadArgument
from ...workbench.files import write_atomically
from ...workbench.library import Entry
from ...workbench.llama import Cancelled
from ...workbench.llama.evaluate import EvaluationSettings
from ...workbench.measure import MeasureProgress, default_settings, entry_of, measure
from ...workbench.model import read_model
from ...workbench.session import Session, model_path, user_path
from ...workbench.text import printable, size
from ..describe import stage_words
from ..widgets.grid import Grid, Row
from ..widgets.scatter import Point, Scatter
from .ask import AskText
from .room import Room
from .side_by_side import SideBySide

ROOMY = 110
EFFICIENT = "●"
MARKED = "+"


class CompareRoom(Room):
    """The library's models in a table and in a plot of quality over size."""

    NAME = "Compare"
    HELP = """
Everything in the library, and any file added with a, with what was measured on one text: perplexity, KL divergence
from the model that it was made from (0 is the same), how often the likeliest token is the same, questions answered,
tokens per second. A dot marks the efficient ones: no other model is both smaller and better.
e measures the model under the cursor in the background, m everything that has no figures yet; c stops, and what was
computed is kept. Mark two models with the space bar and press b to give both the same prompt. A file from elsewhere
is held against the one model that is marked.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "evaluate", "Measure"),
        Binding("m", "evaluate_all", "All", tooltip="Measure everything that has no figures on this text"),
        Binding("c", "cancel", "Stop", tooltip="Stop measuring; what was computed is kept"),
        Binding("a", "add", "Add", tooltip="Add a model file from elsewhere"),
        Binding("space", "mark", "Mark", priority=True, key_display="␣", tooltip="Mark a model for side by side"),
        Binding("b", "both", "Both", tooltip="Give two models the same prompt, side by side"),
        Binding("s", "sort", "Sort", tooltip="Sort by the next column, best first"),
        Binding("x", "export", "Save", tooltip="Save the table as Markdown, CSV or JSON"),
        Binding("d", "text", "Text", tooltip="Measure on another text"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entries: dict[str, Entry] = {}
        self._table = Comparison((), None)
        self._sorted_by = 0
        self._marked: list[str] = []
        self._corpus: Path | None = None
        self._stop = threading.Event()
        self._busy = False
        self._roomy = False

    def compose_middle(self) -> ComposeResult:
        # The columns stay as they are when the terminal changes its size.
        self._roomy = self.app.size.width >= ROOMY
        titles = ["", *(["model"] if self._roomy else []), "level", *(column.title for column in COLUMNS)]
        first = len(titles) - len(COLUMNS)
        with Vertical(id="compare"):
            yield Static("", id="basis", markup=False)
            yield Grid(titles, range(first, len(titles)), {EFFICIENT: "text-accent"}, id="models")
            yield Scatter("size", id="plot")
            yield ProgressBar(total=1.0, show_eta=False, id="measuring")
            yield Static("", id="status", markup=False)

    def on_mount(self) -> None:
        """Nothing is being measured yet."""
        self.query_one("#measuring").display = False

    def on_screen_resume(self) -> None:
        """Read the library each time the room is entered."""
        self._read()

    def on_unmount(self) -> None:
        """A measurement ends with the workbench; its finished chunks are kept."""
        self._stop.set()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self.in_background(lambda: self.session.library.entries().entries, self._take)

    def _take(self, entries: Sequence[Entry]) -> None:
        self._entries = {entry.sha256: entry for entry in entries if not entry.missing}
        self._table = compare(self._entries.values())
        self._show()

    def _show(self) -> None:
        column = COLUMNS[self._sorted_by]
        table = self._table
        rows = ordered(table.rows, column)
        grid = self.query_one("#models", Grid)
        grid.show([self._row(row) for row in rows])
        grid.focus()
        reference = f"KL from {printable(table.reference)} · " if table.reference else ""
        words = f"{reference}{table.basis.words}" if table.basis else "nothing was measured yet: e begins"
        words = f"By {column.title} · {words}"
        if not rows:
            words = "Nothing to compare yet: make a model in the wizard (2), or add a file with a."
        self.query_one("#basis", Static).update(words)
        self._plot(table.rows)
        self.refresh_bindings()

    def _row(self, row: Compared) -> Row:
        mark = EFFICIENT if row.efficient else ""
        mark += MARKED if row.sha256 in self._marked else ""
        name = [row.name] if self._roomy else []
        return row.sha256, [mark, *name, row.label, *cells_of(row)]

    def _plot(self, rows: Sequence[Compared]) -> None:
        points = [Point(row.n_bytes, q, row.label, row.efficient) for row in rows if (q := quality(row, rows))]
        by_kl = sum(row.kl is not None for row in rows) > 1
        self.query_one(Scatter).show(points, "KL" if by_kl else "ppl")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say which file is under the cursor."""
        if not self._busy:
            self._say_file()

    def _say_file(self) -> None:
        entry = self._current()
        words = f"{entry.name} · {size(entry.n_bytes)} · in {Path(entry.path).parent}" if entry else ""
        self.query_one("#status", Static).update(printable(words))

    def _current(self) -> Entry | None:
        return self._entries.get(self.query_one("#models", Grid).current_key or "")

    # -- measuring ---------------------------------------------------------------------------------------------------

    def action_evaluate(self) -> None:
        """Measure the model under the cursor."""
        if entry := self._current():
            self._measure([entry])

    def action_evaluate_all(self) -> None:
        """Measure everything that has no figures on this text."""
        todo = {row.sha256 for row in self._table.rows if row.perplexity is None}
        self._measure([entry for key, entry in self._entries.items() if key in todo])

    def _measure(self, entries: list[Entry]) -> None:
        if self._busy or not entries:
            return
        self._busy, self._stop = True, threading.Event()
        self.query_one("#measuring").display = True
        self.refresh_bindings()
        stop = self._stop

        def work() -> bool:
            for number, entry in enumerate(entries, 1):
                head = f"{entry.name} ({number} of {len(entries)})" if len(entries) > 1 else entry.name
                try:
                    self._measure_one(entry, head, stop)
                except Cancelled:
                    return False
                self.app.call_from_thread(self._read)
            return True

        self.in_background(work, self._measured)

    def _measure_one(self, entry: Entry, head: str, stop: threading.Event) -> None:
        path = Path(entry.path)
        settings = default_settings(path, EvaluationSettings(), self._reference(entry))
        if self._corpus:
            settings = replace(settings, corpus=self._corpus)

        def heard(progress: MeasureProgress) -> None:
            disk = f" · writing {size(progress.disk_bytes)}, used again later" if progress.disk_bytes else ""
            words = f"{head}: {stage_words(progress)}{disk}"
            self.app.call_from_thread(self._progress, progress.fraction, words)

        measure(self.session, path, settings, heard, stop.is_set)

    def _reference(self, entry: Entry) -> Path | None:
        """What it was made from, if that is still there; else the one model that is marked, if it is another."""
        if entry.source:
            source = Path(entry.source)
            return source if source.exists() else None
        marked = [key for key in self._marked if key in self._entries and key != entry.sha256]
        return Path(self._entries[marked[0]].path) if len(self._marked) == 1 and marked else None

    def _progress(self, fraction: float, words: str) -> None:
        self.query_one("#measuring", ProgressBar).progress = fraction
        self.query_one("#status", Static).update(printable(words))

    def _measured(self, whole: bool) -> None:
        self._end()
        self.tell("Measured." if whole else "Stopped; measured again, it goes on where it was.")

    def _end(self) -> None:
        self._busy = False
        self.query_one("#measuring").display = False
        self._say_file()
        self._read()

    def failed(self, why: str) -> None:
        """A model that cannot be measured; the others stand."""
        if self._busy:
            self._end()
        super().failed(why)

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that mean something now."""
        if not self.is_mounted:
            return True
        if action == "cancel":
            return self._busy
        if action in ("evaluate", "evaluate_all", "text"):
            return not self._busy and bool(self._entries)
        if action in ("mark", "sort", "export", "both"):
            return bool(self._entries)
        return True

    def action_cancel(self) -> None:
        """Stop measuring."""
        self._stop.set()

    def action_add(self) -> None:
        """A file from elsewhere."""

        def answered(text: str | None) -> None:
            if text:
                self.in_background(lambda: self._add(text), lambda _: self._read())

        self.app.push_screen(
            AskText("Which model? A GGUF file, or the word sample.", hint="/path/to/model.gguf"), answered
        )

    def _add(self, text: str) -> Entry:
        path = model_path(text)
        return entry_of(self.session.library, path, read_model(path))

    def action_text(self) -> None:
        """Measure on another text."""

        def answered(text: str | None) -> None:
            if text is not None:
                self._corpus = user_path(text) if text else None

        before = str(self._corpus or "")
        self.app.push_screen(AskText("On which text? Empty for the built-in one.", before), answered)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sorted_by = (self._sorted_by + 1) % len(COLUMNS)
        self._show()
        self.query_one("#models", Grid).move_cursor(row=0)

    def action_mark(self) -> None:
        """Mark a model for the comparison of two; the third takes the place of the first."""
        entry = self._current()
        if not entry:
            return
        if entry.sha256 in self._marked:
            self._marked.remove(entry.sha256)
        else:
            self._marked = [*self._marked[-1:], entry.sha256]
        self._show()

    def action_both(self) -> None:
        """The same prompt to the two marked models, or to the one under the cursor and what it was made from."""
        paths = [Path(self._entries[key].path) for key in self._marked if key in self._entries]
        entry = self._current()
        if entry and len(paths) < 2:
            paths = [*paths, Path(entry.path)]
            if (len(paths) == 1 or paths[0] == paths[1]) and Path(entry.source).is_file():
                paths = [Path(entry.source), Path(entry.path)]
        if len(paths) < 2 or paths[0] == paths[1]:
            self.tell("Mark two models with the space bar first.", "warning")
            return
        self.app.push_screen(SideBySide(self.session, paths))

    def action_export(self) -> None:
        """Write the table to a file; its ending says how."""

        def answered(text: str | None) -> None:
            if text:
                self.in_background(lambda: self._export(user_path(text)), lambda path: self.tell(f"Written to {path}."))

        question = "Where to? The ending says how: .md (Markdown), .csv or .json"
        self.app.push_screen(AskText(question, str(Path.cwd() / "comparison.md")), answered)

    def _export(self, path: Path) -> Path:
        write = WRITERS.get(path.suffix.lower())
        if write is None:
            raise BadArgument(f"{path.name} must end in .md, .csv or .json.")
        rows = tuple(ordered(self._table.rows, COLUMNS[self._sorted_by]))
        write_atomically(path, write(replace(self._table, rows=rows)).encode())
        return path
