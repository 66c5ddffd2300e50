"""`t`: choose a theme. Moving shows it at once, Enter keeps it, Esc goes back to the old one."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from ...workbench.text import printable
from ...workbench.themes import LoadedThemes
from .sheet import Sheet


class ThemeScreen(Sheet[str | None]):
    """The list of themes; dismissed with the chosen name, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Keep this one", priority=True),
        Binding("escape,t,q", "cancel", "Keep the old one", key_display="esc"),
    ]

    def __init__(self, loaded: LoadedThemes, current: str) -> None:
        super().__init__()
        self._loaded = loaded
        self._before = current

    def compose(self) -> ComposeResult:
        with Vertical(id="themes"):
            yield Static("Theme (moving shows it, Enter keeps it)")
            names = [theme.name for theme in self._loaded.themes]
            options = [
                Option(f"{theme.name:<9} {printable(theme.description)}", theme.name) for theme in self._loaded.themes
            ]
            choices = OptionList(*options, markup=False)
            choices.highlighted = names.index(self._before) if self._before in names else 0
            yield choices
            # One line a file: the first mistake is the one to mend first.
            for problem in {problem.file: problem for problem in reversed(self._loaded.problems)}.values():
                yield Static(f"not loaded: {printable(str(problem))}", classes="warning", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Show the theme under the cursor."""
        if event.option.id:
            self.app.theme = event.option.id

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click: keep it."""
        self.dismiss(event.option.id)

    def action_enter(self) -> None:
        """Keep the theme under the cursor."""
        chosen = self.query_one(OptionList).highlighted_option
        self.dismiss(chosen.id if chosen else None)

    def action_cancel(self) -> None:
        """Back to the theme that was there before."""
        self.app.theme = self._before
        self.dismiss(None)
