"""Command-R: one norm in front of attention and feed-forward at once, the embeddings are the output, scaled logits."""

from __future__ import annotations

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Family, Weight
from ..keys import (
    BLOCKS,
    EMBEDDING,
    FEED_FORWARD,
    FREQ_BASE,
    HEADS,
    KV_HEADS,
    NORM_EPS,
    ROPE_SCALING_OR_NONE,
    count,
    real,
)
from .blocks import ATTENTION_NORM, EMBEDDINGS, GATED, OUTPUT_NORM, attention


def _normed_heads(config: Config, layer: int) -> bool:
    return config.flag("use_qk_norm")


def _runs(config: Config) -> None:
    """llama.cpp tells the larger model, whose heads are normed, by its layers."""
    if config.flag("use_qk_norm") != (config.n_layers >= 64):
        raise ValidationFailed(
            f"{shown(config.path)} norms queries and keys in a model of {config.n_layers} layers, or does not in one of"
            " 64, which llama.cpp cannot run."
        )


_LAYER = "model.layers.{i}.self_attn"

COMMAND_R = Family(
    classes=("CohereForCausalLM",),
    architecture="command-r",
    weights=(
        EMBEDDINGS,
        OUTPUT_NORM,
        ATTENTION_NORM,
        *attention(),
        Weight(f"{_LAYER}.q_norm.weight", "blk.{i}.attn_q_norm.weight", ("heads", "head"), layers=_normed_heads),
        Weight(f"{_LAYER}.k_norm.weight", "blk.{i}.attn_k_norm.weight", ("kv_heads", "head"), layers=_normed_heads),
        *GATED,
    ),
    keys=(
        BLOCKS,
        # The first of these is what the models were trained for; the other one is what early configurations ran with.
        count("context_length", "model_max_length", "max_position_embeddings"),
        EMBEDDING,
        FEED_FORWARD,
        HEADS,
        KV_HEADS,
        FREQ_BASE,
        NORM_EPS,
        real("logit_scale", "logit_scale"),
        *ROPE_SCALING_OR_NONE,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    extents=lambda c: {"ff": c.feed_forward},
    check=_runs,
    ignored=(r"lm_head\.weight",),
)
