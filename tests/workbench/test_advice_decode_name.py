"""File names, decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantdeck.workbench.advice import decode_name
from quantdeck.workbench.recipe import LEVELS


@pytest.mark.parametrize(
    ("name", "level", "parameters"),
    [
        ("Meta-Llama-3-8B-Instruct-Q4_K_M.gguf", "Q4_K_M", "8B"),
        ("llama-2-7b.Q5_K_S.gguf", "Q5_K_S", "7B"),
        ("Qwen2.5-0.5B-Instruct-IQ4_XS.gguf", "IQ4_XS", "0.5B"),
        ("mixtral-8x7b-v0.1.Q3_K.gguf", "Q3_K_M", "8x7B"),
        ("gemma-3-4b-it-UD-Q4_K_XL.gguf", "Q4_K_XL", "4B"),
        ("SmolLM-135M-f16.gguf", "F16", "135M"),
        ("phi-2.fp16.gguf", "F16", ""),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4_MOE", "20B"),
        ("bitnet-2B-TQ1_0.gguf", "TQ1_0", "2B"),
        ("model.gguf", "", ""),
        ("C:\\models\\Yi-34B-Q8_0.gguf", "Q8_0", "34B"),
    ],
)
def test_levels_and_sizes(name: str, level: str, parameters: str) -> None:
    decoded = decode_name(name)
    assert (decoded.level, decoded.parameters) == (level, parameters)
    assert decoded.words


def test_every_level_is_found_in_a_name_and_explained() -> None:
    for level in LEVELS:
        if level == "COPY":
            continue
        decoded = decode_name(f"some-model-7B-{level}.gguf")
        assert (decoded.level, decoded.known) == (level, True)
        assert len(decoded.words[0]) > len(level) + 10


def test_shards() -> None:
    decoded = decode_name("Llama-3.1-405B-Instruct-Q2_K-00003-of-00005.gguf")
    assert (decoded.level, decoded.shard, decoded.shards) == ("Q2_K", 3, 5)
    assert any("part 3 of 5" in sentence for sentence in decoded.words)


def test_marks_of_makers() -> None:
    assert decode_name("X-7B-UD-IQ2_M.gguf").dynamic
    assert not decode_name("X-7B-IQ2_M.gguf").dynamic
    assert decode_name("X-7B-i1-Q4_K_S.gguf").imatrix
    assert decode_name("X-7B-Q4_K_S-imat.gguf").imatrix
    assert decode_name("mmproj-X-7B-F16.gguf").projector
    assert decode_name("Qwen3-30B-A3B-Q4_K_M.gguf").active == "3B"


def test_unknown_variants_are_taken_apart() -> None:
    decoded = decode_name("X-7B-UD-Q6_K_XL.gguf")
    assert not decoded.known
    assert "6 bits" in decoded.words[0] and "super-blocks" in decoded.words[0]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("UD-Q4_K_XL", "Q4_K_M"),
        ("Q4_K_L", "Q4_K_M"),
        ("Q3_K_XL", "Q3_K_L"),
        ("Q3_K_XS", "Q3_K_S"),
        ("UD-Q2_K_XL", "Q2_K"),
        ("Q6_K_L", "Q6_K"),
        ("UD-Q8_K_XL", "Q8_0"),
        ("UD-IQ2_M", "IQ2_M"),
        ("IQ4_K", ""),
        ("Q4_0_4_8", ""),
        ("NVFP4", ""),
        ("Q7_K_L", ""),
    ],
)
def test_publishers_mixes_are_near_a_known_level(name: str, level: str) -> None:
    decoded = decode_name(f"X-7B-{name}.gguf")
    assert decoded.level and decoded.nearest == level


def test_every_known_level_is_its_own_nearest() -> None:
    assert all(decode_name(f"x-{level}").nearest == level for level in LEVELS if level != "COPY")


def test_control_codes_do_not_come_through() -> None:
    assert all("\x1b" not in sentence for sentence in decode_name("\x1b[31mX-Q4_0.gguf").words)


@given(st.text(max_size=80))
def test_any_string_will_do(name: str) -> None:
    assert decode_name(name).words
