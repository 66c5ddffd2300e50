"""`4` Chat: talk to a model, and judge it."""

from __future__ import annotations

import threading
from asyncio import sleep
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import AwaitMount
from textual.widgets import Input, Markdown, ProgressBar, Static

from ...workbench.errors import QuantdeckError
from ...workbench.llama import ChatDone, ChatEvent, Llama, Message, SmokeResult, TextPiece, smoke_test, verdict
from ...workbench.session import Session, model_path
from ...workbench.text import duration, printable
from ..fault import sentence
from .ask import AskText
from .room import Room
from .settings import SettingsScreen

REDRAW_SECONDS = 0.15
ANSWER_SHOWN = 200
ENDINGS = {
    "stop": "",
    "length": "longest answer reached",
    "cancelled": "stopped",
    "context full": "context full: ^n clears, ^s enlarges",
}


class ChatRoom(Room):
    """One model, one conversation."""

    NAME = "Chat"
    HELP = """
Type a message and press Enter; the answer streams in. Esc stops it at once, or cancels loading; a second Esc leaves the
field, so that the number keys reach the other rooms.
The line above the field shows speed (tokens per second), the time to the first token, and the context in use.
The smoke test asks ten fixed questions and judges the answers for emptiness, loops and broken text.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", key_display="esc"),
        Binding("ctrl+o", "choose", "Model"),
        Binding("ctrl+n", "clear", "Clear"),
        Binding("ctrl+s", "settings", "Settings"),
        Binding("ctrl+t", "smoke", "Smoke test"),
        Binding("i", "write", "Write"),
        Binding("pageup", "scroll(-1)", "Back", show=False),
        Binding("pagedown", "scroll(1)", "Forward", show=False),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._llama: Llama | None = None
        self._path: Path | None = None
        self._messages: list[Message] = []
        self._pieces: deque[str] = deque()
        self._stop = threading.Event()
        self._busy = ""
        self._figures = ""

    def compose_middle(self) -> ComposeResult:
        yield Static(
            "No model is loaded. Press ctrl+o to open one, or make one in the wizard (2).", id="model", markup=False
        )
        yield ProgressBar(total=1.0, show_eta=False, id="loading")
        yield VerticalScroll(id="talk", can_focus=False)
        yield Static("", id="figures", markup=False)
        yield Input(placeholder="Write a message, Enter sends it", id="message")

    def on_mount(self) -> None:
        """Nothing is loaded yet."""
        self.query_one("#loading").display = False
        self.query_one("#message", Input).focus()

    def on_unmount(self) -> None:
        """Take the model out of memory when the workbench closes."""
        self._stop.set()
        if self._llama:
            self._llama.close()

    # -- the model ---------------------------------------------------------------------------------------------------

    def open(self, path: Path) -> None:
        """Load a model, taking the one before out of memory."""
        if self._busy == "loading":
            self.tell("A model is being loaded; Esc cancels that.", "warning")
            return
        self._stop.set()
        self._path, self._busy = path, "loading"
        self._stop = threading.Event()
        self.query_one("#model", Static).update(f"Loading {printable(path.name)} … (esc cancels)")
        bar = self.query_one("#loading", ProgressBar)
        bar.display, bar.progress = True, 0
        stop, before = self._stop, self._llama
        self._llama = None

        def load() -> None:
            if before:
                before.close()
            try:
                llama = self.session.load(path, on_progress=self._progress, cancelled=stop.is_set)
            except Exception as error:
                self.app.call_from_thread(self._failed, sentence(error))
            else:
                self.app.call_from_thread(self._loaded, llama)

        self.run_worker(load, thread=True, exit_on_error=False)

    def _progress(self, fraction: float) -> None:
        self.app.call_from_thread(self.query_one("#loading", ProgressBar).update, progress=fraction)

    def _loaded(self, llama: Llama) -> None:
        self._llama, self._busy = llama, ""
        self.query_one("#loading").display = False
        self.action_clear()
        info = llama.info
        words = f"{printable(llama.path.name)} · {info.architecture} · context {info.context:,} tokens"
        self.query_one("#model", Static).update(words)
        if not info.can_chat:
            self._add("notice", info.why_not)
        for notice in filter(None, [info.template_notice, *info.notices]):
            self._add("notice", notice)
        self.query_one("#message", Input).focus()

    def _failed(self, why: str) -> None:
        self._llama, self._busy = None, ""
        self.query_one("#loading").display = False
        self.query_one("#model", Static).update("No model is loaded. Press ctrl+o to open one.")
        self._add("error", why)

    # -- the conversation --------------------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: ask."""
        text = event.value.strip()
        if not text or self._busy:
            return
        if not self._llama:
            self.tell("No model is loaded: ctrl+o opens one.", "warning")
            return
        if not self._llama.info.can_chat:
            self.tell(self._llama.info.why_not, "warning")
            return
        event.input.clear()
        self._messages.append({"role": "user", "content": text})
        self._add("user", text)
        self._answer(self._llama)

    def _answer(self, llama: Llama) -> None:
        self._busy, self._figures = "answering", ""
        self._stop = threading.Event()
        chat = self.session.profile.chat
        messages: list[Message] = [{"role": "system", "content": chat.system_prompt}] if chat.system_prompt else []
        events = llama.chat([*messages, *self._messages], self.session.sampling(), chat.max_tokens)
        self._pieces.clear()
        self.run_worker(self._show_answer())
        self.run_worker(lambda: self._generate(llama, events), thread=True, exit_on_error=False)

    def _generate(self, llama: Llama, events: Iterator[ChatEvent]) -> None:
        """In a thread: take events as they come; the screen picks the text up when it redraws."""
        whole = ""
        try:
            for event in events:
                if isinstance(event, TextPiece):
                    whole += event.text
                    self._pieces.append(event.text)
                elif isinstance(event, ChatDone):
                    self.app.call_from_thread(self._answered, llama, whole, event)
        except Exception as error:
            self._give_up(llama, error)

    async def _show_answer(self) -> None:
        """Redraw the growing answer a few times a second while it comes."""
        bubble, mounted = self._add("model", "")
        await mounted
        stream = Markdown.get_stream(bubble)
        talk = self.query_one("#talk", VerticalScroll)
        while True:
            done = self._busy != "answering"
            text = "".join(self._pieces.popleft() for _ in range(len(self._pieces)))
            if text:
                await stream.write(text)
                talk.scroll_end(animate=False)
            if done:
                break
            await sleep(REDRAW_SECONDS)
        await stream.stop()
        self.query_one("#figures", Static).update(self._figures)

    def _answered(self, llama: Llama, whole: str, done: ChatDone) -> None:
        if llama is not self._llama:
            return
        self._busy = ""
        self._messages.append({"role": "assistant", "content": whole})
        figures = (
            f"{done.tokens_per_second:.1f} tokens/s · first token after {duration(done.seconds_to_first_token)}"
            f" · {done.generated_tokens} tokens · context {done.context_used:,} of {done.context_size:,}"
        )
        # In front, because a narrow terminal cuts the end.
        ending = ENDINGS.get(done.reason, done.reason)
        self._figures = f"{ending} · {figures}" if ending else figures

    def _give_up(self, llama: Llama, error: Exception) -> None:
        """In a thread: a model that failed is taken out of memory, also where its process lives."""
        llama.close()
        self.app.call_from_thread(self._broke, llama, sentence(error))

    def _broke(self, llama: Llama, why: str) -> None:
        """The model is gone; the workbench stands and says why, unless another model has taken the place."""
        if llama is self._llama:
            self._failed(why)

    def _add(self, who: str, text: str) -> tuple[Markdown, AwaitMount]:
        """A new piece of the conversation; it can be written to once it is mounted."""
        talk = self.query_one("#talk", VerticalScroll)
        names = {"user": "You", "model": "Model", "error": "What went wrong", "notice": "Note"}
        bubble = Markdown(_as_plain_markdown(text), open_links=False, classes=f"bubble {who}")
        mounted = talk.mount(Static(names[who], classes=f"who {who}"), bubble)
        talk.scroll_end(animate=False)
        return bubble, mounted

    # -- keys --------------------------------------------------------------------------------------------------------

    def action_stop(self) -> None:
        """Stop what is going on; if nothing is, leave the field."""
        if self._busy == "loading":
            self._stop.set()
        elif self._busy and self._llama:
            self._stop.set()
            self._llama.cancel()
        else:
            self.action_leave_field()

    def action_write(self) -> None:
        """Back into the field."""
        self.query_one("#message", Input).focus()

    def action_scroll(self, pages: int) -> None:
        """Read what is further up or down."""
        talk = self.query_one("#talk", VerticalScroll)
        talk.scroll_relative(y=pages * max(1, talk.size.height - 2), animate=False)

    def action_clear(self) -> None:
        """A new conversation."""
        if self._busy:
            return
        self._messages.clear()
        self.query_one("#talk", VerticalScroll).remove_children()
        self.query_one("#figures", Static).update("")

    def action_choose(self) -> None:
        """Ask for a model file."""

        def chosen(text: str | None) -> None:
            if not text:
                return
            try:
                self.open(model_path(text))
            except QuantdeckError as error:
                self.tell(str(error), "error", 10)

        recent = self.session.profile.recent_models
        before = recent[0] if recent else "sample"
        self.app.push_screen(AskText("Which model? A GGUF file, or the word sample.", before), chosen)

    def action_settings(self) -> None:
        """Sampling, system prompt, context."""

        def done(reload: bool | None) -> None:
            if reload and self._path:
                self.open(self._path)

        self.app.push_screen(SettingsScreen(self.session), done)

    def action_smoke(self) -> None:
        """Ten fixed prompts, judged."""
        if self._busy:
            self.tell("Something is going on already; Esc stops it.", "warning")
            return
        if not self._llama:
            self.tell("Load a model first: ctrl+o.", "warning")
            return
        if not self._llama.info.can_chat:
            self.tell(self._llama.info.why_not, "warning")
            return
        self.action_clear()
        self._busy, llama = "testing", self._llama

        def test() -> None:
            results: list[SmokeResult] = []
            try:
                for result in smoke_test(llama):
                    results.append(result)
                    self.app.call_from_thread(self._show_smoke, llama, result)
            except Exception as error:
                self._give_up(llama, error)
            else:
                self.app.call_from_thread(self._smoked, llama, results)

        self.run_worker(test, thread=True, exit_on_error=False)

    def _show_smoke(self, llama: Llama, result: SmokeResult) -> None:
        if llama is not self._llama:
            return
        mark = ("✓", "$text-success") if result.fine else ("✗", "$text-error")
        answer = " ".join(result.answer.split())[:ANSWER_SHOWN] or "(nothing)"
        words = answer if result.fine else f"{result.finding}: {answer}"
        line = Content.assemble(
            mark, f" {result.number:2} {printable(result.question)}\n     ", (printable(words), "$text-muted")
        )
        talk = self.query_one("#talk", VerticalScroll)
        talk.mount(Static(line))
        talk.scroll_end(animate=False)

    def _smoked(self, llama: Llama, results: list[SmokeResult]) -> None:
        if llama is not self._llama:
            return
        self._busy = ""
        self._add("notice", verdict(results).text)


def _as_plain_markdown(text: str) -> str:
    """What the user or we wrote is no markup: keep its line breaks and escape what Markdown would read."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>#+-.!|~" else c for c in printable(text))
    return escaped.replace("\n", "  \n")
