"""GPT-NeoX (Pythia) and GPT-2: layer norms with biases, one matrix for queries, keys and values."""

from __future__ import annotations

from ..config import Config
from ..family import Extents, Family, Weight
from ..keys import BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, NORM_EPS, OWN_FREQ_BASE, ROPE_SCALING, Key, number
from ..stored import StoredTensor
from ..views import Gathered, Turned, View, from_groups
from .blocks import linear


def _head_by_head(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """Stored head by head, each with its query, key and value."""
    head = extents["head"]
    return Gathered(parts, parts[0].shape, from_groups((head, head, head), extents["heads"]))


_NEOX = "gpt_neox.layers.{i}"

GPT_NEOX = Family(
    classes=("GPTNeoXForCausalLM",),
    architecture="gptneox",
    weights=(
        Weight("gpt_neox.embed_in.weight", "token_embd.weight", ("vocab", "d")),
        *linear("gpt_neox.final_layer_norm", "output_norm", "d"),
        Weight("embed_out.weight", "output.weight", ("vocab", "d"), tied=True, shared="gpt_neox.embed_in.weight"),
        *linear(f"{_NEOX}.input_layernorm", "blk.{i}.attn_norm", "d"),
        *linear(f"{_NEOX}.post_attention_layernorm", "blk.{i}.ffn_norm", "d"),
        *linear(f"{_NEOX}.attention.query_key_value", "blk.{i}.attn_qkv", "qkv", "d", view=_head_by_head, biased=True),
        *linear(f"{_NEOX}.attention.dense", "blk.{i}.attn_output", "d", "d", biased=True),
        *linear(f"{_NEOX}.mlp.dense_h_to_4h", "blk.{i}.ffn_up", "ff", "d"),
        *linear(f"{_NEOX}.mlp.dense_4h_to_h", "blk.{i}.ffn_down", "d", "ff"),
    ),
    keys=(
        CONTEXT,
        EMBEDDING,
        BLOCKS,
        FEED_FORWARD,
        number("rope.dimension_count", lambda c: int(c.rotary * (c.hidden // c.heads))),
        OWN_FREQ_BASE,
        *ROPE_SCALING,
        HEADS,
        Key("use_parallel_residual", "bool", lambda c: c.flag("use_parallel_residual")),
        NORM_EPS,
    ),
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    },
    extents=lambda c: {"ff": c.feed_forward, "qkv": 3 * c.hidden},
)


def _turned(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """GPT-2 stores its matrices as (inputs, outputs)."""
    stored = parts[0]
    return Turned(stored, (stored.shape[1], stored.shape[0]), rows=stored.shape[0])


def _linear(stored: str, name: str, inputs: str, outputs: str) -> tuple[Weight, Weight]:
    return (
        Weight(f"{stored}.weight", f"{name}.weight", (inputs, outputs), _turned),
        Weight(f"{stored}.bias", f"{name}.bias", (outputs,)),
    )


def _inner(config: Config) -> int:
    return config.count("n_inner", default=4 * config.hidden)


GPT2 = Family(
    classes=("GPT2LMHeadModel",),
    architecture="gpt2",
    weights=(
        Weight("wte.weight", "token_embd.weight", ("vocab", "d")),
        Weight("wpe.weight", "position_embd.weight", ("positions", "d")),
        *linear("ln_f", "output_norm", "d"),
        Weight("lm_head.weight", "output.weight", ("vocab", "d"), tied=True),
        *linear("h.{i}.ln_1", "blk.{i}.attn_norm", "d"),
        *linear("h.{i}.ln_2", "blk.{i}.ffn_norm", "d"),
        *_linear("h.{i}.attn.c_attn", "blk.{i}.attn_qkv", "d", "qkv"),
        *_linear("h.{i}.attn.c_proj", "blk.{i}.attn_output", "d", "d"),
        *_linear("h.{i}.mlp.c_fc", "blk.{i}.ffn_up", "d", "ff"),
        *_linear("h.{i}.mlp.c_proj", "blk.{i}.ffn_down", "ff", "d"),
    ),
    keys=(BLOCKS, CONTEXT, EMBEDDING, number("feed_forward_length", _inner), HEADS, NORM_EPS),
    defaults={"n_positions": 1024, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    extents=lambda c: {"ff": _inner(c), "qkv": 3 * c.hidden, "positions": c.count("n_positions", "n_ctx")},
    prefix="transformer.",
)
