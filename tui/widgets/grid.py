"""A table that is told its rows again and again and redraws only the cells that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text
from textual.color import Color
from textual.widgets import DataTable

from ...workbench.text import printable

Row = tuple[str, Sequence[str]]


class Grid(DataTable[Text]):
    """Rows are (key, cells); cells are plain words, those of the columns in `right` aligned to the right.

    `colours` maps the first word of a cell to a variable of the theme, so that "no" can stand out wherever it stands.
    """

    def __init__(
        self,
        columns: Sequence[str],
        right: Sequence[int] = (),
        colours: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, id=id)
        self._titles, self._right, self._colours = list(columns), set(right), dict(colours or {})
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

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows; the cursor stays on its row if that is still there."""
        wanted = {key: tuple(cells) for key, cells in rows}
        if list(wanted) != list(self._shown):
            self._rebuild(wanted)
            return
        for key, cells in wanted.items():
            for number, (new, old) in enumerate(zip(cells, self._shown[key], strict=True)):
                if new != old:
                    self.update_cell(
                        key, self._titles[number], self._cell(new, number), update_width=len(new) > len(old)
                    )
        self._shown = wanted

    def _rebuild(self, wanted: dict[str, tuple[str, ...]]) -> None:
        current, at = self.current_key, self.cursor_row
        self.clear()
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
