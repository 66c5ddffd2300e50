"""A table that is told its rows again and again and redraws only the cells that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text
from textual.color import Color
from textual.widgets import DataTable

from ...workbench.text import printable, shortened

Row = tuple[str, Sequence[str]]

SHORTEST_NAME = 8
"""Characters that a name keeps in the narrowest table."""


class Grid(DataTable[Text]):
    """Rows are (key, cells); cells are plain words, those of the columns in `right` aligned to the right.

    `colours` maps the first word of a cell to a variable of the theme, so that "no" can stand out wherever it stands.
    Names in the column `names` lose their middle where the rows would otherwise be wider than the table.
    """

    def __init__(
        self,
        columns: Sequence[str],
        right: Sequence[int] = (),
        colours: Mapping[str, str] | None = None,
        names: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, id=id)
        self._titles, self._right, self._colours = list(columns), set(right), dict(colours or {})
        self._names = names
        self._told: Sequence[Row] = ()
        self._shown: dict[str, tuple[str, ...]] = {}

    def on_mount(self) -> None:
        """Make the columns; draw everything again when the theme changes, since cells hold their colours."""
        for number, name in enumerate(self._titles):
            self.add_column(Text(name, justify="right" if number in self._right else "left"), key=name)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._rebuild(self._shown))

    def _cell(self, words: str, column: int) -> Text:
        variable = self._colours.get(words.partition(" ")[0])
        style = Style()
        if variable:
            style = Style(color=Color.parse(self.app.theme_variables[variable]).rich_color)
        return Text(printable(words), style, justify="right" if column in self._right else "left", no_wrap=True)

    def on_resize(self) -> None:
        """Names get the room that there is now."""
        fitted = self._fitted(self._told)
        if fitted != self._shown:
            self._rebuild(fitted)

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows; the cursor stays on its row if that is still there."""
        self._told = rows
        wanted = self._fitted(rows)
        if list(wanted) != list(self._shown):
            self._rebuild(wanted)
            return
        for key, cells in wanted.items():
            for number, (new, old) in enumerate(zip(cells, self._shown[key], strict=True)):
                if new != old:
                    title = self._titles[number]
                    resize = len(new) > len(old) or title == self._names
                    self.update_cell(key, title, self._cell(new, number), update_width=resize)
        self._shown = wanted

    def _fitted(self, rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
        wanted = {key: tuple(cells) for key, cells in rows}
        if not self._names or not wanted:
            return wanted
        at = self._titles.index(self._names)
        widths = [max(map(len, cells)) for cells in zip(self._titles, *wanted.values(), strict=True)]
        others = sum(widths) - widths[at] + 2 * self.cell_padding * len(widths)
        room = max(SHORTEST_NAME, self.scrollable_content_region.width - others)
        return {key: (*cells[:at], shortened(cells[at], room), *cells[at + 1 :]) for key, cells in wanted.items()}

    def _rebuild(self, wanted: dict[str, tuple[str, ...]]) -> None:
        current, at = self.current_key, self.cursor_row
        self.clear()
        for column in self.columns.values():
            column.content_width = column.label.cell_len
        for key, cells in wanted.items():
            self.add_row(*(self._cell(words, number) for number, words in enumerate(cells)), key=key)
        self._shown = wanted
        keys = list(wanted)
        self.move_cursor(row=keys.index(current) if current in wanted else min(at, max(0, len(keys) - 1)))

    def go_to(self, key: str) -> None:
        """Put the cursor on a row, if it is there."""
        if key in self._shown:
            self.move_cursor(row=list(self._shown).index(key))

    @property
    def current_key(self) -> str | None:
        """The key of the row under the cursor."""
        keys = list(self._shown)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else None
