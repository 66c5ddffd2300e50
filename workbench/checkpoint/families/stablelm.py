"""StableLM: layer norms with biases, part of each head rotated; norms of each head on its own in the larger ones."""

from __future__ import annotations

from ..config import Config
from ..family import Family, Weight
from ..keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    KV_HEADS,
    NORM_EPS,
    OWN_FREQ_BASE,
    ROPE_SCALING,
    Key,
    number,
)
from .blocks import EMBEDDINGS, GATED, OUTPUT_OF_ITS_OWN, attention, linear

_LAYER = "model.layers.{i}"


def _sequential(config: Config, layer: int) -> bool:
    return not config.flag("use_parallel_residual")


def _normed_heads(config: Config, layer: int) -> bool:
    return config.flag("qk_layernorm")


STABLELM = Family(
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    architecture="stablelm",
    weights=(
        EMBEDDINGS,
        *linear("model.norm", "output_norm", "d"),
        OUTPUT_OF_ITS_OWN,
        *linear(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm", "d"),
        Weight(f"{_LAYER}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight", ("d",), layers=_sequential),
        Weight(
            f"{_LAYER}.post_attention_layernorm.bias",
            "blk.{i}.ffn_norm.bias",
            ("d",),
            optional=True,
            layers=_sequential,
        ),
        *attention(),
        Weight(
            f"{_LAYER}.self_attn.q_layernorm.norms.{{e}}.weight",
            "blk.{i}.attn_q_norm.weight",
            ("head",),
            count="heads",
            layers=_normed_heads,
        ),
        Weight(
            f"{_LAYER}.self_attn.k_layernorm.norms.{{e}}.weight",
            "blk.{i}.attn_k_norm.weight",
            ("head",),
            count="kv_heads",
            layers=_normed_heads,
        ),
        *GATED,
    ),
    keys=(
        CONTEXT,
        EMBEDDING,
        BLOCKS,
        FEED_FORWARD,
        number("rope.dimension_count", lambda c: int(c.rotary * (c.hidden // c.heads))),
        HEADS,
        KV_HEADS,
        Key("use_parallel_residual", "bool", lambda c: c.flag("use_parallel_residual", default=True)),
        NORM_EPS,
        OWN_FREQ_BASE,
        *ROPE_SCALING,
    ),
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "tie_word_embeddings": False,
    },
    extents=lambda c: {"ff": c.feed_forward},
)
