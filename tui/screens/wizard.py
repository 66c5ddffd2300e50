"""`2` Wizard: from a model to a quantization that fits, in a few keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import ContentSwitcher, DataTable, Input, OptionList, Static

from ...workbench import jobs
from ...workbench.advice import Advice, Candidate, Walk
from ...workbench.errors import QuantdeckError
from ...workbench.imatrices import Found
from ...workbench.imatrix import ImatrixFile
from ...workbench.jobs import Proposal
from ...workbench.llama import Cancelled
from ...workbench.model import CheckStopped, read_model
from ...workbench.recipe import Request
from ...workbench.sample import SAMPLE
from ...workbench.session import Session, hub_reference, model_path, user_path
from ...workbench.text import parse_size, printable
from ..describe import calibration_words, check_words, coverage_lines, default_output, step_words, wants_imatrix
from ..messages import OpenHub, OpenJob
from ..widgets.imatrix import ImatrixPane
from ..widgets.plan import PlanPane
from ..widgets.question import ModelPane, QuestionPane
from ..widgets.ready import ReadyMadeLine
from ..widgets.result import ResultPane
from .ask import AskText, AskYes
from .details import DetailsScreen
from .room import Room

if TYPE_CHECKING:
    from ...workbench.hub import Pick
    from ...workbench.llama.calibrate import CalibrationProgress, Coverage


class WizardRoom(Room):
    """Four steps: which model, a few questions, the ranked levels, the plan. Every step is filled in; Enter goes on."""

    NAME = "Wizard"
    # Otherwise the first list of all, shown or not, would take the keys when a sheet closes over a field that was left.
    AUTO_FOCUS = ""
    HELP = """
