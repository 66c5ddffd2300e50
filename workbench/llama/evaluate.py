"""Evaluate: perplexity, and what a quantization changed, by llama.cpp's protocol (llama-perplexity, `--kl-divergence`).

Windows of `context` tokens, the first token BOS where the vocabulary wants one; the second half of each is scored.
Standard errors are those of llama.cpp: of the mean over scored tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BadArgument
from ..files import sha256
from ..model import read_model
from ..sample import Question
from ..text import printable
from .contract import ChatDone, LoadSettings, Sampling, TextPiece
from .corpus import read_corpus
from .host import Child, Patience
from .llama import Llama, Watch, start
from .troubles import Cancelled
from .wire import Line

KEPT_DAYS = 30
"""How long reference logits and unfinished evaluations are kept after their last use."""

_LONGEST_ANSWER = 160
_SAME_WORDS = 0.99  # some quantizers rename a few reserved words


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate. `context` tokens a window; `chunks` 0 for all; `parse_special` None decides by the text.

    llama-perplexity never parses special tokens: set it to False to compare with it on texts with chat markers.
    """

    context: int = 512
    chunks: int = 0
    parse_special: bool | None = None
    threads: int | None = None
    gpu_layers: int = -1


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Divergence:
    """How far a model is from its reference, per scored token.

    `kl` in nats, `same_top` and `rms_p` (root mean square change of the probability of the true token) as fractions;
    `ln_ratio` is ln(perplexity / perplexity of the reference). The reference's perplexity can be lower here than its
    own: as in llama.cpp, its probabilities are cut off 16 nats below the likeliest word.
    """

    kl: Estimate
    kl_median: float
    kl_99: float
    kl_999: float
    kl_max: float
    same_top: Estimate
    rms_p: Estimate
    reference_perplexity: Estimate
    ln_ratio: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on `scored` tokens of `tokens`. `resumed` chunks came from an earlier run."""

    perplexity: Estimate
    divergence: Divergence | None
    chunks: int
    tokens: int
    scored: int
    parse_special: bool
    resumed: int
    seconds: float


@dataclass(frozen=True)
class EvaluationProgress:
    """Where an evaluation stands. `what` is "reference" while the reference's logits are made, else "model".

    `disk_bytes`: size of the reference logits that are being written, 0 if none are.
    """

    what: str
    done: int
    chunks: int
    seconds: float
    seconds_left: float
    disk_bytes: int


def evaluate(
    model: Path,
    corpus: Path,
    cache: Path,
    log_folder: Path,
    settings: EvaluationSettings | None = None,
    reference: Path | None = None,
    keep_reference: bool = True,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience | None = None,
    child: Child | None = None,
) -> Evaluation:
    """Measure `model` on `corpus` (see `read_corpus`), against `reference` if there is one; blocks.

    `keep_reference` writes the reference's logits into `cache` once, for this and all later models (two bytes per word
    of the vocabulary and scored token: `reference_bytes`); without it both models compute in lock step, and no file is
    made. Called again after a cancel or a crash, it goes on after the last whole chunk.
    `child` is one in which `model` is loaded; it is used up.
    Raises `Cancelled`, `LlamaFailed`, and BadArgument for texts, settings, or a reference with another vocabulary.
    """
    settings = settings or EvaluationSettings()
    _check(settings)
    read_corpus(corpus)  # its faults are told before a model is loaded
    if reference is not None:
        check_vocabularies(model, reference)
    cache.mkdir(parents=True, exist_ok=True)
    forget_unused(cache)
    run = _Run(corpus, cache, log_folder, settings, on_progress, cancelled, patience)
    if reference is None:
        return run.measure(model, "model", {}, child=child)
    if not keep_reference:
        return run.measure(model, "model", {"reference": str(reference.absolute())}, str(_stamp(reference)), child)
    from .reference_file import is_whole

    logits = reference_logits(cache, reference, corpus, settings)
    if is_whole(logits):
        logits.touch()  # it is in use
    else:  # there is none, or it was cut
        if child is not None:
            child.close()  # memory that is enough for each model need not be enough for both
            child = None
        partial = logits.with_suffix(".partial")
        run.measure(reference, "reference", {"write_to": str(partial.absolute())})
        partial.replace(logits)
    return run.measure(model, "model", {"read_from": str(logits.absolute())}, child=child)


def forget_unused(cache: Path) -> None:
    """Remove logits and unfinished evaluations that nobody has used for KEPT_DAYS; they can be made again."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for file in cache.iterdir():
        with contextlib.suppress(OSError):
            if file.suffix in (".logits", ".partial", ".scores", ".answers") and file.stat().st_mtime < oldest:
                file.unlink()


def check_vocabularies(model: Path, reference: Path) -> None:
    """BadArgument if the words of two models are not the same: probabilities of other words cannot be compared."""
    words, others = (read_model(path).get("tokenizer.ggml.tokens", ()) for path in (model, reference))
    names = f"{printable(model.name)} and its reference {printable(reference.name)}"
    if len(words) != len(others):
        raise BadArgument(f"{names} have different vocabularies ({len(words)} and {len(others)} words): no comparison.")
    same = sum(a == b for a, b in zip(words, others, strict=True))
    if same < _SAME_WORDS * len(words):
        raise BadArgument(f"{names} have different vocabularies ({same} of {len(words)} words agree): no comparison.")


