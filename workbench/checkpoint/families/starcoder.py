"""StarCoder 2: layer norms and matrices with biases, grouped attention, no gate."""

from __future__ import annotations

from ..family import Family
from ..keys import ATTENTION, FREQ_BASE, NORM_EPS, ROPE_SCALING
from .blocks import EMBEDDINGS, OUTPUT, attention, linear

_LAYER = "model.layers.{i}"

STARCODER2 = Family(
    classes=("Starcoder2ForCausalLM",),
    architecture="starcoder2",
    weights=(
        EMBEDDINGS,
        *linear("model.norm", "output_norm", "d"),
        OUTPUT,
        *linear(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm", "d"),
        *linear(f"{_LAYER}.post_attention_layernorm", "blk.{i}.ffn_norm", "d"),
        *attention(biased=True),
        *linear(f"{_LAYER}.mlp.c_fc", "blk.{i}.ffn_up", "ff", "d", biased=True),
        *linear(f"{_LAYER}.mlp.c_proj", "blk.{i}.ffn_down", "d", "ff", biased=True),
    ),
    keys=(*ATTENTION, *ROPE_SCALING, FREQ_BASE, NORM_EPS),
    defaults={
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    extents=lambda c: {"ff": c.feed_forward},
    window_ignored=True,
)
