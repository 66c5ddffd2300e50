"""The advice files, read and checked: trees, levels, formats, disagreements, troubles. Mistakes in them are errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from importlib import resources
from string import Formatter
from types import MappingProxyType
from typing import Any, TypeVar

from ..recipe import LEVELS
from .expression import Expression

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_Made = TypeVar("_Made")

TREES = ("wizard", "format", "level", "spare")
KINDS = ("choice", "bytes", "tokens", "users")
MOVES = ("", "up", "keep", "smaller")
IMATRIX = ("none", "helps", "wants", "needs")


class BadAdvice(ValueError):
    """An advice file that contradicts itself or the program."""


@dataclass(frozen=True)
class Answer:
    """One answer of a choice, and the question or result that it leads to."""

    key: str
    text: str
    next: str


@dataclass(frozen=True)
class Pre:
    """An answer filled in where `if` holds, and why."""

    condition: Expression
    answer: str
    because: str


@dataclass(frozen=True)
class Question:
    """One question. A choice has `answers` and `pre`; a number has `default`, `least`, `most`, `because` and `next`."""

    id: str
    tree: str
    kind: str
    text: str
    help: str
    ask: Expression
    answers: tuple[Answer, ...] = ()
    pre: tuple[Pre, ...] = ()
    default: Expression | None = None
    least: Expression | None = None
    most: Expression | None = None
    because: str = ""
    next: str = ""

    @property
    def leads_to(self) -> tuple[str, ...]:
        """Everything that may come next."""
        return tuple(answer.next for answer in self.answers) or (self.next,)

    def answer(self, key: str) -> Answer:
        """The answer with that key; KeyError if there is none."""
        return next(a for a in self.answers if a.key == key) if key in {a.key for a in self.answers} else _missing(key)


@dataclass(frozen=True)
class Result:
    """Where a tree ends: formats (best first), levels (in the order to try them) or a move, and what comes next."""

    id: str
    tree: str
    words: str
    formats: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    move: str = ""
    next: str = ""


@dataclass(frozen=True)
class Trees:
    """All trees as one graph; it begins at `start` and ends behind the result without a `next`."""

    start: str
    questions: Mapping[str, Question]
    results: Mapping[str, Result]
    titles: Mapping[str, str]


@dataclass(frozen=True)
class LevelFacts:
    """What people should know of a level; `rank` counts from the best one (0). `ladder` is None off the usual steps."""

    name: str
    quality: str
    imatrix: str
    words: str
    rank: int = 0
    ladder: int | None = None
    table_driven: bool = False
    special: bool = False
    perplexity: float | None = None


@dataclass(frozen=True)
class Format:
    """A file format. `writes` is true for what this program makes itself."""

    key: str
    name: str
    words: str
    runs_on: str
    loaded_by: tuple[str, ...]
    found_at: tuple[str, ...]
    writes: bool = False


@dataclass(frozen=True)
class Decision:
    """What was decided where `condition` holds."""

    condition: Expression
    text: str


@dataclass(frozen=True)
class Disagreement:
    """A matter on which the guides contradict each other."""

    key: str
    topic: str
    claims: tuple[str, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Trouble:
    """A complaint, and what to try."""

    key: str
    symptom: str
    tries: tuple[str, ...]


@dataclass(frozen=True)
class Bandwidths:
    """Published memory bandwidths in bytes a second: by part of a card's name, and what is assumed without one."""

    assumed: Mapping[str, float]
    cards: tuple[tuple[str, float], ...] = field(default=())

    def of_card(self, name: str) -> float | None:
        """The bandwidth of the card `name`, None if it is not in the table."""
        return next((rate for part, rate in self.cards if part.lower() in name.lower()), None)


@lru_cache(maxsize=1)
def trees() -> Trees:
    """All decision trees, checked: each `next` leads somewhere, each `pre` names an answer, the last always holds."""
    questions: dict[str, Question] = {}
    results: dict[str, Result] = {}
    titles: dict[str, str] = {}
    starts = []
    for name in TREES:
        table = _read(f"tree_{name}.toml")
        titles[table["tree"]] = table["title"]
        starts.append(table["start"])
        for entry in table.get("question", []):
            question = _question(entry, table["tree"])
            questions[question.id] = question
        for entry in table.get("result", []):
            result = _make(Result, entry, tree=table["tree"])
            results[result.id] = result
    found = Trees(starts[0], MappingProxyType(questions), MappingProxyType(results), MappingProxyType(titles))
    for question in questions.values():
        _check_question(question, found)
    for result in results.values():
        _check_result(result, found)
    return found


