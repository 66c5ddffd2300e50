"""Verification: every kind of model that llama.cpp loads computes; what is broken is named."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from quantdeck.workbench.llama import Llama, LoadSettings, verify
from quantdeck.workbench.model import array, read_model, value
from quantdeck.workbench.sample import SAMPLE
from support.models import KINDS, make_model
from support.sample_variants import make_variant, with_bytes


def planned(path):
    return [(tensor.name, tensor.type) for tensor in read_model(path).tensors]


def test_the_sample(tmp_path):
    done = verify(SAMPLE.model, tmp_path, planned(SAMPLE.model), threads=1)
    assert done.ok and not done.problem
    assert done.tokens > 8 and done.text.strip() and done.seconds > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_random_model(kind, tmp_path):
    small = {"n_layer": 4} if kind == "llama_gqa_80" else {}
    path = make_model(tmp_path / "m.gguf", kind, seed=3, **small)
    done = verify(path, tmp_path, planned(path), threads=1)
    assert done.ok, done.problem
    assert done.tokens > 1


def write_t5(path: Path) -> Path:
    """A random encoder-decoder with a vocabulary of bytes."""
    rng = np.random.default_rng(5)
    n, n_ff, n_head, n_vocab, layers = 32, 64, 2, 64, 2
    writer = gguf.GGUFWriter(path, "t5")
    writer.add_context_length(128)
    writer.add_embedding_length(n)
    writer.add_feed_forward_length(n_ff)
    writer.add_block_count(layers)
    writer.add_head_count(n_head)
    writer.add_key_length(n // n_head)
    writer.add_value_length(n // n_head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_relative_attn_buckets_count(8)
    writer.add_decoder_start_token_id(0)
    writer.add_vocab_size(n_vocab)
    writer.add_tokenizer_model("no_vocab")

    def add(name, *shape):
        scale = 1.0 if "norm" in name else 0.2
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd", n_vocab, n)
    add("enc.output_norm", n)
    add("dec.output_norm", n)
    for i in range(layers):
        for side in ("enc", "dec"):
            add(f"{side}.blk.{i}.attn_norm", n)
            add(f"{side}.blk.{i}.attn_rel_b", 8, n_head)
            for part in ("q", "k", "v", "o"):
                add(f"{side}.blk.{i}.attn_{part}", n, n)
            add(f"{side}.blk.{i}.ffn_norm", n)
            add(f"{side}.blk.{i}.ffn_up", n_ff, n)
            add(f"{side}.blk.{i}.ffn_down", n, n_ff)
        add(f"dec.blk.{i}.cross_attn_norm", n)
        for part in ("q", "k", "v", "o"):
            add(f"dec.blk.{i}.cross_attn_{part}", n, n)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_encoder_decoder_without_a_vocabulary(tmp_path):
    path = write_t5(tmp_path / "t5.gguf")
    done = verify(path, tmp_path, planned(path), threads=1)
    assert done.ok, done.problem
    with Llama.load(path, LoadSettings(context=256, threads=1), tmp_path) as llama:
        assert not llama.info.can_chat and "no vocabulary" in llama.info.why_not


def test_an_embedding_model_says_that_it_cannot_chat(tmp_path):
    path = make_model(tmp_path / "bert.gguf", "bert")
    with Llama.load(path, LoadSettings(context=256, threads=1), tmp_path) as llama:
        assert not llama.info.can_chat and "embeddings" in llama.info.why_not


def test_a_random_model_that_ends_at_once(tmp_path):
    with Llama.load(SAMPLE.model, LoadSettings(context=256, threads=1), tmp_path) as llama:
        first = llama.tokenize(verify(SAMPLE.model, tmp_path, threads=1).text)[0]
    path = make_variant(tmp_path / "m.gguf", {"tokenizer.ggml.eos_token_id": value("uint32", first)})
    done = verify(path, tmp_path, threads=1)
    assert done.ok and done.tokens > 8


@pytest.mark.parametrize("tensor", ["output_norm.weight", "blk.2.ffn_norm.weight"])
def test_nan_weights(tensor, tmp_path):
    path = with_bytes(tmp_path / "m.gguf", tensor, np.full(256, np.nan, np.float32).tobytes())
    done = verify(path, tmp_path, threads=1)
    assert not done.ok and "not numbers" in done.problem and "\n" not in done.problem


def test_nan_in_an_embedding_model(tmp_path):
    path = make_model(tmp_path / "bert.gguf", "bert")
    place = read_model(path).by_name["token_embd_norm.bias"]
    content = bytearray(path.read_bytes())
    content[place.offset : place.offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    done = verify(path, tmp_path, threads=1)
    assert not done.ok and "not numbers" in done.problem


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plan: [*plan, ("extra.weight", "F16")], "1 planned tensors are missing"),
        (lambda plan: plan[1:], "not planned"),
        (lambda plan: [(plan[0][0], "Q4_K"), *plan[1:]], "another type than planned"),
    ],
)
def test_a_header_that_is_not_as_planned(change, says, tmp_path):
    done = verify(SAMPLE.model, tmp_path, change(planned(SAMPLE.model)), threads=1)
    assert not done.ok and says in done.problem


def test_bad_files_are_told_not_raised(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nothing of the kind")
    for path in (bad, tmp_path / "none.gguf", tmp_path):
        done = verify(path, tmp_path, threads=1)
        assert not done.ok and done.problem and "\n" not in done.problem


def test_crashing_files_are_told_not_raised(tmp_path):
    path = make_variant(tmp_path / "m.gguf", {"llama.block_count": value("uint32", 100_000)})
    assert "llama.cpp stopped itself" in verify(path, tmp_path, threads=1).problem
    path = make_variant(tmp_path / "m2.gguf", {"tokenizer.ggml.tokens": array("string", [])})
    assert not verify(path, tmp_path, threads=1).ok
