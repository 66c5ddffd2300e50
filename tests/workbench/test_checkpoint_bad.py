"""Checkpoints that are damaged, hostile or of another kind: each is refused in one sentence, nothing is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.checkpoint import read_checkpoint, with_matrices
from quantdeck.workbench.checkpoint.stored import ITEM_BYTES, read_stored
from quantdeck.workbench.errors import BadArgument, ModelNotFound, QuantdeckError, ValidationFailed
from quantdeck.workbench.jobs import JobStore
from quantdeck.workbench.model import CheckStopped, check_weights, finite, open_source, read_model
from quantdeck.workbench.recipe import Request
from support.checkpoints import FIXTURES, build, change_json, draw_weights, write_safetensors

Harm = Callable[[Path], Any]


def _header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a safetensors header in place of the old one; the weights stay."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _entry(name: str, **changes: Any) -> Harm:
    return lambda folder: _header(folder / "model.safetensors", lambda header: header[name].update(changes))


def _twice(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].rstrip()
    entry = json.dumps({"model.norm.weight": json.loads(text)["model.norm.weight"]})[1:-1]
    text = text[:-1] + b"," + entry.encode() + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _rename(old: str, new: str) -> Harm:
    return lambda folder: _header(folder / "model.safetensors", lambda header: header.update({new: header.pop(old)}))


def _write(name: str, content: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(content)


def _config(**changes: Any) -> Harm:
    return lambda folder: change_json(folder / "config.json", **changes)


def _cut(n_bytes: int) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-n_bytes])

    return harm


def _tokenizer_of(family: str) -> Harm:
    def harm(folder: Path) -> None:
        other = build(family, folder / "other")
        (folder / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes())

    return harm


def _panics(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change_json(folder / "tokenizer.json", model=tokenizer["model"] | {"continuing_subword_prefix": "xxx"})


def _fewer_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["vocab"] = {text: i for text, i in tokenizer["model"]["vocab"].items() if i < 100}
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < 100]
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer), "utf-8")


Q = "model.layers.0.self_attn.q_proj.weight"

HARMS: dict[str, tuple[Harm, str]] = {
    "no header": (_write("model.safetensors", b"abc"), "is not a safetensors file"),
    "empty": (_write("model.safetensors", b""), "is not a safetensors file"),
    "header longer than the file": (
        _write("model.safetensors", (5000).to_bytes(8, "little") + b"{}"),
        "its header has 5000 bytes, and the file ends before",
    ),
    "header of 2^63 bytes": (_write("model.safetensors", (1 << 63).to_bytes(8, "little") + b"{}"), "not a safetensors"),
    "header no JSON": (_write("model.safetensors", (2).to_bytes(8, "little") + b"]["), "its header is not JSON"),
    "header a list": (_write("model.safetensors", (2).to_bytes(8, "little") + b"[]"), "not a list of tensors"),
    "deep nesting": (
        _write("model.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000),
        "its header is not JSON",
    ),
    "Git LFS pointer": (
        _write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        "Git LFS pointer",
    ),
    "cut off": (_cut(100), "ends 100 bytes after the file"),
    "too long": (
        lambda folder: (folder / "model.safetensors").open("ab").write(b"x" * 10),
        r"tensors take \d+ bytes, and the file holds",
    ),
    "overlap": (_entry("model.norm.weight", data_offsets=[0, 512]), "overlaps another one|nothing stands before"),
    "gap": (_entry("model.norm.weight", data_offsets=[10**7, 10**7 + 512]), "bytes after the file|nothing stands"),
    "negative offset": (_entry(Q, data_offsets=[-4, 131068]), "does not say where tensor"),
    "offsets backwards": (_entry(Q, data_offsets=[10, 4]), "does not say where tensor"),
    "offsets no numbers": (_entry(Q, data_offsets=["a", "b"]), "does not say where tensor"),
    "huge shape": (_entry(Q, shape=[1 << 40, 1 << 40]), "does not take"),
    "shape no list": (_entry(Q, shape="256"), "does not say where tensor|does not take"),
    "shape with true": (_entry(Q, shape=[True, 65536]), "does not say where tensor"),
    "unknown type": (_entry(Q, dtype="F7"), "in a type that is not known"),
    "type a list": (_entry(Q, dtype=[]), "in a type that is not known"),
    "another type": (_entry(Q, dtype="I16"), "is stored as I16, and only F32, F16, BF16 can be converted"),
    "another shape": (
        _entry(Q, shape=[128, 512]),
        r"has the shape \[128, 512\], and config.json asks for \[256, 256\]",
    ),
    "duplicate name": (_twice, "its header holds model.norm.weight twice"),
    "tensor missing": (_rename("model.norm.weight", "model.norm.weight2"), "model.norm.weight is missing"),
    "tensor too many": (_rename("lm_head.weight", "lm_hat.weight"), "lm_head.weight is missing"),
    "layers beyond": (_config(num_hidden_layers=1), "and config.json names 1 layers"),
    "layers missing": (_config(num_hidden_layers=3), r"model.layers.2\..* is missing"),
    "hidden size": (_config(hidden_size=128), "config.json asks for"),
    "heads": (_config(num_attention_heads=0), "num_attention_heads must be at least 1"),
    "kv heads": (_config(num_key_value_heads=3), "num_key_value_heads must be a divisor of 4"),
    "no hidden size": (_config(hidden_size=None), "hidden_size must be a whole number and is missing"),
    "hidden size in words": (_config(hidden_size="many"), "hidden_size must be a whole number and is many"),
    "eps infinite": (_config(rms_norm_eps=float("inf")), "rms_norm_eps must be a number"),
    "eps beyond all floats": (_config(rms_norm_eps=10**400), "rms_norm_eps must be a number"),
    "eps beyond float32": (_config(rms_norm_eps=1e39), "rms_norm_eps must be a number"),
    "unknown scaling": (
        _config(rope_parameters={"rope_type": "fancy", "factor": 2, "rope_theta": 1e4}),
        "rotary positions of the kind fancy",
    ),
    "unknown architecture": (
        _config(architectures=["DreamForCausalLM"]),
        "the architecture DreamForCausalLM, which cannot be converted yet; known are",
    ),
    "no architecture": (_config(architectures=None), "of no name"),
    "quantized": (_config(quantization_config={"quant_method": "gptq"}), r"is quantized already \(gptq\)"),
    "config no JSON": (_write("config.json", b"{"), "config.json is damaged: it is not JSON"),
    "config a list": (_write("config.json", b"[]"), "does not hold a JSON object"),
    "config not UTF-8": (_write("config.json", b"\xff\xfe{}"), "it is not text in UTF-8"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "tokenizer damaged": (_write("tokenizer.json", b"{}"), "does not hold a vocabulary|holds no tokenizer"),
    "tokenizer at which its package panics": (
        _panics,
        "tokenizer.json is damaged: ",
    ),
    "tokenizer no JSON": (_write("tokenizer.json", b"nonsense"), "tokenizer.json is damaged: it is not JSON"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    "tokenizer of another model": (_tokenizer_of("llama2"), "does not belong|cannot be converted"),
    "tokenizer with few tokens": (_fewer_tokens, "has only 100 tokens of the model's 448"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_it_is_refused_in_one_sentence(harm: str, tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    inflict, sentence = HARMS[harm]
    inflict(folder)
    with pytest.raises((ValidationFailed, ModelNotFound), match=sentence) as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


def test_half_a_character_is_refused(tmp_path: Path):
    folder = build("gemma2", tmp_path / "model")
    _tokenizer_with(lambda tokenizer: tokenizer["added_tokens"][0].update(content="\ud800"))(folder)
    with pytest.raises(ValidationFailed, match="ends within a character"):
        read_model(folder)


def test_numbers_of_tokens_that_are_none_are_passed_over(tmp_path: Path):
    folder = build("gemma2", tmp_path / "model")
    entry = {"content": "<x>", "special": True}
    _settings(added_tokens_decoder={"9" * 5000: entry, "-1": entry, "\u0663": entry})(folder)
    assert "<x>" not in read_model(folder).get("tokenizer.ggml.tokens")


def _one_sentence(text: str) -> None:
    assert "\n" not in text and text.endswith(".") and len(text) < 1500
    assert "Traceback" not in text and "Error" not in text


def _output_bias(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    n_bytes = len(content) - 8 - int.from_bytes(content[:8], "little")
    name, place = Q.replace("q_proj.weight", "o_proj.bias"), [n_bytes, n_bytes + 512]
    _header(path, lambda header: header.update({name: {"dtype": "BF16", "shape": [256], "data_offsets": place}}))
    with path.open("ab") as file:
        file.write(bytes(512))


UNFIT: dict[str, tuple[str, Harm, str]] = {
    "qwen3 with a bias behind attention": ("qwen3", _output_bias, "self_attn.o_proj.bias, which its architecture does"),
    "gemma2 with another scale": ("gemma2", _config(query_pre_attn_scalar=48), "for heads of 48 values .* for 64 here"),
    "gemma3 with another scale": ("gemma3", _config(query_pre_attn_scalar=None), "for heads of 256 values"),
    "deepseek2 without narrow queries": ("deepseek2", _config(q_lora_rank=0), "2 layers without q_lora_rank"),
    "deepseek2 with groups": (
        "deepseek2",
        _config(topk_method="group_limited_greedy", n_group=2, topk_group=1),
        "chooses groups of experts by their best one",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_llama_cpp_cannot_run_is_refused(case: str, tmp_path: Path):
    family, inflict, sentence = UNFIT[case]
    folder = build(family, tmp_path / "model")
    assert read_model(folder).tensors
    inflict(folder)
    with pytest.raises(ValidationFailed, match=sentence) as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


def _settings(**changes: Any) -> Harm:
    return lambda folder: change_json(folder / "tokenizer_config.json", **changes)


def _ids(**changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        change_json(folder / "config.json", **changes)
        change_json(folder / "generation_config.json", **changes)

    return harm


def _tokenizer_with(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(tokenizer)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")

    return harm


def _swapped(*names: str, family: str) -> Harm:
    """These files of another family's checkpoint; the model is told to have as many tokens as they need."""

    def harm(folder: Path) -> None:
        other = build(family, folder / "other")
        for name in names:
            (folder / name).write_bytes((other / name).read_bytes())

    return harm


