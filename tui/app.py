"""The workbench: its rooms, and what goes between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ..workbench.session import Session
from ..workbench.text import printable
from .describe import STATUS_WORDS, running_words
from .keys_in_turn import KeysInTurn
from .messages import OpenChat, OpenHub, OpenJob, OpenWizard
from .screens.room import Room
from .theme import textual_theme
from .widgets.title import TitleLine

if TYPE_CHECKING:
    from ..workbench.jobs import JobSummary
    from ..workbench.themes import LoadedThemes
    from .screens.chat import ChatRoom
    from .screens.hub import HubRoom
    from .screens.jobs import JobsRoom
    from .screens.wizard import WizardRoom

WATCH_SECONDS = 1.0
LIVE = ("queued", "running", "verifying")

# Rooms by mode. Each module is imported when its room is first entered: the first frame waits for none of them.
ROOMS = {
    "machine": "MachineRoom",
    "wizard": "WizardRoom",
    "jobs": "JobsRoom",
    "chat": "ChatRoom",
    "compare": "CompareRoom",
    "library": "LibraryRoom",
    "hub": "HubRoom",
}


class Workbench(KeysInTurn):
    """The rooms around one session. Jobs run in processes of their own and go on when this closes."""

    TITLE = "Quantdeck"
    CSS_PATH = "quantdeck.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - declared by App
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "switch_mode('machine')", "Machine", show=False),
        Binding("2", "switch_mode('wizard')", "Wizard", show=False),
        Binding("3", "switch_mode('jobs')", "Jobs", show=False),
        Binding("4", "switch_mode('chat')", "Chat", show=False),
        Binding("5", "switch_mode('compare')", "Compare", show=False),
        Binding("6", "switch_mode('library')", "Library", show=False),
        Binding("7", "switch_mode('hub')", "Hub", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("t", "themes", "Theme"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, session: Session, themes: LoadedThemes, theme: str, model: Path | None = None) -> None:
        # NO_COLOR cannot be honoured later: with an ansi theme and this flag Textual sends no colour at all.
        super().__init__(ansi_color=True if session.no_color else None)
        self.session = session
        self._loaded_themes = themes
        self._start_model = model
        self._settled: dict[str, str] | None = None
        self._watching = False
        for loaded in themes.themes:
            self.register_theme(textual_theme(loaded))
        self.theme = theme
        for name in ROOMS:
            self.add_mode(name, partial(self._make_room, name))

    def _make_room(self, name: str) -> Room:
        room = cast(Room, getattr(_module(name), ROOMS[name])(self.session))
        # Textual would parse all styles twice for a new screen, since a theme was set before it was made; it is styled
        # when it is mounted anyway.
        room._css_update_count = self._css_update_count
        return room

    def on_mount(self) -> None:
        """Open the first room; with a model on the command line, the wizard on that model."""
        self.switch_mode("machine")
        if self._start_model:
            self.post_message(OpenWizard(self._start_model))
        self.set_interval(WATCH_SECONDS, self._watch_jobs)
        self.run_worker(lambda: [_module(name) for name in ROOMS], thread=True)

    def _fatal_error(self) -> None:
        """A fault of ours ends in one sentence, where Textual prints a traceback with everybody's data in it."""
        from rich.text import Text

        from .fault import keep

        if self._exception and not self._exit_renderables:
            self.panic(Text(f"quantdeck: {printable(keep(self._exception))}"))

    # -- between the rooms -------------------------------------------------------------------------------------------

    async def on_open_chat(self, message: OpenChat) -> None:
        """Talk to a model."""
        await self.switch_mode("chat")
        cast("ChatRoom", self.screen).open(message.model)

    async def on_open_wizard(self, message: OpenWizard) -> None:
        """Choose a quantization for a model."""
        await self.switch_mode("wizard")
        cast("WizardRoom", self.screen).open(message.model)

    async def on_open_hub(self, message: OpenHub) -> None:
        """Look for a model on the Hub."""
        await self.switch_mode("hub")
        if message.repository:
            cast("HubRoom", self.screen).open(message.repository, message.file, message.context)

    async def on_open_job(self, message: OpenJob) -> None:
        """Watch a job."""
        await self.switch_mode("jobs")
        cast("JobsRoom", self.screen).open(message.job_id)

    # -- keys --------------------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """What this room is for, and its keys."""
        room = self.screen
        if not isinstance(room, Room):
            return
        keys = {
            self.get_key_display(active.binding): active.tooltip or active.binding.description
            for active in room.active_bindings.values()
            if active.node is room and active.binding.show
        }
        from .screens.help import HelpScreen

        self.push_screen(HelpScreen(room.NAME, room.HELP, list(keys.items())))

    def action_themes(self) -> None:
        """Choose a theme, and remember it."""
        if not isinstance(self.screen, Room):
            return

        def chosen(name: str | None) -> None:
            if name:
                for message in self.session.change_profile(lambda profile: replace(profile, theme=name)):
                    self.notify(printable(message), severity="warning", timeout=12, markup=False)

        from .screens.themes import ThemeScreen

        self.push_screen(ThemeScreen(self._loaded_themes, self.theme), chosen)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: the rooms, themes, help, quit."""
        for name in ROOMS:
            yield SystemCommand(name.capitalize(), f"Go to {name.capitalize()}", partial(self.switch_mode, name))
        yield SystemCommand("Theme", "Choose the colours", self.action_themes)
        yield SystemCommand("Help", "What this room is for, and its keys", self.action_help)
        yield SystemCommand("Quit", "Leave; jobs go on", self.action_quit)

    # -- the running job ---------------------------------------------------------------------------------------------

    def _watch_jobs(self) -> None:
        """Look at the jobs in a thread, so that a slow disk never holds a key press up."""
        if not self._watching:
            self._watching = True
            self.run_worker(self._read_jobs, thread=True, exit_on_error=False)

    def _read_jobs(self) -> None:
        try:
            listed = self.session.jobs.list()
            live = [job for job in listed if job.status in LIVE]
            settled = {job.id: job for job in listed if job.status not in LIVE}
            self.call_from_thread(self._show_jobs, live, settled)
        finally:
            self._watching = False

    def _show_jobs(self, live: list[JobSummary], settled: dict[str, JobSummary]) -> None:
        """The live ones on the title line; a notice for those that came to rest, unless the jobs are on screen."""
        before, self._settled = self._settled, {job.id: job.status for job in settled.values()}
        for title in self.screen.query(TitleLine):
            title.show_job(running_words(live))
        for job in settled.values():
            if before is None or before.get(job.id) == job.status:
                continue
            self.bell()
            if self.current_mode != "jobs":
                words = f"{job.level} of {Path(job.source).name}: {STATUS_WORDS[job.status]}. {job.message}"
                self.notify(printable(words), timeout=8, markup=False)


def _module(room: str) -> ModuleType:
    return import_module(f".screens.{room}", __package__)
