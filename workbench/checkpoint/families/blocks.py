"""What many families share: the names that transformers gives the parts of a decoder, and what GGUF calls them."""

from __future__ import annotations

from dataclasses import replace

from ..family import Extents, MakeView, Weight
from ..stored import StoredTensor
from ..views import Gathered, View, halves_to_pairs

EMBEDDINGS = Weight("model.embed_tokens.weight", "token_embd.weight", ("vocab", "d"))
OUTPUT_NORM = Weight("model.norm.weight", "output_norm.weight", ("d",))
OUTPUT = Weight("lm_head.weight", "output.weight", ("vocab", "d"), tied=True)
# For architectures whose output llama.cpp does not take from the embeddings by itself.
OUTPUT_OF_ITS_OWN = replace(OUTPUT, shared="model.embed_tokens.weight")
ENDS = (EMBEDDINGS, OUTPUT_NORM, OUTPUT)

ATTENTION_NORM = Weight("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight", ("d",))
FEED_FORWARD_NORM = Weight("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight", ("d",))
NORMS = (ATTENTION_NORM, FEED_FORWARD_NORM)


def linear(
    stored: str, name: str, *shape: str, view: MakeView | None = None, biased: bool = False
) -> tuple[Weight, Weight]:
    """A matrix (rows, columns) or a norm, and the bias that it may have; `biased`: that llama.cpp expects."""
    return (
        Weight(f"{stored}.weight", f"{name}.weight", shape, view),
        Weight(f"{stored}.bias", f"{name}.bias", shape[:1], view, optional=True, zeros=biased),
    )


def paired(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """Query or key rows of architectures that rotate neighbouring values."""
    return Gathered(parts, parts[0].shape, halves_to_pairs(extents["head"]))


def attention(
    rotated: MakeView | None = None, *, biased: bool = False, output_bias: bool = False
) -> tuple[Weight, ...]:
    """Projections to queries, keys and values, and back.

    `biased`: llama.cpp expects a bias at the last; `output_bias`: it takes one there if there is one.
    """
    layer = "model.layers.{i}.self_attn"
    return (
        *linear(f"{layer}.q_proj", "blk.{i}.attn_q", "q", "d", view=rotated),
        *linear(f"{layer}.k_proj", "blk.{i}.attn_k", "kv", "d", view=rotated),
        *linear(f"{layer}.v_proj", "blk.{i}.attn_v", "kv", "d"),
        *linear(f"{layer}.o_proj", "blk.{i}.attn_output", "d", "q", biased=biased)[: 2 if biased or output_bias else 1],
    )


def head_norms(rows: str = "head", kv_rows: str = "head") -> tuple[Weight, Weight]:
    """Norms of queries and keys."""
    layer = "model.layers.{i}.self_attn"
    return (
        Weight(f"{layer}.q_norm.weight", "blk.{i}.attn_q_norm.weight", (rows,)),
        Weight(f"{layer}.k_norm.weight", "blk.{i}.attn_k_norm.weight", (kv_rows,)),
    )


GATED_BIASED = (
    *linear("model.layers.{i}.mlp.gate_proj", "blk.{i}.ffn_gate", "ff", "d"),
    *linear("model.layers.{i}.mlp.up_proj", "blk.{i}.ffn_up", "ff", "d"),
    *linear("model.layers.{i}.mlp.down_proj", "blk.{i}.ffn_down", "d", "ff"),
)
"""A feed-forward part with a gate, of architectures for which llama.cpp takes biases there."""

GATED = tuple(weight for weight in GATED_BIASED if weight.name.endswith(".weight"))
"""A feed-forward part with a gate and without biases."""


def experts(layer: str, gate: str, up: str, down: str) -> tuple[Weight, ...]:
    """A router and experts that are stored one by one."""
    return (
        Weight(f"{layer}.gate.weight", "blk.{i}.ffn_gate_inp.weight", ("experts", "d")),
        Weight(f"{layer}.experts.{{e}}.{gate}.weight", "blk.{i}.ffn_gate_exps.weight", ("expert_ff", "d")),
        Weight(f"{layer}.experts.{{e}}.{up}.weight", "blk.{i}.ffn_up_exps.weight", ("expert_ff", "d")),
        Weight(f"{layer}.experts.{{e}}.{down}.weight", "blk.{i}.ffn_down_exps.weight", ("d", "expert_ff")),
    )