@lru_cache(maxsize=1)
def levels() -> Mapping[str, LevelFacts]:
    """Facts on every level that a recipe can be made for, best first."""
    table = _read("levels.toml")
    classes = [entry["key"] for entry in table["quality"]]
    found = {}
    for rank, entry in enumerate(table["level"]):
        level = _make(LevelFacts, entry, rank=rank)
        if level.quality not in classes or level.imatrix not in IMATRIX:
            raise BadAdvice(f"levels.toml: {level.name} has an unknown quality or imatrix")
        found[level.name] = level
    if set(found) != {name for name, level in LEVELS.items() if not level.copies}:
        raise BadAdvice("levels.toml does not hold exactly the levels that recipes know")
    return MappingProxyType(found)


@lru_cache(maxsize=1)
def descent() -> tuple[str, ...]:
    """The levels to try one after the other, from more bits to fewer."""
    order = tuple(_read("levels.toml")["descent"])
    if not set(order) <= set(levels()):
        raise BadAdvice("levels.toml: descent names a level that there is not")
    return order


@lru_cache(maxsize=1)
def qualities() -> Mapping[str, str]:
    """The quality classes from best to worst, with what they mean."""
    return MappingProxyType({entry["key"]: entry["words"] for entry in _read("levels.toml")["quality"]})


@lru_cache(maxsize=1)
def formats() -> Mapping[str, Format]:
    """The formats by their keys."""
    made = [_make(Format, entry) for entry in _read("formats.toml")["format"]]
    return MappingProxyType({each.key: each for each in made})


@lru_cache(maxsize=1)
def disagreements() -> tuple[Disagreement, ...]:
    """Matters on which the guides contradict each other."""
    return tuple(
        Disagreement(
            entry["key"],
            entry["topic"],
            tuple(entry["claims"]),
            tuple(Decision(Expression(each["if"]), each["text"]) for each in entry["decision"]),
        )
        for entry in _read("disagreements.toml")["disagreement"]
    )


@lru_cache(maxsize=1)
def troubles() -> tuple[Trouble, ...]:
    """What to try when a model is slow, does not fit, or answers badly."""
    entries = _read("troubles.toml")["trouble"]
    return tuple(Trouble(entry["key"], entry["symptom"], tuple(entry["try"])) for entry in entries)


@lru_cache(maxsize=1)
def bandwidths() -> Bandwidths:
    """Published bandwidths, in bytes a second."""
    table = _read("bandwidths.toml")
    cards = tuple((entry["name"], entry["gb_per_second"] * 1e9) for entry in table["card"])
    return Bandwidths(MappingProxyType({k: v * 1e9 for k, v in table["assumed"].items()}), cards)


def names_in(template: str) -> frozenset[str]:
    """The facts that a sentence with {facts} in it asks for."""
    return frozenset(name for _, name, _, _ in Formatter().parse(template) if name)


def _read(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
    return table


def _make(kind: type[_Made], entry: Mapping[str, Any], **more: Any) -> _Made:
    """A data class from a TOML table, lists as tuples; BadAdvice for keys that are missing or not known."""
    given = {key: tuple(item) if isinstance(item, list) else item for key, item in entry.items()} | more
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    required = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if not set(given) <= set(known) or not required <= set(given):
        wrong = sorted((set(given) - set(known)) | (required - set(given)))
        raise BadAdvice(f"{kind.__name__} {entry.get('id') or entry.get('name')}: wrong or missing keys {wrong}")
    return kind(**given)


def _question(entry: Mapping[str, Any], tree: str) -> Question:
    given = dict(entry)
    answers = tuple(_make(Answer, each) for each in given.pop("answer", []))
    pre = tuple(Pre(Expression(each["if"]), each["answer"], each["because"]) for each in given.pop("pre", []))
    for key in ("default", "least", "most"):
        if key in given:
            given[key] = Expression(given[key])
    given["ask"] = Expression(given.get("ask", "true"))
    return _make(Question, given, tree=tree, answers=answers, pre=pre)


def _check_question(question: Question, found: Trees) -> None:
    wrong = [target for target in question.leads_to if target not in found.questions and target not in found.results]
    if wrong or question.kind not in KINDS:
        raise BadAdvice(f"question {question.id} leads to {wrong} or is of an unknown kind")
    if question.kind == "choice":
        keys = {answer.key for answer in question.answers}
        if not question.pre or question.pre[-1].condition.text != "true" or {p.answer for p in question.pre} - keys:
            raise BadAdvice(f"question {question.id} is not always filled in with one of its answers")
    elif not (question.default and question.least and question.most and question.next):
        raise BadAdvice(f"question {question.id} needs default, least, most and next")


def _check_result(result: Result, found: Trees) -> None:
    if result.next and result.next not in found.questions:
        raise BadAdvice(f"result {result.id} leads to {result.next}, which is no question")
    if not set(result.formats) <= set(formats()) or not set(result.levels) <= set(levels()) or result.move not in MOVES:
        raise BadAdvice(f"result {result.id} names a format, level or move that there is not")


def _missing(key: str) -> Answer:
    raise KeyError(key)
