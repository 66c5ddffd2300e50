"""Small random GGUF models of many architectures that llama.cpp loads, written with gguf-py, always the same by seed.

make_model(tmp_path / "m.gguf", "llama", seed=0, dtype="F16", n_layer=2) -> Path
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_CONTEXT = 128


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a model; each kind has defaults of its own, and `make_model` takes any of them by name."""

    n_layer: int = 4
    n_embd: int = 256
    n_head: int = 8
    n_head_kv: int = 2
    n_ff: int = 512
    n_vocab: int = 320
    n_expert: int = 0
    n_expert_used: int = 2

    @property
    def head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_kv(self) -> int:
        return self.head * self.n_head_kv


@dataclass
class Description:
    """What is written: metadata, and tensors as (name, shape in ggml's order)."""

    architecture: str
    sizes: Sizes
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    tokenizer: str = "llama"

    def add(self, name: str, *shape: int) -> None:
        self.tensors.append((name, shape))

    def norm(self, name: str, n: int, bias: bool = False) -> None:
        self.linear(name, n, bias=n if bias else 0)

    def linear(self, name: str, *shape: int, bias: int = 0) -> None:
        self.add(f"{name}.weight", *shape)
        if bias:
            self.add(f"{name}.bias", bias)

    def common(self, *, rms: bool = True, rope: bool = True, tied: bool = False, bias: bool = False) -> None:
        """Hyper-parameters and the tensors outside of the layers."""
        s = self.sizes
        self.metadata |= {
            "context_length": N_CONTEXT,
            "embedding_length": s.n_embd,
            "feed_forward_length": s.n_ff,
            "block_count": s.n_layer,
            "attention.head_count": s.n_head,
            "attention.head_count_kv": s.n_head_kv,
            f"attention.layer_norm{'_rms' if rms else ''}_epsilon": 1e-5,
        }
        if rope:
            self.metadata["rope.dimension_count"] = s.head
        if s.n_expert:
            self.metadata |= {"expert_count": s.n_expert, "expert_used_count": s.n_expert_used}
        self.linear("token_embd", s.n_embd, s.n_vocab)
        self.norm("output_norm", s.n_embd, bias)
        if not tied:
            self.linear("output", s.n_embd, s.n_vocab)

    def attention(self, layer: str, *, fused: bool = False, bias: bool = False) -> None:
        s = self.sizes
        if fused:
            self.linear(f"{layer}.attn_qkv", s.n_embd, s.n_embd + 2 * s.n_kv, bias=bias * (s.n_embd + 2 * s.n_kv))
        else:
            self.linear(f"{layer}.attn_q", s.n_embd, s.n_embd, bias=bias * s.n_embd)
            self.linear(f"{layer}.attn_k", s.n_embd, s.n_kv, bias=bias * s.n_kv)
            self.linear(f"{layer}.attn_v", s.n_embd, s.n_kv, bias=bias * s.n_kv)
        self.linear(f"{layer}.attn_output", s.n_embd, s.n_embd)

    def feed_forward(self, layer: str, *, gate: bool = True, bias: bool = False) -> None:
        s = self.sizes
        if gate:
            self.linear(f"{layer}.ffn_gate", s.n_embd, s.n_ff)
        self.linear(f"{layer}.ffn_up", s.n_embd, s.n_ff, bias=bias * s.n_ff)
        self.linear(f"{layer}.ffn_down", s.n_ff, s.n_embd, bias=bias * s.n_embd)

    def experts(self, layer: str, n_ff: int) -> None:
        s = self.sizes
        self.linear(f"{layer}.ffn_gate_inp", s.n_embd, s.n_expert)
        self.linear(f"{layer}.ffn_gate_exps", s.n_embd, n_ff, s.n_expert)
        self.linear(f"{layer}.ffn_up_exps", s.n_embd, n_ff, s.n_expert)
        self.linear(f"{layer}.ffn_down_exps", n_ff, s.n_embd, s.n_expert)

    @property
    def layers(self) -> list[str]:
        return [f"blk.{i}" for i in range(self.sizes.n_layer)]


def _llama(s: Sizes, *, tied: bool = False) -> Description:
    d = Description("llama", s)
    d.common(tied=tied)
    d.metadata["vocab_size"] = s.n_vocab
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.attention(layer)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        if s.n_expert:
            d.experts(layer, s.n_ff)
        else:
            d.feed_forward(layer)
    return d


