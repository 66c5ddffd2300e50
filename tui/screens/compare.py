"""`5` Compare: models by what was measured of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, ProgressBar, Static

from ...workbench.comparison import (
    COLUMNS,
    WRITERS,
    Asked,
    Basis,
    Compared,
    Comparison,
    asked_for,
    bases,
    cells_of,
    compare,
    ordered,
    quality,
)
from ...workbench.errors import BadArgument
from ...workbench.files import write_atomically
from ...workbench.library import Entry
from ...workbench.llama import Cancelled
from ...workbench.llama.evaluate import EvaluationSettings
from ...workbench.measure import (
    MeasureProgress,
    MeasureSettings,
    default_settings,
    entry_of,
    measure,
    settings_like,
    text_of,
)
from ...workbench.model import read_model
from ...workbench.sample import SAMPLE
from ...workbench.session import Session, model_path, user_path
from ...workbench.text import size
from ..describe import one_line, stage_words
from ..widgets.grid import Grid, Row
from ..widgets.scatter import Point, Scatter
from .ask import AskText, AskYes
from .room import Room
from .side_by_side import SideBySide

ROOMY = 110
ABSURD = 20
EFFICIENT = "●"
MARKED = "+"


@dataclass(frozen=True)
class _Next:
    """On what the next model is measured: as the figures of `table` were, or with `asked` None anew on `text`."""

    text: Path
    table: Comparison
    asked: Asked | None

    @property
    def words(self) -> str:
        """In a line, for the keys that begin it."""
        if self.asked is None:
            chunks = f"chunks of {EvaluationSettings().context} tokens"
            return f"e, m measure on {one_line(self.text.name)}, all of it in {chunks}: a new table"
        same = "text, chunks and reference" if self.table.reference else "text and chunks"
        return f"e, m measure on the same {same} · o: another table"

    def settings(self, model: Path, source: Path | None) -> MeasureSettings:
        """For one model; `source` is what it is held against where the table says nothing."""
        if self.asked:
            return settings_like(self.table, self.asked, self.text, model, source)
        return replace(default_settings(model, EvaluationSettings(), source), corpus=self.text)


class CompareRoom(Room):
    """The library's models in a table and in a plot of quality over size."""

    NAME = "Compare"
    HELP = """
Everything in the library, and any file added with a, with what was measured on one text: perplexity, KL divergence
from the model that it was made from (0 is the same), how often the likeliest token is the same, questions answered,
tokens per second. A dot marks the efficient ones: no other model is both smaller and better.
e measures the model under the cursor in the background, m everything that has no figures yet; c stops, and what was
computed is kept. A further model is measured as the table was: on its text, chunks and reference. o shows the table of
another text or of other chunks, after the oldest one it begins anew.
Mark two models with the space bar and press b for side by side. In a new table a file from elsewhere is held against
the one model that is marked.
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
        Binding("o", "basis", "Basis", show=False, tooltip="The table of another text, context or number of chunks"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entries: dict[str, Entry] = {}
        self._table = Comparison((), None)
        self._sorted_by = 0
        self._marked: list[str] = []
        self._corpus: Path | None = None
        self._basis: Basis | None = None
        self._anew = False
        self._next = _Next(SAMPLE.eval_file, self._table, None)
        self._stop = threading.Event()
        self._busy = False
        self._roomy = False

    def compose_middle(self) -> ComposeResult:
        self._roomy = self.app.size.width >= ROOMY
        with Vertical(id="compare"):
            yield Static("", id="basis", markup=False)
            yield Static("", id="next", markup=False)
            yield self._grid()
            yield Scatter("size", size, id="plot")
            yield ProgressBar(total=1.0, show_eta=False, id="measuring")
            yield Static("", id="status", markup=False)

    def _grid(self) -> Grid:
        titles = ["", *(["model"] if self._roomy else []), "level", *(column.title for column in COLUMNS)]
        return Grid(titles, range(len(titles) - len(COLUMNS), len(titles)), {EFFICIENT: "text-accent"}, id="models")

    async def on_resize(self) -> None:
        """Names of models where there is room for them."""
        if self._roomy == (self.app.size.width >= ROOMY):
            return
        self._roomy = not self._roomy
        old = self.query_one("#models", Grid)
        key = old.current_key or ""
        await old.remove()
        await self.query_one("#compare").mount(self._grid(), after="#next")
        self._show()
        self.query_one("#models", Grid).go_to(key)

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
        chosen = self._basis, self._corpus, self._anew
        self.in_background(lambda: self._look(*chosen), self._take)

    def _look(self, basis: Basis | None, corpus: Path | None, anew: bool) -> tuple[Sequence[Entry], Comparison, _Next]:
        """Everything in the library, and on what the next one is measured."""
        entries = [entry for entry in self.session.library.entries().entries if not entry.missing]
        table = compare(entries, basis)
        asked = asked_for(entries, table)
        text = None if anew else text_of(table, asked, corpus)
        following = _Next(text or corpus or SAMPLE.eval_file, table, asked if text else None)
        return entries, table, following

    def _take(self, found: tuple[Sequence[Entry], Comparison, _Next]) -> None:
        entries, self._table, self._next = found
        self._entries = {entry.sha256: entry for entry in entries}
        self._show()

    def _show(self) -> None:
        column = COLUMNS[self._sorted_by]
        table = self._table
        rows = ordered(table.rows, column)
        grid = self.query_one("#models", Grid)
        grid.show([self._row(row) for row in rows])
        grid.focus()
        reference = f"KL from {one_line(table.reference)} · " if table.reference else ""
        words = f"{reference}{table.basis.words}" if table.basis else "nothing was measured yet: e begins"
        words = f"By {column.title} · {words}"
        if not rows:
            words = "Nothing to compare yet: make a model in the wizard (2), or add a file with a."
        self.query_one("#basis", Static).update(words)
        self.query_one("#next", Static).update(self._next.words if rows else "")
        self._plot(table.rows)
        self.refresh_bindings()

    def _row(self, row: Compared) -> Row:
        mark = EFFICIENT if row.efficient else ""
        mark += MARKED if row.sha256 in self._marked else ""
        name = [row.name] if self._roomy else []
        return row.sha256, [mark, *map(one_line, name), one_line(row.label), *cells_of(row)]

    def _plot(self, rows: Sequence[Compared]) -> None:
        by_kl = sum(row.kl is not None for row in rows) > 1
        known = [(row, q) for row in rows if (q := quality(row, rows)) is not None]
        points = [Point(row.n_bytes, q, one_line(row.label), row.efficient) for row, q in known]
        # One broken model must not press all others into one line; divergence has bounds of its own.
        best = min((q for _, q in known), default=math.inf)
        self.query_one(Scatter).show(points, "KL" if by_kl else "ppl", math.inf if by_kl else ABSURD * best)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say which file is under the cursor."""
        if not self._busy:
            self._say_file()

    def _say_file(self) -> None:
        entry = self._current()
        words = f"{entry.name} · {size(entry.n_bytes)} · in {Path(entry.path).parent}" if entry else ""
        self.query_one("#status", Static).update(one_line(words))

    def _current(self) -> Entry | None:
        return self._entries.get(self.query_one("#models", Grid).current_key or "")

    # -- measuring ---------------------------------------------------------------------------------------------------

    def action_evaluate(self) -> None:
        """Measure the model under the cursor."""
        if entry := self._current():
            self._measure([entry])

    def action_evaluate_all(self) -> None:
        """Measure everything that has no figures in the table that is made next."""
        new = self._next.asked is None
        todo = {row.sha256 for row in self._table.rows if new or row.perplexity is None}
        self._measure([entry for key, entry in self._entries.items() if key in todo])

    def _measure(self, entries: list[Entry]) -> None:
        if self._busy or not entries:
            return
        self._busy, self._stop = True, threading.Event()
        following = self._next
        if following.asked is None:
            self._basis = None  # the new figures are the latest, and make the table
        self.query_one("#measuring").display = True
        self.refresh_bindings()
        stop = self._stop

        def work() -> bool:
            for number, entry in enumerate(entries, 1):
                head = f"{entry.name} ({number} of {len(entries)})" if len(entries) > 1 else entry.name
                try:
                    self._measure_one(entry, head, following, stop)
                except Cancelled:
                    return False
                self.app.call_from_thread(self._one_measured)
            return True

        self.in_background(work, self._measured, failed=self._not_measured)

    def _measure_one(self, entry: Entry, head: str, following: _Next, stop: threading.Event) -> None:
        path = Path(entry.path)
        settings = following.settings(path, self._reference(entry))

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
        self.query_one("#status", Static).update(one_line(words))

    def _one_measured(self) -> None:
        self._anew = False  # what was begun anew is now the latest table
        self._read()

    def _measured(self, whole: bool) -> None:
        self._end()
        self.tell("Measured." if whole else "Stopped; measured again, it goes on where it was.")

    def _end(self) -> None:
        self._busy = False
        self.query_one("#measuring").display = False
        self._say_file()
        self._read()

    def _not_measured(self, why: str) -> None:
        """A model that cannot be measured; the others stand."""
        self._end()
        self.failed(why)

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that mean something now."""
        if not self.is_mounted:
            return True
        if action == "cancel":
            return self._busy
        if action in ("evaluate", "evaluate_all", "text", "basis"):
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
                self._corpus = user_path(text) if text else SAMPLE.eval_file
                self._anew = False
                self._read()

        before = str(self._corpus or "")
        self.app.push_screen(AskText("On which text? Empty for the built-in one.", before), answered)

    def action_basis(self) -> None:
        """The table on the next older basis, and after the oldest one a new beginning."""
        known: list[Basis | None] = list(bases(self._entries.values()))
        after = known.index(self._table.basis) + 1 if self._table.basis in known and not self._anew else 0
        self._anew = after == len(known)
        self._basis = None if self._anew else known[after]
        self._read()

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

        def write(path: Path) -> None:
            self.in_background(lambda: self._export(path), lambda path: self.tell(f"Written to {path}."))

        def answered(text: str | None) -> None:
            if not text:
                return
            path = user_path(text).absolute()
            if path.is_file() and path.suffix.lower() in WRITERS:
                question = AskYes(f"{path} is there already. Replace it?")
                self.app.push_screen(question, lambda yes: write(path) if yes else None)
            else:
                write(path)

        question = "Where to? The ending says how: .md (Markdown), .csv or .json"
        self.app.push_screen(AskText(question, str(Path.cwd() / "comparison.md")), answered)

    def _export(self, path: Path) -> Path:
        write = WRITERS.get(path.suffix.lower())
        if write is None:
            raise BadArgument(f"{path.name} must end in .md, .csv or .json.")
        if not path.parent.is_dir():
            raise BadArgument(f"There is no folder {path.parent}; make it first, or choose another.")
        rows = tuple(ordered(self._table.rows, COLUMNS[self._sorted_by]))
        write_atomically(path, write(replace(self._table, rows=rows)).encode())
        return path
