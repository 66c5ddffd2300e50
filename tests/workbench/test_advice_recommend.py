"""Recommendations: the JSON that scripts read, and what is said where things do not fit."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from quantdeck.workbench.advice import Corrections, OtherMachine, Wish, advise
from quantdeck.workbench.errors import BadArgument, QuantdeckError
from quantdeck.workbench.hardware import Hardware
from quantdeck.workbench.model import Model, read_model
from quantdeck.workbench.recipe import Recipe, Request, make_recipe
from quantdeck.workbench.sample import SAMPLE
from support import shapes
from support.machines import DDR5, GIB, integrated, machine, nvidia

FIRST_LEVELS = {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "F32"}


def anything(recipe: Recipe) -> bool:
    return True


def test_the_json_has_the_keys_that_scripts_rely_on() -> None:
    advice = advise(shapes.llama3_8b(), machine(16), Wish(), DDR5, writable=anything)
    document = json.loads(json.dumps(advice.to_dict()))
    assert {"recommendation", "candidates"} <= set(document)
    assert set(document["recommendation"]) == {"format", "level", "why"}
    assert document["recommendation"]["format"] == "gguf"
    keys = {"level", "bytes", "bits_per_weight", "memory", "fits", "tokens_per_second", "quality"}
    for row in document["candidates"]:
        assert keys <= set(row)
        assert set(row["memory"]) == {"weights", "kv_cache", "compute", "total"}
        assert row["memory"]["total"] == sum(row["memory"][part] for part in ("weights", "kv_cache", "compute"))
        assert row["fits"] in {"yes", "tight", "no"}
        assert row["tokens_per_second"] > 0
    assert document["candidates"][0]["level"] == document["recommendation"]["level"]
    assert len({row["level"] for row in document["candidates"]}) == len(document["candidates"])


def test_sizes_come_from_the_real_mix() -> None:
    model = shapes.qwen25_05b()
    advice = advise(model, machine(16), Wish(), DDR5, writable=anything)
    for row in advice.candidates:
        recipe = make_recipe(model, Request(row.level), preview=True)
        assert row.bits_per_weight == pytest.approx(recipe.bits_per_weight)
        assert 0 <= row.n_bytes - recipe.n_bytes < 64 * len(model.tensors) + 4096
    usual = next(row for row in advice.candidates if row.level == "Q4_K_M")
    assert usual.bits_per_weight > 6
    assert any("becomes 6." in note for note in usual.notes)


def test_a_file_has_the_size_that_was_promised(tmp_path: object) -> None:
    """As is, the sample is as large as its own file."""
    model = read_model(SAMPLE.model)
    row = next(r for r in advise(model, machine(16), Wish(), DDR5).candidates if r.level == "F16")
    assert row.n_bytes == pytest.approx(SAMPLE.model.stat().st_size, abs=128)


@pytest.mark.parametrize("hardware", [machine(44), machine(400, *[nvidia(80, "A100")] * 2)])
def test_rows_are_ranked(hardware: Hardware) -> None:
    advice = advise(shapes.llama2_70b(), hardware, Wish(), DDR5, writable=anything)
    assert advice.candidates[0] is advice.recommended
    rest = [row for row in advice.candidates[1:] if row.facts and not row.facts.special]
    order = {"yes": 0, "tight": 1, "no": 2}
    ranks = [(order[row.fits], row.facts.rank) for row in rest if row.facts]
    assert ranks == sorted(ranks)


def test_only_what_can_be_made_is_recommended() -> None:
    def first_levels(recipe: Recipe) -> bool:
        return {choice.type for choice in recipe.tensors} <= FIRST_LEVELS

    for ram in (60, 41, 36, 30, 20):
        advice = advise(shapes.llama2_70b(), machine(ram), Wish("size", context=2048), DDR5, writable=first_levels)
        row = advice.recommended
        if row is None:
            assert ram < 41 and any("ready-made" in hint for hint in advice.hints)
        else:
            assert {c.type for c in make_recipe(shapes.llama2_70b(), Request(row.level)).tensors} <= FIRST_LEVELS
    everything = advise(shapes.llama2_70b(), machine(30), Wish("size", context=2048), DDR5, writable=anything)
    assert everything.level in {"IQ3_M", "Q3_K_M", "IQ3_S", "Q3_K_S", "IQ3_XXS", "Q2_K"}


def test_where_only_the_largest_can_be_made_it_is_taken_if_it_fits() -> None:
    only = advise(shapes.llama3_8b(), machine(16), Wish(), DDR5, writable=lambda recipe: recipe.level == "Q8_0")
    assert only.level == "Q8_0"


def test_nothing_fits_says_what_to_do() -> None:
    advice = advise(shapes.llama3_70b(), machine(4), Wish(context=8192), DDR5, writable=anything)
    assert advice.level is None and advice.recommended is None
    assert advice.to_dict()["recommendation"]["level"] is None
    assert "even IQ1_S takes" in advice.why[0] and any("smaller model" in hint for hint in advice.hints)
    assert all(row.fits == "no" and row.placement.spare < 0 for row in advice.candidates)


def test_a_shorter_context_or_a_smaller_cache_is_offered() -> None:
    advice = advise(shapes.llama2_7b(), machine(8), Wish(context=32768, cache="F16"), DDR5, writable=anything)
    assert any("With a context of" in hint and "fits" in hint for hint in advice.hints)
    assert any("beyond them" in sentence for sentence in advice.why) or advice.level is None
    tight = advise(shapes.llama2_7b(), machine(5.4), Wish(context=4096, cache="F16"), DDR5, writable=anything)
    assert any("KV cache in Q8_0" in hint for hint in tight.hints)
    odd = shapes.transformer(32, 2560, 6912, 32, 32, 32000, context=4096)  # heads of 80: no whole blocks
    assert not any("KV cache in" in hint for hint in advise(odd, machine(1), Wish(), DDR5, writable=anything).hints)
    refused = advise(odd, machine(16), Wish(cache="Q8_0"), DDR5, writable=anything)
    assert any("cannot keep" in sentence for sentence in refused.why)


def test_levels_that_need_an_importance_matrix_say_so() -> None:
    advice = advise(shapes.llama3_8b(), machine(16), Wish(), DDR5, writable=anything)
    for row in advice.candidates:
        assert row.needs_imatrix == any("needs an importance matrix" in note for note in row.notes)
    assert {"IQ2_XS", "IQ1_S"} <= {row.level for row in advice.candidates if row.needs_imatrix}


def test_a_model_that_is_quantized_already_is_left_alone() -> None:
    model = shapes.transformer(4, 1024, 2048, 8, 4, 1000, dtype="Q4_0")
    advice = advise(model, machine(16), Wish(), DDR5)
    assert len(advice.candidates) == 1 and advice.level == "Q4_0"
    assert "already quantized" in advice.why[0]


def test_another_machine_by_memory_alone() -> None:
    small = advise(
        shapes.llama3_8b(), machine(64), Wish(other=OtherMachine("modern", 6 * GIB)), DDR5, writable=anything
    )
    large = advise(
        shapes.llama3_8b(), machine(2), Wish(other=OtherMachine("modern", 64 * GIB)), DDR5, writable=anything
    )
    assert small.machine.budget.usable < 6 * GIB < large.machine.budget.usable
    assert {row.speed_source for row in large.candidates} == {"assumed"}


def test_small_memories_are_taken_as_they_are() -> None:
    """The sample fits into 100 MB, and not into 8 MiB."""
    sample = read_model(SAMPLE.model)
    enough, little = (advise(sample, machine(16), Wish(other=OtherMachine("modern", m))) for m in (10**8, 1 << 23))
    assert enough.level is not None and {row.fits for row in enough.candidates} == {"yes"}
    assert little.level is None and little.hints


@pytest.mark.parametrize(
    "wish", [Wish("everything"), Wish(context=0), Wish(context=-5), Wish(users=0), Wish(cache="Q9"), Wish(users=10**9)]
)
def test_impossible_wishes_are_refused_in_words(wish: Wish) -> None:
    with pytest.raises(BadArgument, match="answer"):
        advise(shapes.llama3_8b(), machine(16), wish)


def test_a_card_that_llama_cpp_cannot_use_does_not_count_and_is_mentioned() -> None:
    advice = advise(
        shapes.llama3_8b(), machine(16, nvidia(24, "RTX 4090"), gpu_offload=False), Wish(), DDR5, writable=anything
    )
    assert advice.machine.kind == "cpu" and advice.machine.budget.vram == 0
    assert any("without support" in sentence for sentence in advice.why)


def test_integrated_graphics_are_no_second_card() -> None:
    with_it = advise(shapes.llama3_8b(), machine(16, integrated()), Wish(), DDR5, writable=anything)
    without = advise(shapes.llama3_8b(), machine(16), Wish(), DDR5, writable=anything)
    assert with_it.machine == without.machine


def test_speed_follows_bandwidth_and_what_was_learned() -> None:
    def speed(**more: object) -> float:
        row = advise(shapes.llama3_8b(), machine(16), Wish(), DDR5, writable=anything, **more).recommended  # type: ignore[arg-type]
        assert row is not None
        return row.tokens_per_second

    assert speed(corrections=Corrections(cpu=0.5)) == pytest.approx(speed() / 2, rel=0.3)
    fast = replace(DDR5, bytes_per_second=80e9)
    row = advise(shapes.llama2_7b(), machine(16), Wish("speed"), fast, writable=anything).recommended
    slow = advise(shapes.llama2_7b(), machine(16), Wish("speed"), DDR5, writable=anything).recommended
    assert row is not None and slow is not None
    assert row.tokens_per_second == pytest.approx(2 * slow.tokens_per_second)


def test_experts_make_a_model_faster_than_its_size() -> None:
    dense = advise(shapes.code_llama_34b(), machine(60), Wish("speed", 4096), DDR5, writable=anything).recommended
    sparse = advise(shapes.mixtral_8x7b(), machine(60), Wish("speed", 4096), DDR5, writable=anything).recommended
    assert dense is not None and sparse is not None
    assert sparse.n_bytes > dense.n_bytes and sparse.tokens_per_second > 2 * dense.tokens_per_second


def test_more_users_need_more_memory() -> None:
    one, eight = (
        advise(shapes.llama3_8b(), machine(32), Wish("serve", 8192, users), DDR5, writable=anything) for users in (1, 8)
    )
    assert eight.candidates[0].memory.kv_cache == 8 * one.candidates[0].memory.kv_cache
    assert any("8 users" in sentence for sentence in eight.why)


def test_disagreements_are_settled_for_this_machine() -> None:
    advice = advise(shapes.qwen25_05b(), machine(5), Wish(), DDR5, writable=anything)
    decisions = {each.topic: each.decision for each in advice.settled}
    assert any("6.35 bits" in decision for decision in decisions.values())
    assert all(decision and "{" not in decision for decision in decisions.values())


def test_source_levels_larger_than_the_source_are_left_out() -> None:
    half: Model = shapes.llama3_8b()
    full = shapes.transformer(2, 1024, 2048, 8, 4, 1000, dtype="F32")
    levels = {row.level for row in advise(half, machine(32), Wish(), DDR5).candidates}
    assert "F16" in levels and not {"F32", "BF16", "MXFP4_MOE"} & levels
    assert {"F32", "F16", "BF16"} <= {row.level for row in advise(full, machine(32), Wish(), DDR5).candidates}
    assert "MXFP4_MOE" in {row.level for row in advise(shapes.mixtral_8x7b(), machine(32), Wish(), DDR5).candidates}


def test_levels_that_the_shapes_do_not_allow_are_left_out() -> None:
    smollm: Model = shapes.transformer(30, 576, 1536, 9, 3, 49152, tied=True)
    advice = advise(smollm, machine(16), Wish(), DDR5, writable=anything)
    levels = {row.level for row in advice.candidates}
    with pytest.raises(BadArgument):
        make_recipe(smollm, Request("Q1_0"))
    assert "Q1_0" not in levels and {"Q8_0", "Q6_K", "Q4_K_M"} <= levels


_KEYS = ("context_length", "embedding_length", "block_count", "feed_forward_length", "expert_count", "num_loops")
_KEYS += tuple(f"attention.{name}" for name in ("head_count", "head_count_kv", "key_length", "sliding_window"))
_KEYS += ("attention.sliding_window_pattern", "expert_used_count", "ssm.conv_kernel", "ssm.inner_size")
_KEYS += ("full_attention_interval", "nextn_predict_layers", "wkv.head_size")
_VALUES = (0, 1, -1, 7, 2**31 - 1, 2**32 - 1, 0.5, "x", True, [1, 2], [0] * 4, ["a"])
_ARCHITECTURES = (
    "llama",
    "gemma3n",
    "mamba",
    "jamba",
    "qwen3next",
    "deepseek2",
    "bert",
    "nanbeige",
    "clip",
    "\x1b[31m",
)


def test_hostile_metadata_end_in_advice_or_in_one_sentence() -> None:
    chance = random.Random(1)
    refused = 0
    for _ in range(120):
        extra = {key: chance.choice(_VALUES) for key in chance.sample(_KEYS, chance.randint(0, 3))}
        model = shapes.transformer(4, 512, 1024, 8, 4, 1000, architecture=chance.choice(_ARCHITECTURES), extra=extra)
        if chance.random() < 0.1:
            model = replace(model, tensors=model.tensors[: chance.randint(0, 2)])
        try:
            advise(model, machine(chance.choice((0, 1, 16))), Wish(), DDR5, writable=anything)
        except QuantdeckError as problem:
            refused += 1
            assert str(problem).isprintable()
    assert 0 < refused < 120