def _llama_tied(s: Sizes) -> Description:
    d = _llama(s, tied=True)
    d.add("rope_freqs.weight", s.head // 2)
    return d


def _qwen2(s: Sizes) -> Description:
    d = Description("qwen2", s)
    d.common(tied=True)
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.attention(layer, bias=True)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        d.feed_forward(layer)
    return d


def _qwen3moe(s: Sizes) -> Description:
    d = Description("qwen3moe", s)
    d.common()
    d.metadata["expert_feed_forward_length"] = s.n_ff // 2
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.attention(layer)
        d.norm(f"{layer}.attn_q_norm", s.head)
        d.norm(f"{layer}.attn_k_norm", s.head)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        d.experts(layer, s.n_ff // 2)
    return d


def _gemma(s: Sizes, architecture: str) -> Description:
    d = Description(architecture, s)
    d.common(tied=True)
    d.metadata |= {
        "attention.key_length": s.head,
        "attention.value_length": s.head,
        "attention.sliding_window": N_CONTEXT // 2,
    }
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.attention(layer)
        if architecture == "gemma3":
            d.norm(f"{layer}.attn_q_norm", s.head)
            d.norm(f"{layer}.attn_k_norm", s.head)
        d.norm(f"{layer}.post_attention_norm", s.n_embd)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        d.feed_forward(layer)
        d.norm(f"{layer}.post_ffw_norm", s.n_embd)
    return d


def _gemma2(s: Sizes) -> Description:
    d = _gemma(s, "gemma2")
    d.metadata |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return d


def _gemma3(s: Sizes) -> Description:
    return _gemma(s, "gemma3")


def _phi3(s: Sizes) -> Description:
    d = Description("phi3", s)
    d.common()
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.attention(layer, fused=True)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        d.linear(f"{layer}.ffn_up", s.n_embd, 2 * s.n_ff)
        d.linear(f"{layer}.ffn_down", s.n_ff, s.n_embd)
    return d


def _falcon(s: Sizes) -> Description:
    d = Description("falcon", s)
    d.common(rms=False, bias=True)
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd, bias=True)
        d.attention(layer, fused=True)
        d.feed_forward(layer, gate=False)
    return d


def _gpt2(s: Sizes) -> Description:
    d = Description("gpt2", s)
    d.common(rms=False, rope=False, bias=True, tied=True)
    d.linear("position_embd", s.n_embd, N_CONTEXT)
    _old_layers(d)
    return d


def _bloom(s: Sizes) -> Description:
    d = Description("bloom", s)
    d.common(rms=False, rope=False, bias=True)
    d.norm("token_embd_norm", s.n_embd, bias=True)
    _old_layers(d)
    return d


def _old_layers(d: Description) -> None:
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", d.sizes.n_embd, bias=True)
        d.attention(layer, fused=True, bias=True)
        d.add(f"{layer}.attn_output.bias", d.sizes.n_embd)
        d.norm(f"{layer}.ffn_norm", d.sizes.n_embd, bias=True)
        d.feed_forward(layer, gate=False, bias=True)


def _mamba(s: Sizes) -> Description:
    d = Description("mamba", s)
    d.common(rope=False, tied=True)
    inner, state, rank, kernel = 2 * s.n_embd, 16, s.n_embd // 16, 4
    d.metadata |= {
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "feed_forward_length": 0,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    for layer in d.layers:
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.linear(f"{layer}.ssm_in", s.n_embd, 2 * inner)
        d.linear(f"{layer}.ssm_conv1d", kernel, inner, bias=inner)
        d.linear(f"{layer}.ssm_x", inner, rank + 2 * state)
        d.linear(f"{layer}.ssm_dt", rank, inner, bias=inner)
        d.add(f"{layer}.ssm_a", state, inner)
        d.add(f"{layer}.ssm_d", inner)
        d.linear(f"{layer}.ssm_out", inner, s.n_embd)
    return d


def _deepseek2(s: Sizes) -> Description:
    d = Description("deepseek2", s)
    d.common()
    rank, rope, nope, n_ff = 256, 32, 64, s.n_ff // 2
    d.metadata |= {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": rank,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": nope,
        "rope.dimension_count": rope,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": n_ff,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
        "expert_gating_func": 1,
        "vocab_size": s.n_vocab,
    }
    for i, layer in enumerate(d.layers):
        d.norm(f"{layer}.attn_norm", s.n_embd)
        d.linear(f"{layer}.attn_q_a", s.n_embd, rank)
        d.norm(f"{layer}.attn_q_a_norm", rank)
        d.linear(f"{layer}.attn_q_b", rank, s.n_head * (nope + rope))
        d.linear(f"{layer}.attn_kv_a_mqa", s.n_embd, rank + rope)
        d.norm(f"{layer}.attn_kv_a_norm", rank)
        d.linear(f"{layer}.attn_k_b", nope, rank, s.n_head)
        d.linear(f"{layer}.attn_v_b", rank, nope, s.n_head)
        d.linear(f"{layer}.attn_output", s.n_head * nope, s.n_embd)
        d.norm(f"{layer}.ffn_norm", s.n_embd)
        if i == 0:
            d.feed_forward(layer)
        else:
            d.experts(layer, n_ff)
            d.linear(f"{layer}.ffn_gate_shexp", s.n_embd, n_ff)
            d.linear(f"{layer}.ffn_up_shexp", s.n_embd, n_ff)
            d.linear(f"{layer}.ffn_down_shexp", n_ff, s.n_embd)
    return d


def _bert(s: Sizes) -> Description:
    d = Description("bert", s, tokenizer="bert")
    d.common(rms=False, rope=False, tied=True)
    d.tensors.remove(("output_norm.weight", (s.n_embd,)))
    d.metadata |= {"attention.causal": False, "pooling_type": 1}
    d.linear("token_types", s.n_embd, 2)
    d.linear("position_embd", s.n_embd, N_CONTEXT)
    d.norm("token_embd_norm", s.n_embd, bias=True)
    for layer in d.layers:
        d.attention(layer, bias=True)
        d.add(f"{layer}.attn_output.bias", s.n_embd)
        d.norm(f"{layer}.attn_output_norm", s.n_embd, bias=True)
        d.feed_forward(layer, gate=False, bias=True)
        d.norm(f"{layer}.layer_output_norm", s.n_embd, bias=True)
    return d


_KINDS: dict[str, tuple[Callable[[Sizes], Description], Sizes]] = {
    "llama": (_llama, Sizes()),
    "llama_tied": (_llama_tied, Sizes(n_head_kv=8)),
    "llama_gqa_80": (_llama, Sizes(n_layer=80, n_ff=256, n_head_kv=1)),
    "llama_moe_8": (_llama, Sizes(n_expert=8, n_ff=256)),
    "llama_moe_4": (_llama, Sizes(n_expert=4, n_ff=256)),
    "qwen2_rows_224": (_qwen2, Sizes(n_embd=224, n_head=7, n_head_kv=1, n_ff=608)),
    "qwen2_rows_80": (_qwen2, Sizes(n_embd=80, n_head=5, n_head_kv=5, n_ff=272)),
    "qwen3moe": (_qwen3moe, Sizes(n_expert=16)),
    "gemma2": (_gemma2, Sizes()),
    "gemma3": (_gemma3, Sizes(n_layer=6)),
    "phi3": (_phi3, Sizes(n_head_kv=8)),
    "falcon": (_falcon, Sizes(n_head_kv=1)),
    "gpt2": (_gpt2, Sizes(n_head_kv=8)),
    "bloom": (_bloom, Sizes(n_head_kv=8)),
    "mamba": (_mamba, Sizes()),
    "deepseek2": (_deepseek2, Sizes(n_head=4, n_head_kv=4, n_expert=8)),
    "bert": (_bert, Sizes(n_head_kv=8)),
}

KINDS = tuple(_KINDS)
DTYPES = ("F16", "F32", "BF16")


def describe(kind: str, **sizes: int) -> Description:
    """Metadata and tensors of a kind, with some dimensions changed."""
    build, defaults = _KINDS[kind]
    unknown = set(sizes) - {f.name for f in fields(Sizes)}
    assert not unknown, f"no such sizes: {unknown}"
    return build(Sizes(**{f.name: sizes.get(f.name, getattr(defaults, f.name)) for f in fields(Sizes)}))


def make_model(path: Path, kind: str, seed: int = 0, dtype: str = "F16", *, empty: bool = False, **sizes: int) -> Path:
    """Write a model of one of KINDS to `path`. With `empty` all weights are zero, which is quick for many layers."""
    return write_model(path, describe(kind, **sizes), seed, dtype, empty=empty)


def write_model(
    path: Path,
    description: Description,
    seed: int = 0,
    dtype: str = "F16",
    *,
    empty: bool = False,
    tensors_per_shard: int = 0,
) -> Path:
    """Write what is described: matrices in `dtype`, vectors, routers and convolutions in F32, as converters do.

    With `tensors_per_shard` the model is split beside `path`, and the first shard's path is returned.
    """
    writer = gguf.GGUFWriter(path, description.architecture, split_max_tensors=tensors_per_shard)
    writer.add_name("tiny model")
    writer.add_file_type({"F32": 0, "F16": 1, "BF16": 32}[dtype])
    for key, item in description.metadata.items():
        _add(writer, f"{description.architecture}.{key}", item)
    _add_tokenizer(writer, description)
    rng = np.random.default_rng(seed)
    for name, shape in description.tensors:
        weights = np.zeros(shape[::-1], np.float32) if empty else _weights(rng, name, shape[::-1])
        stored = "F32" if _stays_f32(name, shape) else dtype
        if stored == "BF16":
            packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, weights.astype(np.float16 if stored == "F16" else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf")))) if tensors_per_shard else path


def _stays_f32(name: str, shape: tuple[int, ...]) -> bool:
    kept = ("_norm", "ffn_gate_inp", "ssm_conv1d", "ssm_a", "position_embd", "token_types")
    return len(shape) == 1 or any(part in name for part in kept)


def _weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "rope_freqs.weight":
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return -np.exp(rng.normal(0, 1, shape)).astype(np.float32)
    weights = rng.standard_normal(shape, np.float32) * np.float32(0.06)
    return weights + 1 if len(shape) == 1 and name.endswith("weight") else weights


def _add(writer: gguf.GGUFWriter, key: str, item: Any) -> None:
    if isinstance(item, bool):
        writer.add_bool(key, item)
    elif isinstance(item, float):
        writer.add_float32(key, item)
    elif isinstance(item, list):
        writer.add_array(key, item)
    else:
        writer.add_uint32(key, item)


def _add_tokenizer(writer: gguf.GGUFWriter, description: Description) -> None:
    n = description.sizes.n_vocab
    writer.add_tokenizer_model(description.tokenizer)
    if description.tokenizer == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokens = special + [f"\u2581word{i}" for i in range(n - len(special))]
        types = [3] * len(special) + [1] * (n - len(special))
        writer.add_token_type_count(2)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(3)
        writer.add_sep_token_id(3)
        writer.add_mask_token_id(4)
    else:
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
        types = [2, 3, 3] + [6] * 256
        tokens += ["\u2581"] + [f"\u2581w{i}" for i in range(n - len(tokens) - 1)]
        types += [1] * (n - len(types))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(n)])
    writer.add_token_types(types)


_LOAD = """
import ctypes, sys
import llama_cpp
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
assert model, "not loaded"
params = llama_cpp.llama_context_default_params()
params.n_ctx, params.n_threads, params.embeddings = 64, 1, sys.argv[2] == "bert"
context = llama_cpp.llama_init_from_model(model, params)
tokens = (llama_cpp.llama_token * 4)(2, 10, 11, 3)
batch = llama_cpp.llama_batch_get_one(tokens, 4)
run = llama_cpp.llama_encode if sys.argv[2] == "bert" else llama_cpp.llama_decode
assert run(context, batch) == 0, "not run"
if sys.argv[2] != "bert":
    logits = llama_cpp.llama_get_logits(context)[: 320]
    assert all(x == x and abs(x) < 1e30 for x in logits), "not finite"
"""


def loads(path: Path) -> bool:
    """True if llama.cpp loads the model in a child process and computes finite figures for four tokens."""
    architecture = gguf.GGUFReader(path).fields["general.architecture"].contents()
    command = [sys.executable, "-c", _LOAD, str(path), architecture]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if child.returncode:
        print(child.stderr[-2000:])
    return child.returncode == 0
