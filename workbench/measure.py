"""Measure a model and keep what was found with the file it belongs to: quality, speed, memory, and the estimates."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comparison import Asked, Comparison
from .errors import BadArgument, ModelNotFound, QuantdeckError
from .files import hashes, is_full, sha256, write_atomically
from .library import Entry, EntryFile, Figure, Library
from .llama import Cancelled, Child, LoadSettings
from .llama.corpus import read_corpus
from .llama.evaluate import (
    Evaluation,
    EvaluationProgress,
    EvaluationSettings,
    QuestionScore,
    ask_questions,
    check_vocabularies,
    evaluate,
)
from .llama.llama import start
from .llama.trial import Trial, try_out
from .llama.troubles import DiskFull
from .model import Model, read_model
from .sample import SAMPLE, Question
from .text import printable

if TYPE_CHECKING:
    from .session import Session

MEASURED_ELSEWHERE = "measured here, made elsewhere"
_QUESTION_CONTEXT = 512
_TEXT_DIGITS = 16
_SURELY_ENOUGH = 32  # letters a token, on average over a text
_LARGEST_PROGRAM = 256 << 20
_LARGEST_QUESTIONS = 64 << 20
# A file is written before it is registered; clocks of network disks may be a little ahead.
_CLOCK_SLACK = 5.0

Details = Mapping[str, str | bool | int | float]


@dataclass(frozen=True)
class MeasureSettings:
    """What to measure: on which text, against which reference, with which questions.

    `questions` empty: none are asked. `evaluation.context` is also the context in which speed and memory are measured,
    unless `speed` is False.
    """

    corpus: Path
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    reference: Path | None = None
    keep_reference: bool = True
    questions: tuple[Question, ...] = ()
    questions_name: str = ""
    speed: bool = True


@dataclass(frozen=True)
class MeasureProgress:
    """Where a measurement stands: `stage` in words, the share of this stage that is done, and seconds left of it.

    `done` of `chunks` chunks, `resumed` of them by an earlier run; 0 chunks where the stage has none. `rate` in tokens
    a second of this run, 0 until it is known. `disk_bytes`: size of the reference logits that are being written, 0 if
    none are.
    """

    stage: str
    fraction: float
    seconds_left: float | None = None
    disk_bytes: int = 0
    done: int = 0
    chunks: int = 0
    resumed: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Estimated:
    """What had been expected, in bytes and tokens a second. Memory is 0 where cards hold a part of the model."""

    memory: int
    tokens_per_second: float


@dataclass(frozen=True)
class Speed:
    """Speed and memory as they were, and as they had been expected."""

    trial: Trial
    estimated: Estimated


@dataclass(frozen=True)
class Measurement:
    """One model, measured. `questions` and `speed` are None if they were left out. `notes` are things to know."""

    path: Path
    entry: Entry
    evaluation: Evaluation
    questions: QuestionScore | None
    speed: Speed | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: bytes, seconds, tokens a second, shares from 0 to 1."""
        return {
            "model": str(self.path),
            "sha256": self.entry.sha256,
            "level": self.entry.level,
            "bytes": self.entry.n_bytes,
            "bits_per_weight": self.entry.bits_per_weight,
            **asdict(self.evaluation),
            **_speed_document(self.speed),
            "questions": asdict(self.questions) if self.questions else None,
            "notes": list(self.notes),
        }


def _speed_document(speed: Speed | None) -> dict[str, Any]:
    """The trial's speeds, at half the context, are those that estimates speak of. All null if it was left out."""
    names = ("tokens_per_second", "prompt_tokens_per_second", "load_seconds", "peak_memory", "context")
    found = {name: getattr(speed.trial, name) if speed else None for name in names}
    return found | {"estimated": asdict(speed.estimated) if speed else None}


