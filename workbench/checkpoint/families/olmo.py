"""OLMo 2: norms behind attention and feed-forward instead of before them, and over whole queries and keys."""

from __future__ import annotations

from ..family import Family, Weight
from ..keys import ROTARY_RMS
from .blocks import EMBEDDINGS, GATED, OUTPUT_NORM, OUTPUT_OF_ITS_OWN, attention, head_norms

OLMO2 = Family(
    classes=("Olmo2ForCausalLM",),
    architecture="olmo2",
    weights=(
        EMBEDDINGS,
        OUTPUT_NORM,
        OUTPUT_OF_ITS_OWN,
        *attention(),
        *head_norms("q", "kv"),
        Weight("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight", ("d",)),
        Weight("model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight", ("d",)),
        *GATED,
    ),
    keys=ROTARY_RMS,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    extents=lambda c: {"ff": c.feed_forward},
)
