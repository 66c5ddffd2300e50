"""Chat settings: system prompt, sampling, context. Enter keeps them, Esc does not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Input, Static

from ...workbench.profile import ChatSettings
from ...workbench.session import Session
from ...workbench.text import printable
from .sheet import Sheet

LABELS = {
    "system_prompt": ("System prompt", "what the model is told first"),
    "temperature": ("Temperature", "0: always the likeliest token"),
    "top_p": ("Top p", "the likeliest with this share; 1: off"),
    "top_k": ("Top k", "so many of the likeliest; 0: off"),
    "min_p": ("Min p", "least share of the top one's; 0: off"),
    "repeat_penalty": ("Repeat penalty", "above 1 avoids repeating; 1: off"),
    "seed": ("Seed", "same seed, same answer; empty: random"),
    "max_tokens": ("Longest answer", "in tokens"),
    "context": ("Context", "in tokens; 0: the model's, up to 4,096"),
    "threads": ("Threads", "0: all cores but one"),
}
NEEDS_RELOAD = ("context", "threads")


class Field(Input):
    """A field whose Enter the footer shows."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "Keep")]


class SettingsScreen(Sheet[bool]):
    """Every setting with its meaning; dismissed with True if the model must be loaded again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "forget", "Cancel", key_display="esc"),
        # At once: what is typed behind them belongs to the field that they lead to.
        Binding("down", "app.focus_next", "Next", show=False, priority=True),
        Binding("up", "app.focus_previous", "Previous", show=False, priority=True),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def compose(self) -> ComposeResult:
        chat = self._session.profile.chat
        with VerticalScroll(classes="sheet", can_focus=False):
            yield Static("Chat settings", classes="title")
            for name, (label, meaning) in LABELS.items():
                value = getattr(chat, name)
                with Horizontal(classes="setting"):
                    yield Static(label, classes="label")
                    yield Field("" if value is None else str(value), id=name, compact=True, select_on_focus=False)
                    yield Static(meaning, classes="muted")
            yield Static("", id="problem", classes="error", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_input_submitted(self) -> None:
        """Enter: check every field; keep all of them or say which one cannot be."""
        before, changes = self._session.profile.chat, {}
        for name in LABELS:
            try:
                changes[name] = _parse(name, self.query_one(f"#{name}", Input).value.strip())
            except ValueError as problem:
                self.query_one("#problem", Static).update(str(problem))
                self.query_one(f"#{name}", Input).focus()
                return
        after = replace(before, **changes)
        for message in self._session.change_profile(lambda profile: replace(profile, chat=after)):
            self.notify(printable(message), severity="warning", timeout=12, markup=False)
        self.dismiss(any(getattr(before, name) != getattr(after, name) for name in NEEDS_RELOAD))

    def action_forget(self) -> None:
        """Leave everything as it was."""
        self.dismiss(False)


def _parse(name: str, text: str) -> Any:
    """The value that a field's text means; ValueError with a sentence if it means none."""
    setting = next(setting for setting in fields(ChatSettings) if setting.name == name)
    if name == "system_prompt":
        return text
    if not text:
        return setting.default
    number = float if isinstance(setting.default, float) else int
    least, most = setting.metadata["least"], setting.metadata["most"]
    try:
        value = number(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ValueError(f"{LABELS[name][0]} must be a number from {least:,} to {most:,}.")
    return value