def _renumbered(tokenizer: dict[str, Any]) -> None:
    """The same words under other numbers, as in a vocabulary of the same size that was trained on another text."""
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {text: len(vocabulary) - 1 - i for text, i in vocabulary.items()}
    for token in tokenizer["added_tokens"]:
        token["id"] = tokenizer["model"]["vocab"].get(token["content"], token["id"])


FOREIGN: dict[str, tuple[str, Harm, str]] = {
    "no such end": (
        "qwen2",
        _settings(eos_token="<|eot_id|>"),
        r"ends texts with <\|eot_id\|> \(eos_token\), and",
    ),
    "no such beginning": (
        "llama2",
        _settings(bos_token={"content": "<bos>"}),
        r"begins texts with <bos> \(bos_token\)",
    ),
    "an end that is a word": (
        "qwen2",
        _ids(eos_token_id=300),
        r"ends texts with token 300 \(eos_token_id\), which is '.*' here, and the tokenizer with 2, <\|im_end\|>",
    ),
    "several ends that are words": ("qwen2", _ids(eos_token_id=[300, 301]), "ends texts with token 300"),
    "a beginning that is unknown": ("llama2", _ids(bos_token_id=0), r"begins texts with token 0 .* '<unk>' here"),
    "crossed": ("gemma", _config(bos_token_id=1, eos_token_id=2), "begins texts with token 1 and ends them with 2"),
    "gemma's in a llama": (
        "llama2",
        _swapped("tokenizer.json", "tokenizer.model", "tokenizer_config.json", family="gemma"),
        "begins texts with token 1 and ends them with 2",
    ),
    "one of two files": ("llama2", _swapped("tokenizer.json", family="gemma2"), "are of two models: they agree on"),
    "the other of two files": ("llama2", _swapped("tokenizer.model", family="gemma"), "are of two models"),
    "other numbers": (
        "llama3",
        _tokenizer_with(_renumbered),
        "begins texts with token 0",
    ),
    "foreign settings": (
        "qwen2",
        _settings(added_tokens_decoder={"151645": {"content": "<|im_end|>", "special": True}}),
        r"gives the token <\|im_end\|> the number 151645, and the vocabulary 2",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_tokenizer_that_does_not_belong_is_refused(case: str, tmp_path: Path):
    family, inflict, sentence = FOREIGN[case]
    folder = build(family, tmp_path / "model")
    inflict(folder)
    with pytest.raises(ValidationFailed, match=sentence) as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


USUAL: dict[str, tuple[str, Harm]] = {
    "ids of another size": ("qwen2", _config(eos_token_id=151645, bos_token_id=151643, pad_token_id=151643)),
    "ids left at the class's": ("llama3", _config(eos_token_id=2, bos_token_id=1)),
    "GPT-2's": ("gpt2", _config(eos_token_id=50256, bos_token_id=50256)),
    "an end that fine-tuning chose": ("qwen2", _config(eos_token_id=0)),
    "several ends": ("llama3", _config(eos_token_id=[300, 3])),
    "one more end to generate with": (
        "qwen2",
        lambda folder: change_json(folder / "generation_config.json", eos_token_id=[2, 0, 300]),
    ),
    "no beginning": ("qwen2", _settings(bos_token=None)),
    "no settings at all": ("qwen2", lambda folder: (folder / "tokenizer_config.json").unlink()),
    "empty strings": ("llama2", _settings(bos_token="", eos_token="", unk_token="")),
    "a padding token that is nowhere": ("llama2", _settings(pad_token="[PAD]")),
    "an end that only the settings list": (
        "qwen2",
        _settings(eos_token="<|end|>", added_tokens_decoder={"440": {"content": "<|end|>", "special": True}}),
    ),
    "ids of none": ("qwen2", _config(eos_token_id=-1, bos_token_id=None, pad_token_id=-1)),
    "broken defaults": ("qwen2", lambda folder: (folder / "generation_config.json").write_text("{")),
}


@pytest.mark.parametrize("case", USUAL)
def test_small_disagreements_of_published_models_are_not_refused(case: str, tmp_path: Path):
    family, inflict = USUAL[case]
    folder = build(family, tmp_path / "model")
    inflict(folder)
    assert read_model(folder).get("tokenizer.ggml.tokens")


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gptneox", "falcon", "stablelm"])
def test_a_rotary_base_of_its_own_is_kept(family: str, tmp_path: Path):
    """llama.cpp's converter leaves it out for these families, and llama.cpp reads it."""
    folder = build(family, tmp_path / "model")
    key = f"{read_model(folder).architecture}.rope.freq_base"
    assert read_model(folder).get(key) is None
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    change_json(folder / "config.json", rope_parameters=rope | {"rope_theta": 50000.0})
    assert read_model(folder).get(key) == 50000.0


def _rope(**changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        rope = json.loads((folder / "config.json").read_text()).get("rope_parameters", {})
        change_json(folder / "config.json", rope_parameters=rope | changes)

    return harm


ROTATING = ["command-r", "falcon", "gemma", "gemma2", "gptneox", "granite", "llama2", "olmo2", "qwen2", "stablelm"]


@pytest.mark.parametrize("family", ROTATING)
def test_scaled_rotary_positions_are_kept(family: str, tmp_path: Path):
    """llama.cpp reads them for every architecture, and its converter leaves them out for some."""
    folder = build(family, tmp_path / "model")
    unscaled = read_model(folder)
    assert unscaled.get("{arch}.rope.scaling.type") == ("none" if family == "command-r" else None)
    _rope(rope_type="linear", factor=4.0)(folder)
    model = read_model(folder)
    assert (model.get("{arch}.rope.scaling.type"), model.get("{arch}.rope.scaling.factor")) == ("linear", 4.0)
    _rope(rope_type="yarn", original_max_position_embeddings=32)(folder)
    model = read_model(folder)
    assert model.get("{arch}.rope.scaling.type") == "yarn"
    assert model.get("{arch}.rope.scaling.original_context_length") == 32
    assert model.get("{arch}.rope.scaling.attn_factor") is None
    _rope(attention_factor=1.5)(folder)
    # llama.cpp multiplies by 0.1 ln(4) + 1 = 1.13863 by itself.
    assert read_model(folder).get("{arch}.rope.scaling.attn_factor") == pytest.approx(1.5 / 1.1386294)


def test_llama_3s_rotary_factors_are_rounded_as_by_torch(tmp_path: Path):
    """The factors of llama.cpp's converter, whose steps are torch's in float32, to the last bit."""
    folder = build("llama3", tmp_path / "model")
    _rope(rope_theta=250000.0, factor=16.0, original_max_position_embeddings=48)(folder)
    source = open_source(read_model(folder))
    wanted = [1, 1, 1.1794641017913818, 2.0223162174224854, 3.923760175704956, 10.827181816101074] + [16] * 26
    assert source.rows("rope_freqs.weight", 0, 1)[0].tolist() == wanted
    source.close()


@pytest.mark.parametrize("family", ["qwen2", "smollm3", "gemma", "gptneox", "falcon", "phi3", "deepseek2"])
@pytest.mark.parametrize("kind", ["llama3", "longrope", "dynamic", "proportional"])
def test_rotary_positions_that_would_be_lost_are_refused(family: str, kind: str, tmp_path: Path):
    folder = build(family, tmp_path / "model")
    _rope(rope_type=kind, factor=4.0, original_max_position_embeddings=32)(folder)
    sentence = "long_factor must be a list" if (family, kind) == ("phi3", "longrope") else f"of the kind {kind}, which"
    with pytest.raises(ValidationFailed, match=sentence) as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


@pytest.mark.parametrize(("name", "value"), [("beta_fast", 16.0), ("beta_slow", 2), ("truncate", False)])
def test_yarn_that_llama_cpp_computes_otherwise_is_refused(name: str, value: object, tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    _rope(rope_type="yarn", factor=4.0, beta_fast=32, beta_slow=1.0)(folder)
    assert read_model(folder).get("qwen2.rope.scaling.factor") == 4.0
    _rope(**{name: value})(folder)
    with pytest.raises(ValidationFailed, match=f"YaRN with {name} {value}, and llama.cpp always computes with") as e:
        read_model(folder)
    _one_sentence(str(e.value))


UNKNOWN = {
    "model.layers.1.mlp.gate_proj.bias": "would compute without this bias, so check",
    "model.layers.0.self_attn.q_norm.weight": "would compute without this weight, so check",
    "model.layers.7.mlp.gate_proj.weight": "names 2 layers: get the config.json that belongs to these weights",
    "base_model.model.layers.0.self_attn.q_proj.lora_A.weight": "merge the adapter into the model first",
    "model.layers.0.mlp.up_proj.weight_scale_inv": "which is a quantization's: get the original checkpoint",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tensor_too_many_is_named_with_what_to_do(name: str, tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    shapes = json.loads((FIXTURES / "qwen2" / "weights.json").read_text())["shapes"]
    write_safetensors(folder / "model.safetensors", draw_weights(shapes | {name: [8]}, 1), "BF16")
    with pytest.raises(ValidationFailed, match=f"holds tensor {re.escape(name)}, .*{UNKNOWN[name]}") as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


SHARD = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / SHARD).unlink(), f"A part of the model is missing: .*{SHARD}"),
        (
            lambda folder: change_json(folder / "model.safetensors.index.json", weight_map={Q: "../model.safetensors"}),
            "is not the name of a file beside it",
        ),
        (
            lambda folder: change_json(folder / "model.safetensors.index.json", weight_map={"x": SHARD}),
            "index.json is wrong: tensor x is not in",
        ),
        (
            lambda folder: change_json(folder / "model.safetensors.index.json", weight_map=None),
            "which file holds which",
        ),
        (lambda folder: change_json(folder / "model.safetensors.index.json", weight_map=[1]), "which file holds which"),
        (
            lambda folder: (folder / SHARD).write_bytes((folder / SHARD.replace("2-of", "1-of")).read_bytes()),
            "two of its files hold tensor",
        ),
    ],
)
def test_shards_that_do_not_belong_together(harm: Harm, sentence: str, tmp_path: Path):
    folder = build("llama3", tmp_path / "model", shards=3)
    harm(folder)
    with pytest.raises((ValidationFailed, ModelNotFound), match=sentence) as caught:
        read_model(folder)
    _one_sentence(str(caught.value))


def test_shards_without_an_index_are_found_and_counted(tmp_path: Path):
    folder = build("llama3", tmp_path / "model", shards=3)
    whole = read_model(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert read_model(folder).tensors == whole.tensors
    (folder / SHARD).unlink()
    with pytest.raises(ModelNotFound, match="holds 2 of the 3 files"):
        read_model(folder)


def test_pickled_weights_are_never_opened(tmp_path: Path):
    folder = build("llama3", tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ModelNotFound, match=r"never opened because they can run any program: convert them to safetensors"
    ):
        read_model(folder)


def test_a_folder_of_ggufs_is_no_checkpoint(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"is a folder; name a file in it, such as a\.gguf"):
        read_model(tmp_path)


def test_special_tokens_that_there_are_not_are_left_out(tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    change_json(folder / "config.json", pad_token_id=99999, eos_token_id=[2, 1], bos_token_id=50256)
    model = read_model(folder)
    assert model.get("tokenizer.ggml.padding_token_id") is None
    assert model.get("tokenizer.ggml.eos_token_id") == 2


def test_names_that_steer_terminals_do_not_reach_them(tmp_path: Path):
    folder = build("llama3", tmp_path / "model")
    _rename("model.norm.weight", "\x1b[2Jmodel")(folder)
    change_json(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(ValidationFailed) as caught:
        read_model(folder)
    assert "\x1b" not in str(caught.value)


def test_the_name_of_the_pre_tokenizer(tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|" * 30 + "."
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(
        ValidationFailed, match=r"cuts text in a way that is not known \(NFC, then split:.*--pre NAME"
    ) as e:
        read_model(folder)
    assert len(str(e.value)) < 300
    assert read_model(folder, pre="qwen2").get("tokenizer.ggml.pre") == "qwen2"
    with pytest.raises(BadArgument, match=r"llama\.cpp has no pre-tokenizer 'qwen'; it has .*qwen2"):
        read_model(folder, pre="qwen")


@pytest.mark.parametrize("level", ["Q8_0", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_that_are_no_numbers_are_refused_before_there_is_a_job(level: str, shards: int, tmp_path: Path):
    folder = build("llama3", tmp_path / "model", dtype="F16", shards=shards)
    store = JobStore(tmp_path / "store")
    jobs.prepare(store, folder, Request(level), tmp_path / "out.gguf", jobs.JobOptions(workers=1))
    for path in folder.glob("*.safetensors"):
        if Q2 in read_stored(path, 0):
            _nan(path, Q2)
    proposal = jobs.prepare(store, folder, Request(level), tmp_path / "out.gguf", jobs.JobOptions(workers=1))
    with pytest.raises(ValidationFailed, match=rf"Tensor {Q2} in .*\.safetensors holds NaN or infinity in row 3;") as e:
        jobs.submit(store, proposal)
    _one_sentence(str(e.value))
    assert store.list() == [] and not (tmp_path / "out.gguf").exists()


def test_weights_that_go_bad_later_end_the_job(tmp_path: Path):
    folder = build("llama3", tmp_path / "model", dtype="F16")
    _nan(folder / "model.safetensors", Q2)
    store = JobStore(tmp_path / "store")
    for level in ("Q8_0", "F16", "BF16"):
        output = tmp_path / f"{level}.gguf"
        proposal = jobs.prepare(store, folder, Request(level), output, jobs.JobOptions(workers=1))
        job = store.create(proposal.spec, proposal.plan)
        jobs.start(store, job)
        end = list(store.follow(job))[-1]
        assert end.status == "failed" and re.search(r"blk\.1\.ffn_up\.weight.*NaN", end.message), end.message
        assert not output.exists()


Q2 = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bits", ["nan", "-nan", "inf", "-inf"])
def test_each_kind_of_no_number_is_seen_and_no_number_is_taken_for_one(dtype: str, bits: str, tmp_path: Path):
    folder = build("llama3", tmp_path / "model", dtype=dtype)
    path, tensor = folder / "model.safetensors", read_stored(folder / "model.safetensors", 0)[Q2]
    item, (low, high) = ITEM_BYTES[dtype], {"F32": (0, 0x7F800000), "F16": (0, 0x7C00), "BF16": (0, 0x7F80)}[dtype]
    sign = (1 << (8 * item - 1)) if bits.startswith("-") else 0
    last = tensor.offset + (math.prod(tensor.shape) - 1) * item

    def put(value: int) -> None:
        with path.open("r+b") as file:
            file.seek(last)
            file.write((sign | value).to_bytes(item, "little"))

    model = read_model(folder)
    # The largest number there is, zero and the smallest denormal one.
    for number in (high - 1, low, low + 1):
        put(number)
        if dtype == "F32" and number == high - 1:
            with pytest.raises(ValidationFailed, match="too large for F16"):
                check_weights(model)
            check_weights(with_matrices(model, "F32"))
        else:
            check_weights(model)
    put(high + ("nan" in bits))
    with pytest.raises(ValidationFailed, match=rf"{Q2} .* in row {tensor.shape[0] - 1};"):
        check_weights(model)


def test_what_is_not_converted_is_not_looked_at(tmp_path: Path):
    """A mask of early GPT-2 files holds minus infinity on purpose."""
    folder = build("gpt2", tmp_path / "model", dtype="F32")
    weights = draw_weights(json.loads((FIXTURES / "gpt2" / "weights.json").read_text())["shapes"], 1)
    mask = {"h.0.attn.masked_bias": np.float32([-np.inf])}
    write_safetensors(folder / "model.safetensors", weights | mask, "F32")
    check_weights(read_model(folder))


def test_the_look_at_the_weights_says_where_it_is_and_can_be_stopped(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(finite, "PROGRESS_SECONDS", 0)
    model = read_model(build("llama3", tmp_path / "model"))
    seen: list[tuple[int, int]] = []
    check_weights(model, lambda done, total: seen.append((done, total)), threads=3)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    with pytest.raises(CheckStopped):
        check_weights(model, cancelled=lambda: True)


def _nan(path: Path, name: str) -> None:
    tensor = read_stored(path, 0)[name]
    with path.open("r+b") as file:
        file.seek(tensor.offset + 2000)
        file.write(np.float16("nan").tobytes())


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path):
    folder = build("llama3", tmp_path / "model")
    model = read_checkpoint(folder)
    source = open_source(model)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValidationFailed, match="has become shorter"):
        source.rows("blk.1.ffn_up.weight", 0, 512)
    source.close()
    with pytest.raises(ValidationFailed, match="incomplete"):
        open_source(model)


def test_random_damage_is_refused_or_harmless(tmp_path: Path):
    folder = build("llama2", tmp_path / "model")
    state = np.random.RandomState(5)
    files = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    originals = {name: (folder / name).read_bytes() for name in files}
    refused = 0
    for turn in range(300):
        name = files[turn % len(files)]
        content = bytearray(originals[name])
        reach = min(len(content), 2500)
        for _ in range(int(state.randint(1, 6))):
            content[int(state.randint(0, reach))] = int(state.randint(0, 256))
        (folder / name).write_bytes(bytes(content[: state.randint(1, len(content))] if turn % 7 == 0 else content))
        try:
            read_model(folder)
        except QuantdeckError as error:
            refused += 1
            _one_sentence(str(error))
        (folder / name).write_bytes(originals[name])
    assert refused > 100
