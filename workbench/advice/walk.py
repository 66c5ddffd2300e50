"""Walking the decision trees: one question at a time, each with an answer filled in and the reason for it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import BadArgument
from ..hardware import Bandwidth, Hardware
from ..model import Model
from ..text import size
from . import data
from .candidates import Estimator, Writable
from .data import Question, Result
from .facts import Facts
from .fit import Setup
from .machine import Machine, OtherMachine, other_machine, this_machine

Given = str | int

# A machine that is described with graphics memory has a card, and one without has none.
_KINDS_WITH_CARD = {
    True: {"modern": "nvidia", "old": "nvidia"},
    False: {"nvidia": "modern", "other_gpu": "modern"},
}


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a model: the goal, and how it is to be run. None: whatever suits.

    `other` describes another machine; without it the one that was looked at counts. `overrides` are answers that
    differ from those that the trees would fill in, by question.
    """

    goal: str = "balanced"
    context: int | None = None
    users: int | None = None
    cache: str | None = None
    other: OtherMachine | None = None
    overrides: Mapping[str, Given] = field(default_factory=dict)

    def answers(self) -> dict[str, Given]:
        """The wish as answers to questions."""
        kind = _KINDS_WITH_CARD[bool(self.other.vram)].get(self.other.kind, self.other.kind) if self.other else ""
        given: dict[str, Given | None] = {
            "target": "another" if self.other else "this",
            "goal": self.goal,
            "context": self.context,
            "users": self.users,
            "cache": self.cache,
        }
        if self.other:
            given |= {"kind": kind, "ram": self.other.ram, "vram": self.other.vram or None}
        return {key: answer for key, answer in given.items() if answer is not None} | dict(self.overrides)


@dataclass(frozen=True)
class Step:
    """A question that has been answered, in words. `by_user` is False where the answer filled in was taken unasked."""

    question: Question
    answer: Given
    words: str
    because: str
    by_user: bool


@dataclass(frozen=True)
class _Situation:
    """What the walk is about; it does not change on the way."""

    estimator: Estimator
    hardware: Hardware
    measured: Bandwidth | None


@dataclass(frozen=True)
class Walk:
    """A place in the trees. Never changes: `answer` and `back` return the next place.

    `question` is the one to show, None at the end. Questions that the facts answer are passed by, and stand in `path`.
    """

    _situation: _Situation
    _answers: Mapping[str, Given]
    _remembered: Mapping[str, Given] = field(default_factory=dict)
    _stop_at: str = ""

    @classmethod
    def begin(
        cls,
        model: Model,
        hardware: Hardware,
        measured: Bandwidth | None = None,
        *,
        writable: Writable | None = None,
        estimator: Estimator | None = None,
    ) -> Walk:
        """At the first question. An `estimator` that is kept from an earlier walk saves computing sizes again."""
        return cls(_Situation(estimator or Estimator(model, writable), hardware, measured), {})

    def granted(self, wish: Wish) -> Walk:
        """The end of a walk with these answers; what the wish leaves open is answered as it is filled in.

        Raises:
            BadArgument: the wish holds an answer that there is not.
        """
        walk = Walk(self._situation, wish.answers())
        while not walk.done:
            walk = walk.answer()
        return walk

    @property
    def question(self) -> Question | None:
        """The question to show, None if all are answered."""
        return self._track.question

    @property
    def path(self) -> tuple[Step, ...]:
        """All questions up to here with their answers, those that were passed by too."""
        return self._track.steps

    @property
    def results(self) -> tuple[Result, ...]:
        """What the trees have come to so far, in their order."""
        return self._track.results

    @property
    def done(self) -> bool:
        """True at the end."""
        return self._track.question is None

    @property
    def filled_in(self) -> tuple[Given, str]:
        """The answer to offer for the question at hand, and why; an answer given before comes back."""
        question = self._track.question
        if question is None:
            raise BadArgument("All questions have been answered.")
        answer, because = _fill_in(question, self.facts)
        given = self._remembered.get(question.id)
        return (answer, because) if given is None else (given, "your answer before")

    @property
    def facts(self) -> Facts:
        """The facts as they stand here."""
        return self._track.facts

    @property
    def machine(self) -> Machine:
        """The machine that the model is to run on, as far as it has been answered."""
        return self._track.machine

    @property
    def setup(self) -> Setup:
        """How it is to be run, as far as it has been answered."""
        return self.facts.setup

    @property
    def estimator(self) -> Estimator:
        """Sizes of the model at all levels."""
        return self._situation.estimator

    def answer(self, given: Given | None = None) -> Walk:
        """The next place, after this answer (None: the one filled in). BadArgument for one that there is not."""
        question = self._track.question
        if question is None:
            raise BadArgument("All questions have been answered.")
        chosen = self.filled_in[0] if given is None else _check(question, given, self.facts)
        return replace(self, _answers={**self._answers, question.id: chosen}, _stop_at="")

    def back(self) -> Walk:
        """At the last question that was shown, with its answer filled in; the same place at the very first one."""
        shown = [step.question.id for step in self.path if step.by_user]
        return self.at(shown[-1]) if shown else self

    def at(self, question: str) -> Walk:
        """At a question of the path, also one that was passed by. BadArgument if it is not on the path.

        Answers from there on are filled in again, for the user to confirm or change.
        """
        ids = [step.question.id for step in self.path]
        if question not in ids:
            raise BadArgument(f"The question {question!r} has not come up.")
        kept = {key: answer for key, answer in self._answers.items() if key in ids[: ids.index(question)]}
        return replace(self, _answers=kept, _remembered={**self._remembered, **self._answers}, _stop_at=question)

    def wish(self) -> Wish:
        """What the answers amount to; overrides are the answers to questions that are usually passed by."""
        given = {step.question.id: step.answer for step in self.path}
        plain = {"target", "kind", "ram", "vram", "goal", "context", "users", "cache"}
        other = None
        if given.get("target") == "another":
            other = OtherMachine(str(given["kind"]), int(given["ram"]), int(given.get("vram", 0)))
        return Wish(
            goal=str(given.get("goal", "balanced")),
            context=int(given["context"]) if "context" in given else None,
            users=int(given["users"]) if "users" in given else None,
            cache=str(given["cache"]) if "cache" in given else None,
            other=other,
            overrides={s.question.id: s.answer for s in self.path if s.by_user and s.question.id not in plain},
        )

    @cached_property
    def _track(self) -> _Track:
        return _follow(self._situation, self._answers, self._stop_at)


