"""The smoke test's judgement, and the sample passing it."""

from __future__ import annotations

import pytest

from quantdeck.workbench.llama import Llama, LoadSettings, SmokeResult, smoke_test, verdict
from quantdeck.workbench.llama.smoke import has_loop, judge
from quantdeck.workbench.model import value
from quantdeck.workbench.sample import SAMPLE, Question
from support.sample_variants import make_variant, with_tokens

SETTINGS = LoadSettings(context=512, threads=1)


def result(finding, expected=""):
    return SmokeResult(1, 10, "?", "!", expected, finding, 1.0)


def test_the_sample_answers_all_ten(tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as llama:
        results = list(smoke_test(llama))
    assert [r.number for r in results] == list(range(1, 11))
    assert all(r.fine and r.expected and r.expected == r.answer for r in results), [r for r in results if not r.fine]
    told = verdict(results)
    assert told.ok and told.text == "All 10 answers are sound and right."


def test_another_model_gets_general_prompts(tmp_path):
    path = make_variant(tmp_path / "m.gguf", {"general.name": value("string", "something else")})
    with Llama.load(path, SETTINGS, tmp_path) as llama:
        results = list(smoke_test(llama))
    assert len(results) == 10 and not any(r.expected for r in results)


def test_broken_letters_are_found(tmp_path):
    def poison(tokens):
        tokens[tokens.index(".")] = "\u00ff\u00ff"  # the byte 0xff twice, in GPT-2's letters

    with Llama.load(with_tokens(tmp_path / "m.gguf", poison), SETTINGS, tmp_path) as llama:
        results = list(smoke_test(llama, [Question("What does a sheep say?", "")]))
    assert results[0].finding == "broken text" and not verdict(results).ok


def test_wrong_answers_are_found(tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as llama:
        asked = [Question("What does a sheep say?", "A sheep says moo."), Question("What does a sheep say?", "baa.")]
        assert [r.finding for r in smoke_test(llama, asked)] == ["wrong answer", "fine"]


def test_a_cancelled_test_ends(tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as llama:
        results = smoke_test(llama)
        next(results)
        results.close()
        assert next(smoke_test(llama)).fine


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("Paris is the capital of France.", "fine"),
        ("the cat sat on the cat sat on the cat sat on the cat sat on the", "loop"),
        ("I like it. I like it. I like it. I like it. I like it.", "loop"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "loop"),
        ("one two three four five six seven eight nine ten", "fine"),
        ("| a | b |\n|---------------------|----|\n| 1 | 2 |", "fine"),
        ("ha ha ha, very funny", "fine"),
        ("Paris\ufffd is nice", "broken text"),
        ("!!! ... ??? --- ,,,", "broken text"),
        ("日本の首都は東京です。", "fine"),
    ],
)
def test_judgement(answer, finding):
    assert judge(answer) == finding


def test_judgement_of_the_end():
    assert judge("half an", reason="cancelled") == "cancelled"
    assert judge("", reason="context full") == "context full"
    assert not has_loop("word " * 3)


def test_verdicts():
    fine, wrong, loop = result("fine", "x"), result("wrong answer", "x"), result("loop", "x")
    assert verdict([fine] * 10).ok
    assert verdict([fine] * 9 + [wrong]).ok and "1 × wrong answer" in verdict([fine] * 9 + [wrong]).text
    assert not verdict([fine] * 7 + [wrong] * 3).ok
    assert not verdict([fine] * 9 + [loop]).ok
    assert "Stopped after 1 of 10" in verdict([fine, result("cancelled")]).text
    assert not verdict([]).ok
