"""`3` Jobs: what is being made, and what was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, ProgressBar, Sparkline, Static

from ...workbench import jobs
from ...workbench.jobs import JobSnapshot, JobSummary, JobWatch, TensorProgress
from ...workbench.session import Session
from ...workbench.text import duration, printable, size
from ..describe import STATUS_WORDS, progress_words, tensor_cells
from ..messages import OpenChat
from ..widgets.grid import Grid, Row
from .ask import AskText, AskYes
from .room import Room

LOOK_SECONDS = 1.0
# A changed cell redraws its whole table, and a plot colours every letter: most of what this room sends over the line.
DETAILS_EVERY = 4
STATUS_COLOURS = {"done": "text-success", "failed": "text-error", "paused": "text-warning", "cut": "text-warning"}
Look = tuple[list[JobSummary], JobSnapshot | None]


class JobsRoom(Room):
    """All jobs above, the one under the cursor below."""

    NAME = "Jobs"
    HELP = """
Jobs run in processes of their own: close this program or lose the line, and they go on; come back to watch them again.
Whatever stops a job (you, a full disk, a lost machine), r resumes it from the last finished piece, and the file comes
out the same to the byte. A file appears under its name only when it is whole and llama.cpp has loaded it.
The table lists the tensors with type, size before and after, and the relative error that quantizing brought.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Chat", priority=True),
        Binding("p", "pause", "Pause"),
        Binding("r", "resume", "Resume"),
        Binding("c", "cancel", "Cancel"),
        Binding("plus,equals_sign", "workers(1)", "Workers", key_display="+/-"),
        Binding("minus", "workers(-1)", "Fewer workers", show=False),
        Binding("n", "nice", "Nice", tooltip="How much the job gives way to other programs"),
        Binding("d", "remove", "Remove", tooltip="Remove an ended job from the list; its file stays"),
        Binding("tab", "app.focus_next", "Other table", show=False),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._watch: JobWatch | None = None
        self._snapshot: JobSnapshot | None = None
        self._wanted: str | None = None
        self._looking = False
        self._looks = 0

    def compose_middle(self) -> ComposeResult:
        with Vertical(id="jobs"):
            titles = ["status", "level", "model", "done", "size", "time", "job"]
            yield Grid(titles, [3, 4, 5], STATUS_COLOURS, names="model", id="list")
            yield Static("No jobs yet. Press 2: the wizard makes the first one.", id="headline", markup=False)
            yield ProgressBar(total=1.0, show_eta=False, id="bar")
            yield Static("", id="words", markup=False)
            yield Static("", id="workers", markup=False)
            yield Sparkline([], id="rate")
            yield Grid(["tensor", "type", "before", "after", "error"], [2, 3, 4], id="tensors")

    def on_mount(self) -> None:
        """Look now, and then every second while the room is open."""
        self.query_one("#list", Grid).focus()
        self._look()
        self.set_interval(LOOK_SECONDS, self._look)

    def on_screen_resume(self) -> None:
        """Back in the room: what it shows is as old as the last visit."""
        self.call_after_refresh(self._look)

    def open(self, job_id: str) -> None:
        """Put the cursor on a job that was just started."""
        self._wanted = job_id
        self._look()
        self.in_background(jobs.logout_warning, lambda words: self.tell(words, "warning", 20) if words else None)

    # -- looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._looking or self.app.screen is not self:
            return
        self._looking = True
        chosen = self._wanted or self.query_one("#list", Grid).current_key
        self.in_background(lambda: self._read(chosen), self._show, failed=self._not_read)

    def _read(self, chosen: str | None) -> Look:
        """In a thread: the list, and what is new of the chosen job."""
        listed = list(reversed(self.session.jobs.list()))
        chosen = chosen if chosen in {job.id for job in listed} else (listed[0].id if listed else None)
        if chosen is None:
            return listed, None
        if self._watch is None or self._watch.folder.id != chosen:
            self._watch = self.session.jobs.watch(chosen)
        return listed, self._watch.look()

    def _not_read(self, why: str) -> None:
        """A look that failed; keep looking."""
        self._looking = False
        self.failed(why)

    def _show(self, look: Look) -> None:
        self._looking = False
        listed, snapshot = look
        table = self.query_one("#list", Grid)
        table.show([_list_row(job) for job in listed])
        if self._wanted in {job.id for job in listed}:
            table.go_to(self._wanted or "")
            self._wanted = None
        before = self._snapshot
        changed = (snapshot and (snapshot.id, snapshot.status)) != (before and (before.id, before.status))
        self._snapshot = snapshot
        if changed:
            self.refresh_bindings()
        if snapshot:
            self._show_job(snapshot, changed)

    def _show_job(self, job: JobSnapshot, fresh: bool) -> None:
        spec = job.spec
        self.query_one("#headline", Static).update(
            printable(f"{Path(spec.source).name} → {spec.output} · {job.plan.bits_per_weight:.2f} bits per weight")
        )
        self.query_one("#bar", ProgressBar).update(progress=job.fraction)
        hint = " · Enter talks to it" if job.status == "done" else " · r resumes" if job.resumable else ""
        self.query_one("#words", Static).update(progress_words(job) + hint)
        working = "   ".join(f"{worker + 1}: {printable(name)}" for worker, name in job.working.items())
        self.query_one("#workers", Static).update(f"workers  {working}" if working else "")
        self._looks += 1
        if fresh or self._looks % DETAILS_EVERY == 0:
            self.query_one("#tensors", Grid).show([_tensor_row(t) for t in job.tensors])
            rate = self.query_one("#rate", Sparkline)
            rate.display = len(job.rate_history) > 2
            rate.data = [weights for _, weights in job.rate_history]

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another job under the cursor: show it at once."""
        if event.data_table.id == "list" and self._snapshot and event.row_key.value != self._snapshot.id:
            self._look()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a job."""
        if event.data_table.id == "list":
            self.action_chat()

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that mean something for the job as it stands."""
        job = self._snapshot if self.is_mounted else None
        live = job is not None and job.status in ("queued", "running", "paused", "verifying")
        match action:
            case "pause":
                return job is not None and job.status in ("queued", "running")
            case "resume":
                return job is not None and job.resumable
            case "cancel":
                return job is not None and (live or job.resumable)
            case "workers" | "nice":
                return live
            case "remove":
                return job is not None and not live
            case "enter":
                return job is not None and job.status == "done"
            case _:
                return True

    def _with_job(self, act: Callable[[str], object], said: str) -> None:
        if self._snapshot:
            job_id = self._snapshot.id
            self.in_background(lambda: act(job_id), lambda _: self.tell(said))

    def action_chat(self) -> None:
        """Talk to what a finished job made."""
        if self._snapshot and self._snapshot.status == "done":
            self.post_message(OpenChat(Path(self._snapshot.spec.output)))

    def action_pause(self) -> None:
        """Let the workers rest."""
        self._with_job(lambda job_id: jobs.pause(self.session.jobs, job_id), "The job pauses; r goes on.")

    def action_resume(self) -> None:
        """Go on."""
        self._with_job(lambda job_id: jobs.resume(self.session.jobs, job_id), "The job goes on.")

    def action_cancel(self) -> None:
        """Ask, then give the job up."""
        if not self._snapshot or (self._snapshot.ended_for_good and not self._snapshot.resumable):
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._with_job(lambda job_id: jobs.cancel(self.session.jobs, job_id), "Cancelled.")

        self.app.push_screen(AskYes(f"Cancel {self._snapshot.id}? What it has written so far is deleted."), answered)

    def action_workers(self, more: int) -> None:
        """One worker process more or less."""
        if self._snapshot:
            job_id = self._snapshot.id
            self.in_background(
                lambda: jobs.add_workers(self.session.jobs, job_id, more),
                lambda wanted: self.tell(f"{wanted} workers."),
            )

    def action_nice(self) -> None:
        """Ask for a nice level."""

        def answered(text: str | None) -> None:
            if text and text.isdecimal() and int(text) <= 19:
                nice = int(text)
                self._with_job(lambda job_id: jobs.set_nice(self.session.jobs, job_id, nice), f"Nice level {nice}.")
            elif text:
                self.tell("A nice level is a number from 0 (normal) to 19 (only when nothing else runs).", "warning")

        if self._snapshot:
            question = "Nice level, 0 (normal) to 19 (only when nothing else runs):"
            self.app.push_screen(AskText(question, str(self._snapshot.nice)), answered)

    def action_remove(self) -> None:
        """Forget an ended job."""
        self._with_job(self.session.jobs.remove, "Removed from the list; the file stays.")


def _list_row(job: JobSummary) -> Row:
    seconds = duration(job.seconds) if job.seconds else ""
    cells = [
        STATUS_WORDS[job.status],
        job.level,
        Path(job.source).name,
        f"{100 * job.fraction:.0f} %",
        size(job.output_bytes),
        seconds,
        job.id,
    ]
    return job.id, cells


def _tensor_row(progress: TensorProgress) -> Row:
    return progress.tensor.name, tensor_cells(progress)