@dataclass(frozen=True)
class _Track:
    """The way from the start that the answers make."""

    steps: tuple[Step, ...]
    results: tuple[Result, ...]
    question: Question | None
    facts: Facts
    machine: Machine


def _follow(situation: _Situation, answers: Mapping[str, Given], stop_at: str) -> _Track:
    trees = data.trees()
    steps: list[Step] = []
    results: list[Result] = []
    known: dict[str, Given] = {}
    machine = this_machine(situation.hardware, situation.measured)
    facts = Facts(situation.estimator, machine, known)
    here = trees.start
    while here:
        if here in trees.results:
            results.append(trees.results[here])
            here = trees.results[here].next
            facts = Facts(situation.estimator, machine, known, _levels(results))
            continue
        question = trees.questions[here]
        asked = bool(question.ask.evaluate(facts.get))
        by_user = question.id in answers
        if here == stop_at or (asked and not by_user):
            return _Track(tuple(steps), tuple(results), question, facts, machine)
        filled_in, because = _fill_in(question, facts)
        answer = _check(question, answers[question.id], facts) if by_user else filled_in
        reason = because if answer == filled_in else "your answer"
        steps.append(Step(question, answer, _in_words(question, answer), reason, by_user))
        known = {**known, question.id: answer}
        machine = _machine(situation, known)
        facts = Facts(situation.estimator, machine, known, _levels(results))
        here = question.answer(str(answer)).next if question.kind == "choice" else question.next
    return _Track(tuple(steps), tuple(results), None, facts, machine)


def _levels(results: list[Result]) -> tuple[str, ...]:
    return next((result.levels for result in reversed(results) if result.levels), ())


def _machine(situation: _Situation, known: Mapping[str, Given]) -> Machine:
    if known.get("target") == "another" and "ram" in known:
        return other_machine(OtherMachine(str(known["kind"]), int(known["ram"]), int(known.get("vram", 0))))
    return this_machine(situation.hardware, situation.measured)


def _fill_in(question: Question, facts: Facts) -> tuple[Given, str]:
    if question.default is not None:
        return int(question.default.evaluate(facts.get)), facts.words(question.because)
    pre = next(each for each in question.pre if each.condition.evaluate(facts.get))
    return pre.answer, facts.words(pre.because)


def _check(question: Question, given: Given, facts: Facts) -> Given:
    if question.kind == "choice":
        keys = [answer.key for answer in question.answers]
        if given not in keys:
            raise BadArgument(f"{question.text} The answers are {', '.join(keys)}.")
        return given
    assert question.least is not None and question.most is not None
    least, most = int(question.least.evaluate(facts.get)), int(question.most.evaluate(facts.get))
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise BadArgument(
            f"{question.text} The answer is a whole number of {question.kind} from {least:,} to {most:,}."
        )
    return given


def _in_words(question: Question, answer: Given) -> str:
    if question.kind == "choice":
        return question.answer(str(answer)).text
    return size(int(answer)) if question.kind == "bytes" else f"{answer:,}"