def measure(
    session: Session,
    path: Path,
    settings: MeasureSettings,
    on_progress: Callable[[MeasureProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    child: Child | None = None,
) -> Measurement:
    """Measure the model at `path`, keep the figures in the library and what was learned of the machine; blocks.

    Called again after a cancel or a crash, the evaluation goes on after its last whole chunk, the questions after the
    last one that was answered. `child` is a process of llama.cpp's without a model; it is used up.
    Raises `Cancelled`, `LlamaFailed`, BadArgument, ModelNotFound, ValidationFailed.
    """
    model = read_model(path)
    on_progress(MeasureProgress("reading the file", 0.0))
    running = child or Child(session.paths.logs, service="evaluate", threads=settings.evaluation.threads)
    with contextlib.closing(running), full_disk_named(evaluations(session)):
        check(session, path, settings, cancelled)
        entry = entry_of(session.library, path, model)
        load = _load_settings(session, path, settings)
        run = _Run(session, model, path, settings, load, on_progress, cancelled)
        speed = run.try_out(running) if settings.speed else None
        answered = _Answered(evaluations(session), entry, settings.questions)
        loaded = None
        if settings.questions:
            running.close()  # the model would be in memory twice
        elif speed:
            loaded = running
        else:
            loaded, _ = start(path, load, session.paths.logs, None, cancelled, None, "evaluate", running)
        questions, notes = run.ask(answered)
        evaluation = run.evaluate(loaded)
    result = Measurement(path, entry, evaluation, questions, speed, tuple(notes))
    answered.forget()
    try:
        entry = session.library.add_figures(entry.sha256, *figures(result, settings))
    except QuantdeckError as error:
        notes.append(f"The figures could not be kept: {error}")
    return replace(result, entry=entry, notes=tuple(notes))


def check(
    session: Session, path: Path, settings: MeasureSettings, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """What can be known to go wrong, before anything is computed: the text, the model's kind, the reference's words.

    Raises `Cancelled`, `LlamaFailed`, BadArgument, ModelNotFound, ValidationFailed.
    """
    read_corpus(settings.corpus)
    for each in filter(None, (path, settings.reference)):
        if why := why_no_perplexity(read_model(each)):
            raise BadArgument(f"{printable(each.name)} has no perplexity to measure: {why}.")
    if settings.reference is not None:
        check_vocabularies(path, settings.reference)
    e = settings.evaluation
    check_length(session, path, settings.corpus, e.context, e.parse_special, e.gpu_layers, cancelled)


def why_no_perplexity(model: Model) -> str:
    """Why a model cannot be scored on the next word of a text, in a clause; empty if it can."""
    from .advice.cache import DIFFUSION, ENCODERS

    if model.architecture in DIFFUSION:
        return "it writes by diffusion, not word by word"
    if model.architecture in ENCODERS or model.get("{arch}.attention.causal") is False:
        return "it turns text into numbers and writes none"
    if model.architecture == "t5":
        return "it rewrites texts (encoder and decoder) instead of going on with them"
    if not model.get("tokenizer.ggml.tokens"):
        return "it has no vocabulary to read texts with"
    return ""


def check_length(
    session: Session,
    path: Path,
    corpus: Path,
    context: int,
    parse_special: bool | None = None,
    gpu_layers: int = -1,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """BadArgument if the text does not fill one chunk. Only a short one is counted, for which the model is loaded.

    Conversations are left to the evaluation itself, since only the model's template tells how long they get.
    """
    documents = read_corpus(corpus)
    text = "\n".join(document.text for document in documents)
    if any(document.messages for document in documents) or len(text) > _SURELY_ENOUGH * context:
        return
    with session.load(path, None, cancelled, context=_QUESTION_CONTEXT, gpu_layers=gpu_layers) as llama:
        n = len(llama.tokenize(text, add_special=True, parse_special=parse_special is not False))
    if n < context:
        raise BadArgument(
            f"{printable(corpus.name)} has {n} tokens, fewer than one chunk of {context}; "
            "take more text or a smaller context."
        )


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Where the disk of `folder` gets full, say which it is and what becomes of the work."""
    try:
        yield
    except (DiskFull, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise QuantdeckError(
            f"The disk with {printable(str(folder.absolute()))} is full; make room there, "
            "then the same again goes on after the last whole chunk."
        ) from error


def evaluations(session: Session) -> Path:
    """Where reference logits and unfinished evaluations are kept."""
    return session.paths.cache / "evaluations"


def entry_of(library: Library, path: Path, model: Model) -> Entry:
    """The library's entry of a model; one that is not registered yet is hashed and registered as made elsewhere.

    Files of the size and the age that the library knows are taken to be those it knows.
    """
    paths = [file.absolute() for file in model.files]
    statuses = [file.stat() for file in paths]
    n_bytes = sum(status.st_size for status in statuses)
    known = library.find(model.path)
    if known and known.n_bytes == n_bytes:
        with contextlib.suppress(ValueError, OverflowError):  # others may have written the register
            registered = datetime.fromisoformat(known.created_at).timestamp()
            if max(status.st_mtime for status in statuses) <= registered + _CLOCK_SLACK:
                return known
    found = hashes(paths)
    if same := library.get(found.all):
        return same
    rows = zip(paths, statuses, found.each, strict=True)
    files = tuple(EntryFile(str(file), status.st_size, digest) for file, status, digest in rows)
    from .advice.candidates import level_of

    entry = Entry(
        sha256=found.all,
        path=str(paths[0]),
        source="",
        source_fingerprint="",
        architecture=model.architecture,
        level=level_of(model),
        n_bytes=n_bytes,
        ratio=1.0,
        bits_per_weight=model.bits_per_weight,
        seconds=0.0,
        created_at=_now(),
        verification=MEASURED_ELSEWHERE,
        files=files if len(files) > 1 else (),
    )
    library.add(entry)
    return entry


def estimate(session: Session, model: Model, context: int, threads: int | None = None) -> Estimated:
    """What this program expects of `model` as it is, on this machine, with what was learned so far.

    `threads` None: as many as chats take.
    """
    from .advice import Estimator, Setup
    from .advice.fit import vocabulary_bytes
    from .advice.machine import this_machine
    from .advice.repack import repacked_bytes

    machine = this_machine(*session.machine(model.path.parent))
    setup = Setup(context, threads=threads or session.profile.chat.threads)
    estimator = Estimator(model)
    row = estimator.as_it_is(machine, setup, session.corrections)
    if row.placement.where != "cpu":
        return Estimated(0, row.tokens_per_second)
    run, program = estimator.running(setup), session.program_bytes + vocabulary_bytes(model)
    if not session.better_read(model) and (known := session.profile.hardware):
        program += repacked_bytes(model, known.cpu.features)  # beside the file itself
    return Estimated(row.memory.weights + run.kv_cache + run.touched + program, row.tokens_per_second)


def learn(session: Session, model: Model, trial: Trial, estimated: Estimated) -> None:
    """Keep in the profile how fast this machine really is, and what the program itself takes of its memory."""
    from .advice import Estimator, Setup
    from .advice.machine import this_machine

    machine = this_machine(*session.machine(model.path.parent))
    setup = Setup(trial.context, threads=trial.threads)
    corrections = Estimator(model).learned(machine, setup, trial.tokens_per_second, session.corrections)
    program = session.program_bytes
    if estimated.memory and trial.peak_memory:
        # Half-way, so that one odd run does not spoil what many have taught.
        program += (trial.peak_memory - estimated.memory) // 2
    session.correct(corrections, min(_LARGEST_PROGRAM, max(0, program)))


def figures(result: Measurement, settings: MeasureSettings) -> list[Figure]:
    """A measurement as the library keeps it: every figure with what it depends on."""
    now, e = _now(), result.evaluation
    text: Details = {
        "text": settings.corpus.name,
        "text_sha256": sha256(settings.corpus)[:_TEXT_DIGITS],
        "context": settings.evaluation.context,
        "chunks": e.chunks,
        "parse_special": e.parse_special,
        "text_path": str(settings.corpus.absolute()),
        "asked_chunks": settings.evaluation.chunks,
        "asked_special": "auto" if settings.evaluation.parse_special is None else settings.evaluation.parse_special,
    }
    found = [Figure("perplexity", e.perplexity.value, now, {"error": e.perplexity.error, "scored": e.scored, **text})]
    if e.divergence and settings.reference:
        d = e.divergence
        where = str(settings.reference.resolve())
        asked = str(settings.reference.absolute())  # logits are kept by this name, which may be that of a link
        against: Details = {
            **text,
            "reference": settings.reference.name,
            "reference_path": where,
            "asked_reference": asked,
        }
        tail = {"median": d.kl_median, "percentile_99": d.kl_99, "maximum": d.kl_max}
        found += [
            Figure("kl_divergence", d.kl.value, now, {"error": d.kl.error, **tail, **against}),
            Figure("same_top", d.same_top.value, now, {"error": d.same_top.error, **against}),
            Figure("rms_p", d.rms_p.value, now, {"error": d.rms_p.error, **against}),
        ]
    if q := result.questions:
        details: Details = {"contains": q.contains, "total": q.total, "questions": settings.questions_name}
        found.append(Figure("question_score", q.exact / max(1, q.total), now, details))
    return found + (_speed_figures(result.speed, now) if result.speed else [])


def _speed_figures(speed: Speed, now: str) -> list[Figure]:
    trial, estimated = speed.trial, speed.estimated
    how: Details = {"context": trial.context, "threads": trial.threads}
    reading: Details = {"context": trial.context, "threads": trial.prompt_threads}
    return [
        Figure("tokens_per_second", trial.tokens_per_second, now, {**how, "estimated": estimated.tokens_per_second}),
        Figure("prompt_tokens_per_second", trial.prompt_tokens_per_second, now, reading),
        Figure("load_seconds", trial.load_seconds, now, {}),
        Figure("peak_memory", trial.peak_memory, now, {**how, "estimated": estimated.memory}),
    ]


def read_questions(path: Path) -> tuple[Question, ...]:
    """A JSONL file, each line an object with `question` and `answer`. ModelNotFound or BadArgument in words."""
    name = printable(path.name)
    try:
        if path.stat().st_size > _LARGEST_QUESTIONS:
            raise BadArgument(f"{name} is too large for a file of questions; take a part of it.")
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadArgument(f"{name} is no UTF-8 text; convert it first.") from None
    except OSError as error:
        raise ModelNotFound(f"The questions {name} cannot be read: {error.strerror}.") from error
    questions = [_question(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise BadArgument(f"{name} holds no questions.")
    return tuple(questions)


def _question(line: str, place: str) -> Question:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        item = None
    if isinstance(item, dict) and isinstance(item.get("question"), str) and isinstance(item.get("answer"), str):
        return Question(item["question"], item["answer"])
    raise BadArgument(f'{place} must be an object such as {{"question": "...", "answer": "..."}}.')


def default_settings(model: Path, evaluation: EvaluationSettings, reference: Path | None = None) -> MeasureSettings:
    """The built-in text; the built-in questions too where the model is the sample or comes from it."""
    settings = MeasureSettings(SAMPLE.eval_file, evaluation, reference)
    if SAMPLE.is_sample(read_model(model).metadata):
        return replace(settings, questions=SAMPLE.questions, questions_name="qa.jsonl")
    return settings


def text_of(table: Comparison, asked: Asked | None, chosen: Path | None) -> Path | None:
    """The text of a table's figures, if it is `chosen`; without a choice wherever it still is. None: another one."""
    if table.basis is None or asked is None:
        return None
    places = [chosen] if chosen else [Path(asked.text_path), SAMPLE.eval_file]
    for place in places:
        with contextlib.suppress(OSError):
            if place.is_file() and sha256(place)[:_TEXT_DIGITS] == table.basis.text_sha256:
                return place
    return None


def settings_like(table: Comparison, asked: Asked, text: Path, path: Path, source: Path | None) -> MeasureSettings:
    """Settings that give the model at `path` a full row in a table: its text, windows, markers and reference.

    Where the table has no reference, `source` is one. A model whose words are not the reference's gets none.
    """
    assert table.basis is not None
    reference = _reference_for(path, Path(asked.reference_path)) if asked.reference_path else source
    # What was asked for finds the reference's logits again. Without them, the very numbers hold for any vocabulary.
    chunks, special = table.basis.chunks, table.basis.parse_special
    if reference:
        evaluation = EvaluationSettings(asked.context, asked.chunks, asked.parse_special)
    else:
        evaluation = EvaluationSettings(asked.context, chunks, special)
    return replace(default_settings(path, evaluation, reference), corpus=text)


def _reference_for(path: Path, reference: Path) -> Path | None:
    if not reference.is_file() or reference.resolve() == path.resolve():
        return None
    try:
        check_vocabularies(path, reference)
    except QuantdeckError:
        return None
    return reference


@dataclass(frozen=True)
class _Run:
    """One call of `measure`: what is measured and how, and who hears of it."""

    session: Session
    model: Model
    path: Path
    settings: MeasureSettings
    load: LoadSettings
    on_progress: Callable[[MeasureProgress], None]
    cancelled: Callable[[], bool]

    def try_out(self, child: Child) -> Speed:
        """Measure speed and memory in `child`, which keeps the model, and learn from it."""
        context = self.settings.evaluation.context
        estimated = estimate(self.session, self.model, context, self.settings.evaluation.threads)

        def heard(share: float) -> None:
            self.on_progress(MeasureProgress("measuring speed and memory", share))

        heard(0.0)
        load = replace(self.load, context=context)
        trial = try_out(self.model.path, load, self.session.paths.logs, heard, self.cancelled, child=child)
        learn(self.session, self.model, trial, estimated)
        return Speed(trial, estimated)

    def evaluate(self, child: Child | None) -> Evaluation:
        """Measure quality on the text, in `child` if it has the model already."""
        names = {"reference": "logits of the reference", "model": "quality"}
        settings = self.settings
        begun: dict[str, tuple[int, float]] = {}  # chunks from before and seconds until the first new one began

        def heard(p: EvaluationProgress) -> None:
            resumed, started = begun.setdefault(p.what, (p.done, p.seconds))
            new, seconds = p.done - resumed, p.seconds - started
            rate = new * settings.evaluation.context / seconds if new and seconds > 0 else 0.0
            left = p.seconds_left if new else None
            share = p.done / max(1, p.chunks)
            self.on_progress(MeasureProgress(names[p.what], share, left, p.disk_bytes, p.done, p.chunks, resumed, rate))

        reference = settings.reference
        if reference is not None and reference.resolve() == self.path.resolve():
            reference = None  # a model against itself says nothing
        return evaluate(
            self.path,
            settings.corpus,
            evaluations(self.session),
            self.session.paths.logs,
            replace(settings.evaluation, threads=self.load.prompt_threads),
            reference,
            settings.keep_reference,
            heard,
            self.cancelled,
            child=child,
        )

    def ask(self, answered: _Answered) -> tuple[QuestionScore | None, list[str]]:
        """Ask the questions that are not answered yet; the score of all, and what there is to know."""
        questions = self.settings.questions
        if not questions:
            return None, []
        todo = questions[answered.score.total :]
        if not todo:
            return answered.score, []
        before = answered.score
        gpu_layers = self.settings.evaluation.gpu_layers
        with self.session.load(
            self.path, None, self.cancelled, context=_QUESTION_CONTEXT, gpu_layers=gpu_layers
        ) as llama:
            if not llama.info.can_chat:
                return None, [f"No questions were asked: {llama.info.why_not}"]

            def heard(score: QuestionScore, _: int) -> None:
                answered.keep(_sum(before, score))
                if self.cancelled():
                    raise Cancelled("The questions were stopped; called again, it goes on after the last answer.")
                self.on_progress(MeasureProgress("questions", answered.score.total / len(questions)))

            return _sum(before, ask_questions(llama, todo, heard)), []


def _sum(a: QuestionScore, b: QuestionScore) -> QuestionScore:
    return QuestionScore(a.exact + b.exact, a.contains + b.contains, a.total + b.total)


class _Answered:
    """The score so far of a model on a set of questions, on disk."""

    def __init__(self, folder: Path, entry: Entry, questions: tuple[Question, ...]) -> None:
        what = hashlib.sha256(repr((entry.sha256, questions)).encode()).hexdigest()[:32]
        self._file = folder / f"{what}.answers"
        self.score = QuestionScore(0, 0, 0)
        with contextlib.suppress(OSError, ValueError, TypeError):
            numbers = json.loads(self._file.read_text())
            if 0 <= numbers["exact"] <= numbers["total"] <= len(questions):
                self.score = QuestionScore(**numbers)
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, score: QuestionScore) -> None:
        self.score = score
        write_atomically(self._file, json.dumps(asdict(score)).encode())

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


def _load_settings(session: Session, path: Path, settings: MeasureSettings) -> LoadSettings:
    e = settings.evaluation
    usual = session.load_settings(path)
    threads, prompt_threads = e.threads or usual.threads, e.threads or usual.prompt_threads
    return replace(usual, threads=threads, prompt_threads=prompt_threads, gpu_layers=e.gpu_layers)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
