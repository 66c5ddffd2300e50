"""One run of the program: our folders, the profile, the jobs and the library, opened once and passed around."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadArgument, ModelNotFound
from .paths import Paths
from .profile import Change, Profile, ProfileStore
from .text import printable

if TYPE_CHECKING:
    from .advice import Advice, Corrections, Setup, Walk
    from .advice.machine import Machine
    from .handover import RunSetting
    from .hardware import Bandwidth, Hardware
    from .hub import Downloads, Hub, Origin, Pick, ReadyMade, Reference, Repository, Shop
    from .imatrices import Found
    from .jobs import JobStore, Proposal
    from .library import Library
    from .llama import Child, Llama, LoadSettings, Sampling
    from .llama.calibrate import Calibration, CalibrationProgress
    from .model import Model
    from .recipe import Request

SAMPLE_WORD = "sample"
DEFAULT_CONTEXT = 4096
CPU_PACE = "cpu-pace"
PROGRAM = "program-bytes"
PROGRAM_BYTES = 45 << 20


class Session:
    """What commands and screens share. Safe to use from several threads."""

    def __init__(self, paths: Paths, no_color: bool = False) -> None:
        self.paths = paths
        self.no_color = no_color
        self._profiles = ProfileStore(paths.profile)
        self._lock = threading.Lock()
        result = self._profiles.read()
        self._profile = result.profile
        self.messages: list[str] = list(result.messages)

    @property
    def profile(self) -> Profile:
        """The profile as it was last read or written."""
        return self._profile

    def change_profile(self, change: Change) -> tuple[str, ...]:
        """Change the profile on disk; what went wrong is kept in `messages`, once, and what is new of it returned."""
        with self._lock:
            result = self._profiles.update(change)
            self._profile = result.profile
            new = tuple(message for message in result.messages if message not in self.messages)
            self.messages += new
        return new

    @property
    def jobs(self) -> JobStore:
        """All jobs."""
        from .jobs import JobStore

        return JobStore(self.paths.jobs)

    @property
    def library(self) -> Library:
        """Everything that was made."""
        from .library import Library

        return Library(self.paths.library)

    @property
    def downloads(self) -> Downloads:
        """All downloads from the Hub."""
        from .hub import Downloads

        return Downloads(self.paths.data / "downloads")

    def download_folder(self, repository: str) -> Path:
        """Where files of OWNER/NAME go: OWNER/NAME below the folder that the user chose, or our own."""
        chosen = self.profile.paths.output
        return (user_path(chosen) if chosen else self.paths.models) / repository

    def shop(self, hub: Hub, repository: Repository, context: int | None = None) -> Shop:
        """What a repository offers, and how each would do on this machine with `context` tokens (None: as in chats)."""
        from .hub import shop

        hardware, bandwidth = self.profile.hardware, self.profile.bandwidth
        if hardware is None or bandwidth is None:
            hardware, bandwidth = self.look_at_machine(self.paths.data)
        wanted = context or self.profile.chat.context or DEFAULT_CONTEXT
        return shop(hub, repository, hardware, bandwidth, wanted, self.corrections)

    def run_setting(self, model: Model, context: int | None = None) -> RunSetting:
        """How a finished file is run on this machine, here or by other programs, with up to `context` tokens."""
        from .advice.machine import this_machine
        from .handover import run_setting

        hardware, bandwidth = self.profile.hardware, self.profile.bandwidth
        if hardware is None or bandwidth is None:
            hardware, bandwidth = self.look_at_machine(self.paths.data)
        wanted = context or self.profile.chat.context or DEFAULT_CONTEXT
        return run_setting(model, this_machine(hardware, bandwidth), wanted)

    def origin(self, model: Model, repository: str = "") -> Origin | None:
        """The repository that a model comes from, or by which it was named; None if nothing tells."""
        from .hub import Origin, origin

        chosen = self.profile.paths.output
        homes = [self.paths.models, *([user_path(chosen)] if chosen else [])]
        return Origin(repository) if repository else origin(model, homes)

    def look_for_ready_made(self, of: Origin, stopped: Callable[[], bool] = lambda: False) -> ReadyMade:
        """What the Hub has of `of` as GGUF; ends soon after `stopped()`, but never before a request does."""
        from .hub import Hub, look_for
        from .hub.ready_made import BRIEF

        return look_for(Hub(BRIEF), of, stopped)

    def ready_made(
        self, found: ReadyMade, model: Model, machine: Machine, setup: Setup, advice: Advice | None = None
    ) -> tuple[Pick, ...]:
        """The file to take of each repository in `found`; where there is advice, of the level that it recommends."""
        from .hub import picks

        sizes = {row.level: row.n_bytes for row in advice.candidates} if advice else {}
        level = advice.level if advice else None
        return picks(found, model, machine, setup, self.corrections, level, sizes)

    def look_at_machine(self, output: Path, measure: bool = False) -> tuple[Hardware, Bandwidth]:
        """What this machine is. Its memory and kernels are measured the first time, and again if `measure` is set.

        Args:
            output: where models will be written; its disk is looked at.
            measure: measure even if the profile knows the figures.
        """
        from .hardware import detect, measure_bandwidth
        from .llama.kernel_speed import measure_kernels

        hardware = detect(output)
        bandwidth = self.profile.bandwidth
        if measure or bandwidth is None:
            bandwidth = measure_bandwidth(hardware.cpu.whole_cores, hardware.memory.usable)
        if bandwidth.kernels is None:
            kernels = measure_kernels(self.paths.logs, hardware.cpu.whole_cores, hardware.memory.usable)
            bandwidth = replace(bandwidth, kernels=kernels)
        self.change_profile(lambda profile: replace(profile, hardware=hardware, bandwidth=bandwidth))
        return hardware, bandwidth

    def machine(self, output: Path) -> tuple[Hardware, Bandwidth]:
        """This machine as the profile knows it, or as it is found now; `output` as in `look_at_machine`."""
        hardware, bandwidth = self.profile.hardware, self.profile.bandwidth
        return (hardware, bandwidth) if hardware and bandwidth else self.look_at_machine(output)

    def begin_walk(self, model: Path) -> Walk:
        """The wizard's first question for a model, on the machine as the profile knows it, or as it is found now."""
        from .advice import Walk
        from .model import read_model

        return Walk.begin(read_model(model), *self.machine(model.parent))

    def begin_remote_walk(self, name: str) -> Walk:
        """The same for a model on the Hub, of which only the header is read."""
        from .advice import Walk

        return Walk.begin(find_model(name), *self.machine(self.paths.data))

    def advise(self, walk: Walk) -> Advice:
        """What the answers of a finished walk lead to; they are remembered."""
        from .advice import conclude

        answers = {step.question.id: step.answer for step in walk.path if step.by_user}
        self.change_profile(lambda profile: replace(profile, wizard=answers))
        return conclude(walk, self.corrections)

    def propose(
        self, source: Path, request: Request, output: Path, overwrite: bool = False, imatrix: Path | None = None
    ) -> Proposal:
        """A job that leaves one core to the screen, checked, nothing written."""
        from .jobs import JobOptions, prepare, usable_cores

        if output.parent == self.paths.models:
            output.parent.mkdir(parents=True, exist_ok=True)
        workers = max(1, usable_cores() - 1)
        options = JobOptions(workers, overwrite=overwrite, library=self.paths.library, imatrix=imatrix)
        return prepare(self.jobs, source, request, output, options)

    def free_name(self, path: Path) -> Path:
        """`path`, or the first of NAME-2, NAME-3 ... beside it that nothing has yet and no job is making."""
        promised = {job.output for job in self.jobs.list() if job.status not in ("done", "cancelled")}
        number, free = 1, path
        while free.exists() or str(free.absolute()) in promised:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return free

    def output_folder(self, source: Path) -> Path:
        """Where a quantized `source` goes: the folder that the user chose, beside the source, or our own."""
        if chosen := self.profile.paths.output:
            return user_path(chosen)
        from .sample import SAMPLE

        if source != SAMPLE.model and os.access(source.parent, os.W_OK):
            return source.parent
        return self.paths.models

    def load(
        self,
        model: Path,
        on_progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        child: Child | None = None,
        **changes: object,
    ) -> Llama:
        """Load a model with the profile's settings and remember it as the latest; `changes` replace load settings.

        `child` is a process of llama.cpp's without a model, to be used instead of a new one.
        """
        from .llama import Llama

        settings = replace(self.load_settings(model), **changes)  # type: ignore[arg-type]
        llama = Llama.load(model, settings, self.paths.logs, on_progress, cancelled, child=child)
        self.change_profile(lambda profile: profile.with_recent(str(model)))
        return llama

    def load_settings(self, model: Path) -> LoadSettings:
        """Context and threads from the profile; a context that nobody chose is the model's own, up to 4,096 tokens.

        The file is mapped unless it would be in memory twice.
        """
        from .advice.speed import threads_for
        from .llama import LoadSettings, default_threads
        from .model import read_model

        chat, header = self.profile.chat, read_model(model)
        context = chat.context
        if not context:
            trained = header.get("{arch}.context_length")
            context = min(trained, DEFAULT_CONTEXT) if isinstance(trained, int) and trained > 0 else DEFAULT_CONTEXT
        most = default_threads()
        if hardware := self.profile.hardware:  # a container's share of the processor, which affinity does not tell
            most = min(most, max(1, hardware.cpu.whole_cores - 1))
        threads = chat.threads or threads_for(header.n_bytes, most)
        in_memory = self.better_read(header)
        return LoadSettings(context, threads=threads, prompt_threads=chat.threads or most, memory_map=not in_memory)

    def better_read(self, model: Model) -> bool:
        """True if a model had better be read than mapped, since it would be in memory twice."""
        from .advice.repack import better_read

        hardware = self.profile.hardware
        if hardware is None or (hardware.gpus and hardware.gpu_offload is not False):
            return False
        return better_read(model, hardware.cpu.features, hardware.memory.usable)

    def measured_quality(self, source: Path) -> dict[str, str]:
        """What was measured of quantizations of `source`, in words by level."""
        from .comparison import measured_quality

        return measured_quality(self.library.entries().entries, source)

    def imatrices(self, model: Model) -> tuple[Found, ...]:
        """Importance matrices at hand that fit a model, the best first."""
        from .imatrices import find

        return find(model, self.paths.imatrices, self.library.entries().entries)

    def calibrate(
        self,
        model: Path,
        corpus: Path,
        on_progress: Callable[[CalibrationProgress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Calibration:
        """Make an importance matrix in our own folder, under a name made of model and text; see `llama.calibrate`."""
        from .imatrices import home_of
        from .llama.calibrate import CalibrationSettings, calibrate
        from .llama.corpus import read_corpus

        read_corpus(corpus)
        self.paths.imatrices.mkdir(parents=True, exist_ok=True)
        output = home_of(self.paths.imatrices, model, corpus)
        settings = CalibrationSettings(threads=self.load_settings(model).prompt_threads)
        return calibrate(model, corpus, output, self.paths.logs, settings, on_progress, cancelled)

    @property
    def corrections(self) -> Corrections:
        """What was learned of this machine's speed."""
        from .advice import Corrections

        learned = self.profile.corrections
        return Corrections(cpu=learned.get(CPU_PACE), gpu=learned.get("gpu"))

    @property
    def program_bytes(self) -> int:
        """What a child takes beside the model: Python, numpy and llama.cpp's own code and tables."""
        return int(self.profile.corrections.get(PROGRAM, PROGRAM_BYTES))

    def correct(self, corrections: Corrections, program_bytes: int) -> None:
        """Keep what was learned of this machine: its speed, and `program_bytes`."""
        values = {CPU_PACE: corrections.cpu, "gpu": corrections.gpu, PROGRAM: float(program_bytes)}
        known = {name: round(value, 4) for name, value in values.items() if value is not None}
        self.change_profile(lambda profile: replace(profile, corrections={**profile.corrections, **known}))

    def sampling(self) -> Sampling:
        """How the next token is drawn, from the profile."""
        from .llama import Sampling

        chat = self.profile.chat
        return Sampling(chat.temperature, chat.top_k, chat.top_p, chat.min_p, chat.repeat_penalty, chat.seed)


def open_session(environ: Mapping[str, str]) -> Session:
    """The session that the environment describes: QUANTDECK_HOME or the system's folders, NO_COLOR."""
    return Session(Paths.from_environment(environ), no_color=bool(environ.get("NO_COLOR")))


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` and all. BadArgument if it names a home that nobody has."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadArgument(f"{printable(text)} begins with the home of nobody here; write the whole path.") from None


def model_path(name: str) -> Path:
    """The file that a user means: a path, or the word `sample`, the built-in model. ModelNotFound if there is none."""
    if not name.strip():
        raise BadArgument("The name of the model is empty; name a file, OWNER/NAME on the Hub, or sample.")
    path = user_path(name)
    if name == SAMPLE_WORD and not path.exists():
        from .sample import SAMPLE

        return SAMPLE.model
    if not _is_here(path):
        from .model.wording import shown

        raise ModelNotFound(f"There is no file {shown(name)}; {_hint(name)}.")
    return path.absolute()


def _is_here(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a name that no file can have
        return False


def _hint(name: str) -> str:
    """What somebody who wrote this name may have meant."""
    from .hub import parse_reference

    if reference := parse_reference(name):
        return f"if it is on the Hub, quantdeck hub download hf://{printable(str(reference))} fetches it"
    if "://" in name or name.lower().startswith(("hf.co/", "huggingface.co/")):
        return "addresses on the Hub are https://huggingface.co/OWNER/NAME, for a file with /blob/main/FILE"
    if "/" in name.strip("/.~"):
        return "check the name (on the Hub it is OWNER/NAME, OWNER/NAME/FILE or OWNER/NAME:LEVEL)"
    return "check the name, or use the word sample for the built-in model"


def hub_reference(name: str) -> Reference | None:
    """What a user's name for a model means on the Hub; None if it means something here, or nothing there."""
    from .hub import parse_reference

    reference = parse_reference(name)
    if reference is None or name == SAMPLE_WORD or _is_here(Path(user_path(name).parts[0])):
        return None
    return reference


def find_model(name: str, pre: str | None = None) -> Model:
    """The header of what a user means: a file here, `sample`, or OWNER/NAME, /FILE or :LEVEL behind it, on the Hub.

    `pre` names the pre-tokenizer of a checkpoint, as for `read_model`. ModelNotFound if there is no such model,
    AuthenticationNeeded and HubError as the Hub answers.
    """
    from .model import read_model

    reference = hub_reference(name)
    if reference is None:
        return read_model(model_path(name), pre)
    from .hub import Hub, read_remote

    return read_remote(Hub(), reference)