Choose a model, answer a few questions (all are filled in from what this machine is: Enter, Enter, Enter is a sensible
way), and look at the ranked levels: file size from the model's real tensors, memory at your context, speed to expect,
and quality as it was measured of this model (room 5) where it was. The recommended level is under the cursor. Levels
with few bits ask for an importance matrix: use one that is there, or let the model read a text now (calibration). The
plan shows what will be made before anything is written. Ready-made quants of a model of the Hub (name it OWNER/NAME, or
its file) are looked for meanwhile: r goes to the best one.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Next", priority=True),
        Binding("escape,backspace", "back", "Back", key_display="esc"),
        Binding("w", "why", "Why"),
        Binding("r", "ready", "Ready made", tooltip="Download the ready-made quant instead of making one"),
        Binding("i", "imatrix", "Imatrix"),
        Binding("o", "output", "Output file"),
        Binding("s", "start_over", "Start over"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._model: Path | None = None
        self._repository = ""
        self._walk: Walk | None = None
        self._advice: Advice | None = None
        self._proposal: Proposal | None = None
        self._row: Candidate | None = None
        self._imatrix: Path | None = None
        self._before_imatrix = "result"
        self._stop = threading.Event()
        self._starting = False
        self._turn = 0

    def compose_middle(self) -> ComposeResult:
        with Vertical(id="wizard"):
            yield Static("", id="trail", markup=False)
            yield ReadyMadeLine(self.session, id="ready")
            with ContentSwitcher(initial="models", id="steps"):
                yield ModelPane(id="models")
                yield QuestionPane(id="question")
                yield ResultPane(id="result")
                yield ImatrixPane(id="imatrix")
                yield PlanPane(id="plan")

    def on_mount(self) -> None:
        """Begin with the models that are known."""
        self.query_one(ModelPane).show(self.session.profile.recent_models)
        self.set_focus(self.query_one(ModelPane).reader)

    @property
    def step(self) -> str:
        """The step that is shown: models, question, result, imatrix or plan."""
        return self.query_one("#steps", ContentSwitcher).current or "models"

    def _work_out(self, work: Callable[[], Any], then: Callable[[Any], None], awaited: bool = True) -> None:
        """As `in_background`; what comes too late, because the user went on or back meanwhile, is dropped."""
        self._turn += 1
        turn = self._turn

        def in_time(act: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda what: act(what) if turn == self._turn else None

        self.in_background(work, in_time(then), awaited, in_time(self.failed))

    def _show(self, step: str) -> None:
        self._turn += 1
        self.query_one("#steps", ContentSwitcher).current = step
        self.query_one("#trail", Static).update(self._trail())
        # At once, not with the next message: an Enter that was typed ahead must meet the new step.
        panes: dict[str, type[ModelPane | QuestionPane | ResultPane | ImatrixPane | PlanPane]] = {
            "models": ModelPane,
            "question": QuestionPane,
            "result": ResultPane,
            "imatrix": ImatrixPane,
            "plan": PlanPane,
        }
        self.set_focus(self.query_one(panes[step]).reader)
        self.refresh_bindings()

    def _trail(self) -> str:
        """The way here in one line: model and answers."""
        if not self._model:
            return ""
        steps = [step_words(step) for step in self._walk.path if step.by_user] if self._walk else []
        return " › ".join([printable(self._model.name), *steps])

    # -- step 1: the model -------------------------------------------------------------------------------------------

    def open(self, model: Path) -> None:
        """Begin with this model: read its header, look at the machine if nobody has yet."""
        self._work_out(lambda: self.session.begin_walk(model), lambda walk: self._begun(model, walk, ""))

    def _open_remote(self, name: str, repository: str) -> None:
        """Begin with a model on the Hub, of which only the header is read."""
        self.tell(f"Reading {name} on the Hub …", seconds=3)
        self._work_out(
            lambda: self.session.begin_remote_walk(name),
            lambda walk: self._begun(Path(repository), walk, repository),
            awaited=False,
        )

    def _begun(self, model: Path, walk: Walk, repository: str) -> None:
        self._model, self._walk, self._advice, self._proposal = model, walk, None, None
        self._repository = repository
        self._ready.look_for(walk, repository)
        self._ask()

    @property
    def _ready(self) -> ReadyMadeLine:
        return self.query_one(ReadyMadeLine)

    def on_ready_made_line_told(self) -> None:
        """Show what is ready made, wherever the user is by now."""
        if self._walk:
            self._ready.fit(self._walk, self._advice)
            if self._advice:
                self.query_one(ResultPane).show_ready(self._ready.rows)
            self.refresh_bindings()

    def action_ready(self) -> None:
        """To the ready-made file, in the Hub's room."""
        self._take(self._ready.picks[0])

    def _take(self, pick: Pick) -> None:
        assert self._walk is not None
        self.post_message(OpenHub(pick.repository.id, pick.fitted.offer.path, self._walk.setup.context))

    def _ask(self) -> None:
        assert self._walk is not None
        if self._walk.done:
            walk = self._walk
            model = self._model
            assert model is not None
            self._work_out(
                lambda: (self.session.advise(walk), self.session.measured_quality(model)),
                lambda found: self._advised(*found),
            )
            return
        self._advice = None
        self._ready.fit(self._walk)
        self.query_one(QuestionPane).show(self._walk)
        self._show("question")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter on a model or on an answer."""
        if self.step == "models":
            self._choose_model(event.option.id or "")
        elif self.step == "question" and self._walk and event.option.id:
            self._answer(event.option.id)
        elif self.step == "imatrix" and event.option.id:
            self._choose_imatrix(event.option.id)

    def _choose_model(self, choice: str) -> None:
        if choice == ModelPane.HUB:
            self.post_message(OpenHub())
            return
        if choice != ModelPane.OTHER:
            self._open_named(choice)
            return
        self.app.push_screen(
            AskText(
                "Which model? The path of a GGUF file or of a folder of safetensors, or OWNER/NAME on the Hub.",
                hint="/path/to/model-f16.gguf",
            ),
            lambda text: self._open_named(text) if text else None,
        )

    def _open_named(self, name: str) -> None:
        try:
            if reference := hub_reference(name):
                self._open_remote(name, reference.repository)
            else:
                self.open(model_path(name))
        except QuantdeckError as error:
            self.tell(str(error), "error", 10)

    # -- step 2: questions -------------------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter on a typed answer."""
        if self.step == "question":
            self._answer_typed(event.value)

    def _answer_typed(self, text: str) -> None:
        if self._walk:
            try:
                self._answer(parse_size(text))
            except ValueError as problem:
                self.query_one(QuestionPane).complain(str(problem))

    def _answer(self, given: str | int) -> None:
        assert self._walk is not None
        if self._walk.done:
            return
        try:
            self._walk = self._walk.answer(given)
        except QuantdeckError as error:
            self.query_one(QuestionPane).complain(str(error))
            return
        self._ask()

    # -- step 3: the levels ------------------------------------------------------------------------------------------

    def _advised(self, advice: Advice, measured: Mapping[str, str]) -> None:
        assert self._walk is not None
        self._advice = advice
        self._ready.fit(self._walk, advice)
        pane = self.query_one(ResultPane)
        pane.show(advice, measured, self._ready.rows)
        if self._repository and self._ready.rows:
            # Nothing is here yet, and what is ready made need not be made.
            pane.reader.go_to(self._ready.rows[0][0])
        self._show("result")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a level: plan it."""
        if self.step != "result" or not self._advice:
            return
        if pick := self._ready.pick(event.row_key.value or ""):
            self._take(pick)
            return
        if self._repository:
            self.tell("The model must be here first: download it, and Enter brings it back to the wizard.", seconds=10)
            self.post_message(OpenHub(self._repository))
            return
        self._row = next((row for row in self._advice.candidates if row.level == event.row_key.value), None)
        self._imatrix, self._before_imatrix = None, "result"
        if self._row and wants_imatrix(self._row):
            self._offer_imatrix()
        else:
            self._plan(None)

    def _plan(self, output: str | None, overwrite: bool = False) -> None:
        """Plan the chosen level; without `output` under a name that is free."""
        model, row, imatrix = self._model, self._row, self._imatrix
        assert model is not None and row is not None

        def propose() -> Proposal | None:
            folder = self.session.output_folder(model)
            target = user_path(output) if output else self.session.free_name(default_output(model, row.level, folder))
            try:
                return self.session.propose(model, Request(row.level), target, overwrite, imatrix=imatrix)
            except jobs.OutputExists:
                return None

        def proposed(proposal: Proposal | None) -> None:
            if proposal:
                self._planned(proposal)
            elif output:
                self._ask_to_replace(output)

        self._work_out(propose, proposed)

    def _ask_to_replace(self, output: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._plan(output, overwrite=True)

        self.app.push_screen(AskYes(f"{output} exists already. Replace it once the new file is verified?"), answered)

    # -- step 4: the importance matrix, where it pays ------------------------------------------------------------------

    def _offer_imatrix(self) -> None:
        model, row = self._model, self._row
        assert model is not None and row is not None

        def found(matrices: tuple[Found, ...]) -> None:
            self.query_one(ImatrixPane).show(row, matrices)
            self._show("imatrix")

        self._work_out(lambda: self.session.imatrices(read_model(model)), found)

    def _choose_imatrix(self, choice: str) -> None:
        match choice:
            case ImatrixPane.WITHOUT:
                self._with_imatrix(None)
            case ImatrixPane.BUILT_IN:
                self._calibrate(SAMPLE.calibration_file)
            case ImatrixPane.OWN:
                question = "Which text? Plain text, a JSON list, or JSONL with texts or conversations."
                self._ask_file(question, "/path/to/text.txt", self._calibrate)
            case ImatrixPane.FILE:
                question = "Which importance matrix? A GGUF or .dat file of this model."
                self._ask_file(question, "/path/to/imatrix.gguf", self._with_imatrix)
            case _:
                self._with_imatrix(Path(choice))

    def _ask_file(self, question: str, hint: str, then: Callable[[Path], None]) -> None:
        def answered(text: str | None) -> None:
            if text:
                try:
                    then(user_path(text))
                except QuantdeckError as error:
                    self.tell(str(error), "error", 10)

        self.app.push_screen(AskText(question, hint=hint), answered)

    def _with_imatrix(self, imatrix: Path | None) -> None:
        self._imatrix = imatrix
        if self._before_imatrix == "plan" and self._proposal:
            self._plan(self._proposal.spec.output, self._proposal.spec.overwrite)
        else:
            self._plan(None)

    def _calibrate(self, corpus: Path) -> None:
        model = self._model
        assert model is not None
        stop = self._stop = threading.Event()
        self.query_one(ImatrixPane).working = True
        self.set_focus(None)
        self.refresh_bindings()

        def heard(progress: CalibrationProgress) -> None:
            fraction = progress.done / max(1, progress.chunks)
            self.app.call_from_thread(self.query_one(ImatrixPane).progress, fraction, calibration_words(progress))

        def work() -> tuple[Path, Coverage] | None:
            try:
                made = self.session.calibrate(model, corpus, heard, stop.is_set).path
            except Cancelled:
                return None
            from ...workbench.llama.calibrate import coverage

            return made, coverage(ImatrixFile(made), read_model(model))

        self.in_background(work, self._calibrated, failed=self._not_calibrated)

    def _calibrated(self, made: tuple[Path, Coverage] | None) -> None:
        self.query_one(ImatrixPane).working = False
        if self.step != "imatrix":
            return
        if made:
            imatrix, reached = made
            if not reached.complete:
                self.tell("\n".join(coverage_lines(reached)), "warning", 30)
            self._with_imatrix(imatrix)
            return
        self.tell("Calibration was stopped; chosen again, it goes on where it was.")
        self._offer_imatrix()

    def _not_calibrated(self, why: str) -> None:
        """Back to the choices."""
        pane = self.query_one(ImatrixPane)
        pane.working = False
        if self.step == "imatrix":
            self.set_focus(pane.reader)
        self.failed(why)

    def on_unmount(self) -> None:
        """A calibration ends with the workbench; its finished chunks are kept."""
        self._stop.set()

    # -- step 5: the plan --------------------------------------------------------------------------------------------

    def _planned(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self.query_one(PlanPane).show(proposal)
        self._show("plan")

    def _start(self) -> None:
        """Begin the job, once, however often Enter is pressed."""
        proposal = self._proposal
        assert proposal is not None
        if self._starting:
            return
        self._starting = True
        pane = self.query_one(PlanPane)
        stop = self._stop = threading.Event()

        def heard(done: int, total: int) -> None:
            self.app.call_from_thread(pane.checking, check_words(done, total))

        def begin() -> str | None:
            try:
                job_id = jobs.submit(self.session.jobs, proposal, heard, stop.is_set)
            except CheckStopped:
                return None
            jobs.start(self.session.jobs, job_id)
            return job_id

        def rest() -> None:
            self._starting = False
            pane.checking("")

        def not_begun(why: str) -> None:
            rest()
            self.failed(why)

        def begun(job_id: str | None) -> None:
            rest()
            if job_id:
                self._proposal = None
                self._show("result")
                self.post_message(OpenJob(job_id))

        self.in_background(begin, begun, failed=not_begun)

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that mean something at this step."""
        if not self.is_mounted:
            return True
        if self.step == "imatrix" and self.query_one(ImatrixPane).working:
            return action not in ("enter", "start_over", "why", "output", "imatrix")
        if self._starting:
            return action == "back"
        if action == "why":
            return self.step == "result"
        if action == "ready":
            return self.step in ("question", "result") and bool(self._ready.picks)
        if action in ("output", "imatrix"):
            return self.step == "plan"
        if action in ("back", "start_over"):
            return self.step != "models"
        return True

    def enter(self) -> None:
        """Enter where no list or field takes it: begin the planned job, or take a number whose field was left."""
        if self.step == "plan" and self._proposal:
            self._start()
        elif self.step == "question":
            self._answer_typed(self.query_one(QuestionPane).text)

    def action_back(self) -> None:
        """One step back, with the answer that was given."""
        if self.query_one(ImatrixPane).working and self.step == "imatrix":
            self._stop.set()
            return
        if self._starting:
            self._stop.set()
            return
        if isinstance(self.focused, Input):
            # The first one leaves the field, so that the keys of rooms and help work; Enter still answers.
            self.set_focus(None)
            return
        if self.step in ("imatrix", "plan"):
            self._show(self._before_imatrix if self.step == "imatrix" else "result")
            return
        if self._walk and any(step.by_user for step in self._walk.path):
            self._walk = self._walk.back()
            self._ask()
        else:
            self.action_start_over()

    def action_start_over(self) -> None:
        """Back to the list of models."""
        self._stop.set()
        self._turn += 1
        self._ready.forget()
        self._repository = ""
        self._model = self._walk = self._advice = self._proposal = self._row = self._imatrix = None
        self.query_one(ModelPane).show(self.session.profile.recent_models)
        self._show("models")

    def action_why(self) -> None:
        """Everything that led to the recommendation."""
        if self._advice:
            self.app.push_screen(DetailsScreen(self._advice))

    def action_imatrix(self) -> None:
        """Choose an importance matrix also where none is asked for; Esc leads back to the plan."""
        if self._row:
            self._before_imatrix = "plan"
            self._offer_imatrix()

    def action_output(self) -> None:
        """Write the file somewhere else."""
        if not self._proposal:
            return
        spec = self._proposal.spec

        def answered(text: str | None) -> None:
            if text:
                self._plan(text)

        self.app.push_screen(AskText("Where shall the file go?", spec.output), answered)
