"""What all rooms share: the title line with the keys of the rooms, the footer, and a way out of text fields."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Input, OptionList, TextArea

from ...workbench.session import Session
from ...workbench.text import printable
from ..fault import sentence
from ..widgets.keys import Keys
from ..widgets.title import TitleLine


class Room(Screen[None]):
    """A full screen reached by a number key. Subclasses compose their middle and explain themselves in HELP."""

    NAME: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave_field", "Leave the field", show=False),
        # Lists and tables have their own Enter, which no footer shows: the room takes it and hands it on.
        Binding("enter", "enter", "Choose", priority=True, show=False),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def compose(self) -> ComposeResult:
        yield TitleLine(self.NAME)
        yield from self.compose_middle()
        yield Keys()

    def compose_middle(self) -> ComposeResult:
        """The room between title and footer."""
        raise NotImplementedError

    async def action_enter(self) -> None:
        """Enter, for whatever has the keys."""
        match self.focused:
            case OptionList() as choices:
                choices.action_select()
            case DataTable() as table:
                table.action_select_cursor()
            case Input() as field:
                await field.action_submit()
            case _:
                self.enter()

    def enter(self) -> None:
        """Enter where no list, table or field has the keys."""

    def action_leave_field(self) -> None:
        """Give the keys back to the room."""
        if isinstance(self.focused, Input | TextArea):
            self.set_focus(None)

    def tell(self, text: str, severity: str = "information", seconds: float = 6) -> None:
        """A short notice in the corner; markup and control characters in `text` stay letters."""
        self.notify(printable(text), severity=severity, timeout=seconds, markup=False)  # type: ignore[arg-type]

    def failed(self, why: str) -> None:
        """Something in the background did not work; the room stands."""
        self.tell(why, "error", 12)

    def in_background(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        awaited: bool = True,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Run `work` in a thread, then `then(result)` on the screen, or `failed(why)`, which is a notice if not given.

        Work that is not `awaited` ends with the program: a server that hangs must not keep it from ending.
        """

        def job() -> None:
            try:
                result = work()
            except Exception as error:
                self.app.call_from_thread(failed or self.failed, sentence(error))
            else:
                self.app.call_from_thread(then, result)

        def abandoned() -> None:
            with suppress(RuntimeError):  # the program has ended meanwhile
                job()

        if awaited:
            self.run_worker(job, thread=True, exit_on_error=False)
        else:
            threading.Thread(target=abandoned, daemon=True).start()