def reference_logits(cache: Path, reference: Path, corpus: Path, settings: EvaluationSettings) -> Path:
    """Where the logits of a reference on a text are kept; another name for another file, text or setting."""
    what = (_stamp(reference), sha256(corpus), settings.context, settings.chunks, settings.parse_special)
    return cache / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.logits"


@dataclass(frozen=True)
class QuestionScore:
    """Answers held against known ones: word for word, or with the known answer somewhere in them."""

    exact: int
    contains: int
    total: int


def ask_questions(
    llama: Llama, questions: Sequence[Question], on_progress: Callable[[QuestionScore, int], None] | None = None
) -> QuestionScore:
    """Ask all questions greedily, each on its own; `on_progress` hears the score so far and the number of questions."""
    exact = contains = asked = 0
    for question in questions:
        text = ""
        for event in llama.chat([{"role": "user", "content": question.question}], Sampling(0), _LONGEST_ANSWER):
            if isinstance(event, TextPiece):
                text += event.text
            elif isinstance(event, ChatDone) and event.reason == "cancelled":
                return QuestionScore(exact, contains, asked)
        asked += 1
        exact += text.strip() == question.answer.strip()
        contains += question.answer.strip().casefold() in text.casefold()
        if on_progress is not None:
            on_progress(QuestionScore(exact, contains, asked), len(questions))
    return QuestionScore(exact, contains, asked)


class _Run:
    """One call of `evaluate`: its inputs, and the children that it starts."""

    def __init__(
        self,
        corpus: Path,
        cache: Path,
        log_folder: Path,
        settings: EvaluationSettings,
        on_progress: Callable[[EvaluationProgress], None] | None,
        cancelled: Callable[[], bool] | None,
        patience: Patience | None,
    ) -> None:
        self.corpus = corpus
        self.cache = cache
        self.log_folder = log_folder
        self.settings = settings
        self.on_progress = on_progress
        self.cancelled = cancelled
        self.patience = patience

    def measure(
        self, model: Path, what: str, source: dict[str, str], more: str = "", child: Child | None = None
    ) -> Evaluation:
        """Score one model in a child of its own, or in `child`, which has it already.

        `more` tells apart runs whose arguments look the same.
        """
        began = time.monotonic()
        s = self.settings
        if child is None:
            load = LoadSettings(threads=s.threads, gpu_layers=s.gpu_layers)
            child, _ = start(model, load, self.log_folder, None, self.cancelled, self.patience, "evaluate")
        stamp = f"{_stamp(model)} {more}"
        name = hashlib.sha256(repr((stamp, sha256(self.corpus), s, source)).encode()).hexdigest()[:32]
        scores = self.cache / f"{name}.scores"
        arguments = {"scores": str(scores.absolute()), "model": stamp, **source}
        try:
            begun = self._request(child, model, what, arguments, began)
        finally:
            child.close()
        from .summary import read_scores, summarize

        table = read_scores(scores, s.context)
        scores.unlink(missing_ok=True)
        perplexity, divergence = summarize(table, "reference" in source or "read_from" in source)
        return Evaluation(
            perplexity,
            divergence,
            chunks=begun["chunks"],
            tokens=begun["tokens"],
            scored=table.shape[1],
            parse_special=begun["parse_special"],
            resumed=begun["done"],
            seconds=time.monotonic() - began,
        )

    def _request(self, child: Child, model: Path, what: str, arguments: dict[str, Any], began: float) -> Line:
        """The event `begun`, once all is done."""
        s = self.settings
        begun: Line = {}
        line: Line = {}
        with Watch(self.cancelled, child):
            request = child.request(
                f"{printable(model.name)} could not be evaluated",
                "evaluate",
                corpus=str(self.corpus.absolute()),
                context=s.context,
                chunks=s.chunks,
                parse_special=s.parse_special,
                **arguments,
            )
            for line in request:
                if line["event"] == "begun":
                    begun, started = line, time.monotonic()
                    import_module(".summary", __package__)  # takes its time, and now the child is busy anyway
                if line["event"] in ("begun", "chunk"):
                    self._tell(what, begun, int(line["done"]), began, started)
        if line.get("cancelled"):
            raise Cancelled("Evaluation was stopped; called again, it goes on after the last whole chunk.")
        return begun

    def _tell(self, what: str, begun: Line, done: int, began: float, started: float) -> None:
        if self.on_progress is None:
            return
        now = time.monotonic()
        left = (now - started) / max(1, done - begun["done"]) * (begun["chunks"] - done)
        self.on_progress(EvaluationProgress(what, done, begun["chunks"], now - began, left, begun["bytes"]))


def _stamp(model: Path) -> str:
    status = model.stat() if model.exists() else None
    return f"{model.absolute()} {status.st_size} {status.st_mtime_ns}" if status else str(model)


def _check(settings: EvaluationSettings) -> None:
    if not 32 <= settings.context <= 1 << 20:
        raise BadArgument(
            f"Windows of {settings.context} tokens are not possible; choose 32 to {1 << 20}, usually 512."
        )
    if settings.chunks < 0:
        raise BadArgument("The number of chunks cannot be negative; 0 takes the whole text.")
