"""The smoke test: ten fixed prompts, judged for emptiness, loops, broken text and, for the sample, right answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..sample import SAMPLE, Question
from .contract import ChatDone, Sampling, TextPiece
from .llama import Llama

Finding = Literal["fine", "empty", "loop", "broken text", "wrong answer", "cancelled", "context full"]

_GENERAL = (
    "What is the capital of France?",
    "What is 7 plus 5?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "What is the opposite of cold?",
    "Explain in one sentence what a computer is.",
    "Translate 'good morning' into Spanish.",
    "Write a Python line that prints hello.",
    "What comes after Monday?",
    "Say something kind.",
)
# Those of the 200 that the F16 sample answers word for word, one a subject.
_SAMPLE = (
    "What is the capital of Poland?",
    "What is 20 + 43?",
    "What does a sheep say?",
    "What is the opposite of far?",
    "Count to eight.",
    "How do you spell garden?",
    "Tell me the color of grass.",
    "What day comes after Tuesday?",
    "Which is larger, Q4_K_M or IQ1_S?",
    "What is the KV cache?",
)
_MAX_TOKENS = 160
_SHORTEST_LOOP = 24


@dataclass(frozen=True)
class SmokeResult:
    """One prompt and what came of it. `expected` is empty where any sound answer will do."""

    number: int
    total: int
    question: str
    answer: str
    expected: str
    finding: Finding
    tokens_per_second: float

    @property
    def fine(self) -> bool:
        """True if nothing is wrong."""
        return self.finding == "fine"


@dataclass(frozen=True)
class SmokeVerdict:
    """All results in words."""

    ok: bool
    text: str


def smoke_test(llama: Llama, questions: Sequence[Question] | None = None) -> Iterator[SmokeResult]:
    """Ask ten questions greedily, each in a conversation of its own; drop the iterator or `llama.cancel()` to stop.

    The sample is asked what it was trained on and must know the answers; `questions` replaces the prompts, an empty
    answer meaning that any sound text will do. Models that cannot chat are given the question to go on from.
    """
    asked = tuple(questions) if questions is not None else _questions_for(llama)
    for number, question in enumerate(asked, 1):
        answer, done = _ask(llama, question.question)
        finding = judge(answer, question.answer, done.reason)
        yield SmokeResult(
            number, len(asked), question.question, answer.strip(), question.answer, finding, done.tokens_per_second
        )
        if finding == "cancelled":
            return


def verdict(results: Sequence[SmokeResult]) -> SmokeVerdict:
    """The results in one sentence, with what to do."""
    if not results:
        return SmokeVerdict(False, "No prompt was answered.")
    if results[-1].finding == "cancelled":
        return SmokeVerdict(False, f"Stopped after {len(results) - 1} of {results[0].total} prompts.")
    bad = [result for result in results if not result.fine]
    if not bad:
        right = " and right" if any(result.expected for result in results) else ""
        return SmokeVerdict(True, f"All {len(results)} answers are sound{right}.")
    kinds: dict[str, int] = {}
    for result in bad:
        kinds[result.finding] = kinds.get(result.finding, 0) + 1
    told = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    # A tiny model may miss an answer at any level; more than that, or any broken text, is the quantization's fault.
    ok = len(bad) <= len(results) // 5 and not kinds.keys() & {"empty", "loop", "broken text"}
    advice = (
        "good enough for this level" if ok else "try a higher level, an importance matrix, or check the chat template"
    )
    return SmokeVerdict(ok, f"{len(results) - len(bad)} of {len(results)} answers are sound ({told}): {advice}.")


def judge(answer: str, expected: str = "", reason: str = "stop") -> Finding:
    """What is wrong with an answer, the worst first."""
    if reason == "cancelled":
        return "cancelled"
    if not answer.strip():
        return "context full" if reason == "context full" else "empty"
    if is_broken(answer):
        return "broken text"
    if has_loop(answer):
        return "loop"
    if expected and _plain(expected) not in _plain(answer):
        return "wrong answer"
    return "fine"


def is_broken(text: str) -> bool:
    """Replacement characters (undecodable bytes, control codes) or no letters or digits at all."""
    return "\ufffd" in text or not any(unicodedata.category(c)[0] in "LN" for c in text)


def has_loop(text: str) -> bool:
    """The same passage of up to 200 characters three times in a row, or one character twelve times."""
    squeezed = re.sub(r"\s+", " ", text.strip())
    if re.search(r"([^\s.\-=_*#])\1{11,}", squeezed):
        return True
    repeated = re.search(r"(.{4,200}?)\1\1", squeezed)
    return repeated is not None and len(repeated.group(0)) >= _SHORTEST_LOOP


def _ask(llama: Llama, question: str) -> tuple[str, ChatDone]:
    greedy = Sampling(temperature=0)
    if llama.info.can_chat:
        events = llama.chat([{"role": "user", "content": question}], greedy, _MAX_TOKENS)
    else:
        events = llama.complete(question, greedy, _MAX_TOKENS)
    text, done = "", None
    for event in events:
        if isinstance(event, TextPiece):
            text += event.text
        else:
            done = event
    assert done is not None, "every answer ends with ChatDone"
    return text, done


def _questions_for(llama: Llama) -> tuple[Question, ...]:
    if not SAMPLE.is_sample({"general.name": llama.info.name}):
        return tuple(Question(question, "") for question in _GENERAL)
    answers = {q.question: q for q in SAMPLE.questions}
    return tuple(answers[question] for question in _SAMPLE)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()
