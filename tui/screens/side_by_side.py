"""The same prompt to two models: both answers as they come, the first difference marked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, Static

from ...workbench.difference import agreement, common_length
from ...workbench.llama import Cancelled, ChatDone, Llama, Sampling
from ...workbench.session import Session
from ...workbench.text import printable
from ..fault import sentence
from .sheet import Sheet

REDRAW_SECONDS = 0.2
LONGEST_ANSWER = 400


@dataclass
class _Side:
    """One pane: a model, and its answer so far."""

    path: Path
    llama: Llama | None = None
    text: str = ""
    state: str = "loading …"
    busy: bool = True
    tokens: list[int] = field(default_factory=list)


class SideBySide(Sheet[None]):
    """Two panes and a prompt. Both answer greedily, so that only the models differ."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Stop, close", key_display="esc"),
        Binding("pageup", "scroll(-1)", "Up", priority=True, key_display="pgup"),
        Binding("pagedown", "scroll(1)", "Down", priority=True, key_display="pgdn"),
    ]

    def __init__(self, session: Session, models: Sequence[Path]) -> None:
        super().__init__()
        self._session = session
        self._sides = [_Side(path) for path in models]
        self._stop = threading.Event()
        self._drawn: tuple[object, ...] = ()
        self._said = False

    def compose(self) -> ComposeResult:
        with Horizontal(id="sides"):
            for number, side in enumerate(self._sides):
                with Vertical(classes="side"):
                    yield Static(printable(side.path.name), classes="title", markup=False)
                    with VerticalScroll(can_focus=False):
                        yield Static("", id=f"answer-{number}", markup=False)
                    yield Static(side.state, id=f"state-{number}", classes="muted", markup=False)
        yield Static("", id="agreement", markup=False)
        yield Input(placeholder="The same question to both, Enter sends it", id="prompt")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Load both, one after the other: each alone is faster."""
        self.query_one("#prompt", Input).focus()
        self.run_worker(self._load, thread=True, exit_on_error=False)
        self.set_interval(REDRAW_SECONDS, self._draw)

    def on_unmount(self) -> None:
        """Take both models out of memory."""
        self._stop.set()
        for side in self._sides:
            if side.llama:
                side.llama.close()

    # -- in threads --------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        for side in self._sides:
            try:
                llama = self._session.load(side.path, cancelled=self._stop.is_set)
            except Cancelled:
                return
            except Exception as error:
                side.state, side.busy = sentence(error), False
                continue
            side.llama = llama
            side.state, side.busy = llama.info.why_not or "ready", False
            if self._stop.is_set():
                llama.close()

    def _answer(self, side: _Side, llama: Llama, prompt: str) -> None:
        try:
            for event in llama.chat([{"role": "user", "content": prompt}], Sampling(temperature=0), LONGEST_ANSWER):
                if isinstance(event, ChatDone):
                    side.state = f"{event.generated_tokens} tokens, {event.tokens_per_second:.1f} tokens/s"
                else:
                    side.text += event.text
            side.tokens = llama.tokenize(side.text)
        except Exception as error:
            llama.close()
            side.state, side.llama = sentence(error), None
        finally:
            side.busy = False

    # -- on the screen -----------------------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: ask both."""
        prompt = event.value.strip()
        event.stop()
        if not prompt or any(side.busy for side in self._sides):
            return
        event.input.clear()
        self._said = False
        for side in self._sides:
            if side.llama is None:
                continue
            side.text, side.tokens, side.busy, side.state = "", [], True, "answering …"
            llama = side.llama
            self.run_worker(
                lambda side=side, llama=llama: self._answer(side, llama, prompt),
                thread=True,
                exit_on_error=False,
            )

    def _draw(self) -> None:
        """What has changed since the last time."""
        seen = tuple((side.text, side.state, side.busy) for side in self._sides)
        if seen == self._drawn:
            return
        self._drawn = seen
        left, right = self._sides
        ended = not (left.busy or right.busy)
        same = common_length(left.text, right.text, ended)
        for number, side in enumerate(self._sides):
            self.query_one(f"#answer-{number}", Static).update(_marked(side.text, same))
            self.query_one(f"#state-{number}", Static).update(printable(side.state))
        words = ""
        if ended and (left.text or right.text):
            found = agreement(left.tokens, right.tokens)
            where = (
                "no difference" if found.first_difference is None else f"first at token {found.first_difference + 1}"
            )
            words = f"{found.same} of {found.positions} tokens agree ({100 * found.share:.0f} %), {where}"
        self.query_one("#agreement", Static).update(words)

    def action_leave(self) -> None:
        """Stop the answers; if none is running, close."""
        running = [side for side in self._sides if side.busy and side.llama]
        for side in running:
            assert side.llama is not None
            side.llama.cancel()
        if not running:
            self._stop.set()
            self.dismiss(None)

    def action_scroll(self, pages: int) -> None:
        """Both answers up or down."""
        for pane in self.query(VerticalScroll):
            pane.scroll_relative(y=pages * max(1, pane.size.height - 2), animate=False)


def _marked(text: str, same: int) -> Content:
    """An answer with what differs in another colour, its first letter reversed."""
    text = printable(text)  # letter by letter, so that `same` still holds
    if same >= len(text):
        return Content(text)
    return Content.assemble(text[:same], (text[same], "reverse $warning"), (text[same + 1 :], "$text-warning"))
