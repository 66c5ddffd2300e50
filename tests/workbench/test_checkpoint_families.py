"""Every family: our conversion against transformers' logits, tokens and chats, and against llama.cpp's converter.

The answers stand in tests/checkpoints; make_checkpoints.py and record_converter.py of tests/support made them.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest

from quantdeck.workbench.checkpoint import CheckpointSource, read_checkpoint
from quantdeck.workbench.checkpoint.families import FAMILIES
from quantdeck.workbench.model import open_source, read_model
from quantdeck.workbench.sample import SAMPLE
from support import checkpoints
from support.checkpoints import CHAT, DIFFICULT, FIXTURES, build, convert
from support.llama_logits import ask
from support.record_scaled_rope import ANSWERS, IDS, KINDS, scaled
from support.record_scaled_rope import FAMILIES as FAMILIES_SCALED

ALL = checkpoints.families()

# ggml computes GELU through a table of 16-bit values, which six layers of random weights amplify: with activations
# rounded like that, transformers differs from itself by 1.7e-3, and from us by 3.6e-4.
TOLERANCE = {"gemma3": 2e-3}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory):
    """What llama.cpp says of each fixture's conversion to F32; made once for all tests of this file."""

    @lru_cache
    def answer(family: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(family)
        build(family, folder / family)
        model = read_checkpoint(folder / family, matrices="F32")
        with np.load(FIXTURES / family / "expected.npz") as expected:
            return ask(convert(model, folder / "model.gguf"), expected["ids"], DIFFICULT, folder)

    return answer


def _expected(family: str) -> dict[str, Any]:
    with np.load(FIXTURES / family / "expected.npz") as content:
        return dict(content)


@pytest.mark.parametrize("family", ALL)
def test_logits_are_those_of_transformers(family: str, answers):
    expected = _expected(family)
    wanted, found = expected["logits"] * expected["scale"], answers(family)["logits"]
    assert found.shape == wanted.shape == (64, wanted.shape[1])
    assert np.abs(found - wanted).max() <= TOLERANCE.get(family, 1e-3) * np.abs(wanted).max()
    assert np.linalg.norm(found - wanted) <= TOLERANCE.get(family, 1e-3) * np.linalg.norm(wanted)
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()


@pytest.mark.parametrize("family", ALL)
def test_tokens_are_those_of_transformers(family: str, answers):
    assert answers(family)["tokens"].tolist() == _expected(family)["tokens"].tolist()


@pytest.mark.parametrize("family", ALL)
def test_chats_are_rendered_as_by_transformers(family: str, tmp_path: Path):
    model = read_checkpoint(build(family, tmp_path / family))
    tokens = model.get("tokenizer.ggml.tokens")
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        model.get("tokenizer.chat_template")
    )
    rendered = template.render(
        messages=CHAT,
        add_generation_prompt=True,
        bos_token=tokens[model.get("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[model.get("tokenizer.ggml.eos_token_id")],
    )
    assert rendered == json.loads((FIXTURES / family / "expected.json").read_text("utf-8"))["chat"]


@pytest.mark.parametrize("family", ALL)
def test_tensors_are_those_of_llama_cpps_converter(family: str, tmp_path: Path):
    model = read_checkpoint(build(family, tmp_path / family))
    source = CheckpointSource(model)
    found = {
        t.name: [list(t.shape), t.type, hashlib.sha256(source.raw(t.name, 0, t.n_rows)).hexdigest()[:16]]
        for t in model.tensors
    }
    assert found == _converter(family)["tensors"]


# Where our metadata differs from the converter's, and why.
EXPLAINED = {
    # Not in this version of transformers any more, so that it takes an added token for a piece like the others; we ask
    # tokenizer.json. And from tokenizer.json alone it gives all tokens one score, which spoils the tokenization.
    "tokenizer.ggml.tokens": ("gemma", "gemma2", "gemma3", "mistral"),
    "tokenizer.ggml.scores": ("gemma", "gemma2", "gemma3", "mistral", "phi3"),
    "tokenizer.ggml.token_type": ("gemma", "gemma2", "gemma3", "mistral", "phi3"),
    # Numbers of CodeGemma's tokens, which the converter writes for every vocabulary.
    "tokenizer.ggml.eot_token_id": ("gemma",),
    # The converter forgets it for this family; llama.cpp then takes F32.
    "general.file_type": ("gptneox",),
}


@pytest.mark.parametrize("family", ALL)
def test_metadata_is_that_of_llama_cpps_converter(family: str, tmp_path: Path):
    model = read_checkpoint(build(family, tmp_path / family))
    wanted = _converter(family)["metadata"]
    found = {key: _comparable(key, model.metadata[key].python) for key in model.metadata if key != "general.name"}
    different = {key for key in wanted | found if wanted.get(key) != found.get(key)}
    assert {key: (wanted.get(key), found.get(key)) for key in different if family not in EXPLAINED.get(key, ())} == {}


def _converter(family: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((FIXTURES / family / "converter.json").read_text("utf-8"))
    return answer


def _comparable(key: str, item: Any) -> Any:
    if isinstance(item, list) and key.startswith("tokenizer.ggml."):
        return hashlib.sha256(json.dumps(item, ensure_ascii=False).encode()).hexdigest()[:16]
    return item


@pytest.mark.parametrize("family", ALL)
def test_any_range_of_rows_is_the_same_rows(family: str, tmp_path: Path):
    model = read_checkpoint(build(family, tmp_path / family, shards=3))
    source = open_source(model)
    state = np.random.RandomState(3)
    for tensor in model.tensors:
        if ".1." in tensor.name and "deepseek2-lite" in family:
            continue
        whole = source.rows(tensor.name, 0, tensor.n_rows)
        assert whole.shape == (tensor.n_rows, tensor.row_length) and whole.dtype == np.float32
        for _ in range(3):
            first = int(state.randint(0, tensor.n_rows))
            count = int(state.randint(0, tensor.n_rows - first + 1))
            assert np.array_equal(source.rows(tensor.name, first, count), whole[first : first + count]), tensor.name
        size = tensor.n_bytes // tensor.n_rows
        last = tensor.n_rows - 1
        assert source.raw(tensor.name, 0, tensor.n_rows)[last * size :] == source.raw(tensor.name, last, 1)
    source.close()


def test_each_family_has_a_fixture():
    made = {json.loads((FIXTURES / family / "config.json").read_text())["architectures"][0] for family in ALL}
    aliases = {"LLaMAForCausalLM", "StableLMEpochForCausalLM", "RWForCausalLM", "Gemma3ForConditionalGeneration"}
    assert made | aliases == set(FAMILIES)


def test_the_samples_checkpoint_becomes_the_samples_gguf():
    """The checkpoint is four times the size of all fixtures, so QUANTDECK_SAMPLE_CHECKPOINT says where it is."""
    folder = Path(os.environ.get("QUANTDECK_SAMPLE_CHECKPOINT", "nowhere"))
    if not folder.is_dir():
        pytest.skip("the sample's checkpoint is not here")
    wanted, found = read_model(SAMPLE.model), read_checkpoint(folder, matrices="F16")
    ours, theirs = CheckpointSource(found), open_source(wanted)
    assert {t.name: (t.shape, t.type) for t in found.tensors} == {t.name: (t.shape, t.type) for t in wanted.tensors}
    for tensor in wanted.tensors:
        assert ours.raw(tensor.name, 0, tensor.n_rows) == theirs.raw(tensor.name, 0, tensor.n_rows), tensor.name
    assert found.get("tokenizer.ggml.tokens") == wanted.get("tokenizer.ggml.tokens")
    assert found.get("tokenizer.ggml.pre") == "gpt-2"


@pytest.mark.parametrize("family", FAMILIES_SCALED)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_with_scaled_rotary_positions_are_those_of_transformers(family: str, kind: str, tmp_path: Path):
    """For families of which llama.cpp's converter leaves the scaling out; record_scaled_rope.py made the answers."""
    model = read_checkpoint(scaled(family, kind, tmp_path / "model"), matrices="F32")
    found = ask(convert(model, tmp_path / "model.gguf"), IDS, "", tmp_path)["logits"][-1]
    with np.load(ANSWERS) as answers:
        wanted = answers[f"{family} {kind}"]
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
