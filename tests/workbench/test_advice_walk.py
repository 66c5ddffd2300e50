"""The trees as data, and walking them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quantdeck.workbench.advice import OtherMachine, Walk, Wish, advise, data
from quantdeck.workbench.advice.candidates import Estimator
from quantdeck.workbench.advice.data import Question, names_in
from quantdeck.workbench.advice.expression import BadExpression, Expression
from quantdeck.workbench.advice.facts import FACT_NAMES, Facts
from quantdeck.workbench.advice.machine import this_machine
from quantdeck.workbench.errors import BadArgument
from support import shapes
from support.machines import DDR5, GIB, OLD, mac, machine, nvidia

SMALL = shapes.transformer(4, 512, 1024, 8, 4, 1000, context=4096)


def begin() -> Walk:
    return Walk.begin(SMALL, machine(16), DDR5, writable=lambda recipe: True)


def endings(start: str) -> Iterator[list[str]]:
    """Every way through the graph from `start`, as the ids on it."""
    found = data.trees()
    stack: list[list[str]] = [[start]]
    while stack:
        way = stack.pop()
        here = way[-1]
        following = found.questions[here].leads_to if here in found.questions else (found.results[here].next,)
        for target in following:
            assert target not in way, f"{target} comes twice on {way}"
            if target:
                stack.append([*way, target])
            else:
                yield way


def test_every_way_through_every_tree_ends_in_a_result() -> None:
    found = data.trees()
    seen: set[str] = set()
    for way in endings(found.start):
        seen |= set(way)
        results = [found.results[step] for step in way if step in found.results]
        assert [bool(r.formats) for r in results].count(True) == 1
        assert [bool(r.levels) for r in results].count(True) == 1
        assert [bool(r.move) for r in results].count(True) == 1
        assert way[-1] in found.results
    assert seen == set(found.questions) | set(found.results), "something is never reached"


def test_conditions_and_sentences_ask_only_for_facts_and_questions_that_there_are() -> None:
    found = data.trees()
    known = FACT_NAMES | set(found.questions)
    for question in found.questions.values():
        expressions = [question.ask, question.default, question.least, question.most]
        expressions += [pre.condition for pre in question.pre]
        for expression in expressions:
            assert expression is None or expression.names <= known, question.id
        sentences = [question.because, *(pre.because for pre in question.pre)]
        assert set().union(*map(names_in, sentences)) <= known, question.id
    for each in data.disagreements():
        assert each.decisions[-1].condition.text == "true"
        for decision in each.decisions:
            assert decision.condition.names <= known | {"chosen_is_good"}
            assert names_in(decision.text) <= known


@pytest.mark.parametrize(
    "hardware", [machine(5, features=OLD), machine(64, nvidia(24, "RTX 4090")), mac(32, "Apple M2")]
)
def test_every_condition_and_sentence_can_be_filled_in(hardware: object) -> None:
    found = data.trees()
    estimator = Estimator(SMALL, lambda recipe: True)
    facts = Facts(estimator, this_machine(hardware, DDR5), {"goal": "serve"}, ("Q4_K_M",))  # type: ignore[arg-type]
    for name in FACT_NAMES:
        assert facts.get(name) is not None
    for question in found.questions.values():
        for pre in question.pre:
            pre.condition.evaluate(facts.get)
            assert "{" not in facts.words(pre.because)


def test_every_answer_of_every_question_leads_to_advice() -> None:
    """Each answer is given on some walk that comes to its question, and every such walk ends in levels and a move."""
    missing = {(question.id, answer.key) for question in data.trees().questions.values() for answer in question.answers}
    hardware = [machine(16), machine(3, features=OLD), machine(16, nvidia(8, "RTX 4060", "8.9")), mac(16, "Apple M2")]
    estimator = Estimator(SMALL, lambda recipe: True)
    for each in hardware:
        start = Walk.begin(SMALL, each, DDR5, estimator=estimator)
        for goal in ("balanced", "quality", "speed", "size", "finetune", "serve"):
            for question, answer in sorted(missing):
                about = {"target": "another"} if question == "kind" else {}
                walk = start.granted(Wish(goal, overrides={**about, question: answer}))
                assert walk.done and [bool(r.levels) for r in walk.results].count(True) == 1
                missing -= {(step.question.id, str(step.answer)) for step in walk.path}
    assert not missing


def test_enter_enter_enter_is_enough() -> None:
    walk, entered = begin(), 0
    while not walk.done:
        walk, entered = walk.answer(), entered + 1
    assert entered <= 3
    assert advise(SMALL, machine(16), walk.wish(), DDR5, writable=lambda recipe: True).level is not None


def test_answers_are_filled_in_with_a_reason() -> None:
    walk = begin()
    assert walk.question is not None and walk.question.id == "target"
    answer, because = walk.filled_in
    assert answer == "this" and "16.0 GiB" in because
    memory = next(step for step in begin().granted(Wish()).path if step.question.id == "a_memory")
    assert (memory.answer, memory.by_user) == ("no", False)
    assert "GiB may be used" in memory.because


def test_nothing_changes_in_place_and_back_undoes() -> None:
    first = begin()
    second = first.answer("another")
    third = second.answer("nvidia")
    assert _id(first) == "target" and _id(second) == "kind" and _id(third) == "vram"
    assert _id(third.back()) == "kind" and _id(third.back().back()) == "target"
    assert first.back() is first
    again = third.back()
    assert again.filled_in == ("nvidia", "your answer before")
    assert _id(again.answer()) == "vram" and _id(again.answer("apple")) == "ram"
    assert third.back().back().answer("this").path[-1].answer == "this"


def test_going_back_asks_the_following_questions_again_with_their_answers() -> None:
    walk = begin().answer("this").answer("quality").answer(2048)
    assert walk.done
    walk = walk.back().back()
    assert _id(walk) == "goal" and walk.filled_in[0] == "quality"
    walk = walk.answer("speed")
    assert _id(walk) == "context" and walk.filled_in[0] == 2048
    assert walk.answer().wish().context == 2048


def test_a_question_that_was_passed_by_can_be_answered_otherwise() -> None:
    walk = begin().granted(Wish())
    levels = [result.levels for result in walk.results if result.levels]
    assert levels == [("Q4_K_M", "IQ4_XS")]
    changed = walk.at("a_modern").answer("no")
    while not changed.done:
        changed = changed.answer()
    assert [result.levels for result in changed.results if result.levels] == [("Q4_0", "Q4_K_S")]
    wish = changed.wish()
    assert wish.overrides == {"a_modern": "no"}
    assert [r.levels for r in begin().granted(wish).results if r.levels] == [("Q4_0", "Q4_K_S")]


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([], "elsewhere"),
        ([], 3),
        (["another", "modern"], 5),
        (["another", "modern"], "16 GiB"),
        (["this", "speed"], 17),
    ],
)
def test_answers_that_there_are_not_are_refused_in_words(steps: list[str], wrong: object) -> None:
    walk = begin()
    for step in steps:
        walk = walk.answer(step)
    with pytest.raises(BadArgument, match="answer"):
        walk.answer(wrong)  # type: ignore[arg-type]


def test_the_end_takes_no_more_answers() -> None:
    walk = begin().granted(Wish())
    with pytest.raises(BadArgument):
        walk.answer()
    with pytest.raises(BadArgument):
        walk.at("vram")


def test_another_machine_is_taken_at_its_word() -> None:
    walk = begin().granted(Wish(other=OtherMachine("nvidia", 32 * GIB, 12 * GIB)))
    assert (walk.machine.kind, walk.machine.budget.vram) == ("nvidia", 12 * GIB)
    assert walk.machine.budget.ram < 32 * GIB
    assert walk.machine.processor.source == "assumed"
    without = begin().granted(Wish(other=OtherMachine("nvidia", 32 * GIB)))
    assert (without.machine.kind, without.machine.budget.cards) == ("cpu", 0)


def test_a_wish_survives_the_way_through_the_trees() -> None:
    wish = Wish("size", 1024, 3, "Q8_0", OtherMachine("apple", 24 * GIB))
    assert begin().granted(wish).wish() == Wish("size", 1024, 3, "Q8_0", OtherMachine("apple", 24 * GIB), overrides={})


def test_serving_asks_for_the_number_of_users() -> None:
    walk = begin().answer("this").answer("serve").answer(2048)
    assert _id(walk) == "users" and walk.filled_in[0] == 4


def test_quantized_cache_is_offered_only_where_it_saves_the_day() -> None:
    def cache(ram: float) -> str:
        model = shapes.llama2_7b()
        walk = Walk.begin(model, machine(ram), DDR5, writable=lambda recipe: True).granted(Wish(context=4096))
        return walk.setup.kv_type

    assert cache(16) == "F16"
    assert cache(5.8) == "Q8_0"


@pytest.mark.parametrize(
    "text",
    ["ram_bytes <", "__import__('os')", "ram_bytes.real", "[1]", "1 < 2 < 3", "lambda: 1", "ram_bytes ** 99", "f(1)"],
)
def test_expressions_say_no_more_than_conditions(text: str) -> None:
    with pytest.raises(BadExpression):
        Expression(text).evaluate(lambda name: 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("usable < 8 * GiB", True),
        ("usable > 8 * GiB or not usable > 1", False),
        ("goal == 'size' and usable >= 2", True),
        ("true", True),
        ("usable / 2 + 1 - 1", 2),
    ],
)
def test_expressions(text: str, value: object) -> None:
    assert Expression(text).evaluate({"usable": 4, "goal": "size"}.__getitem__) == value


def test_the_kept_files_of_advice_read() -> None:
    assert {trouble.key for trouble in data.troubles()} == {"slow", "out_of_memory", "bad_output"}
    assert data.bandwidths().of_card("NVIDIA GeForce RTX 4090") == 1008e9
    assert data.bandwidths().of_card("NVIDIA H100 PCIe") == 2039e9
    assert data.bandwidths().of_card("Voodoo 2") is None
    ranks = [list(data.qualities()).index(level.quality) for level in data.levels().values()]
    assert ranks == sorted(ranks), "levels.toml is not in order of quality"


def _id(walk: Walk) -> str:
    question: Question | None = walk.question
    return question.id if question else ""
