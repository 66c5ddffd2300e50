"""Phi-3 and Phi-4: one matrix for queries, keys and values, one for gate and up, two sets of rotary factors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..config import Config
from ..family import Extents, Family
from ..keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    FREQ_BASE,
    HEADS,
    KV_HEADS,
    RMS_EPS,
    UNSCALED,
    count,
    number,
    ratio,
)
from ..views import MadeUp, View
from .blocks import ENDS, NORMS, linear

_LAYER = "model.layers.{i}"


def _extents(config: Config) -> Extents:
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {"ff": config.feed_forward, "gate_up": 2 * config.feed_forward, "qkv": q + 2 * kv}


def _rotated(config: Config) -> int:
    return int(config.rotary * config.hidden) // config.heads


def _trained(config: Config) -> int:
    return int(config.rope_real("original_max_position_embeddings", config.count("max_position_embeddings")))


def _attention_factor(config: Config) -> float | None:
    if not config.rope.get("long_factor"):
        return None
    scale = config.count("max_position_embeddings") / max(1, _trained(config))
    if scale <= 1:
        return 1.0
    if config.rope_type == "yarn":
        return 0.1 * math.log(scale) + 1.0
    return math.sqrt(1 + math.log(scale) / math.log(_trained(config)))


def _long_and_short(config: Config) -> Mapping[str, View]:
    found: dict[str, View] = {}
    if config.rope_type in UNSCALED and not config.rope.get("long_factor"):
        return found
    for kind in ("long", "short"):
        factors = config.rope.get(f"{kind}_factor")
        if not isinstance(factors, list) or len(factors) != _rotated(config) // 2:
            raise config.bad(f"{kind}_factor", f"a list of {_rotated(config) // 2} numbers", factors)
        values = [config.finite(factor, f"{kind}_factor") for factor in factors]
        found[f"rope_factors_{kind}.weight"] = MadeUp(np.array(values, np.float32))
    return found


PHI3 = Family(
    classes=("Phi3ForCausalLM",),
    architecture="phi3",
    weights=(
        *ENDS,
        *NORMS,
        *linear(f"{_LAYER}.self_attn.qkv_proj", "blk.{i}.attn_qkv", "qkv", "d"),
        *linear(f"{_LAYER}.self_attn.o_proj", "blk.{i}.attn_output", "d", "q"),
        *linear(f"{_LAYER}.mlp.gate_up_proj", "blk.{i}.ffn_up", "gate_up", "d"),
        *linear(f"{_LAYER}.mlp.down_proj", "blk.{i}.ffn_down", "d", "ff"),
    ),
    keys=(
        CONTEXT,
        number("rope.scaling.original_context_length", _trained),
        EMBEDDING,
        FEED_FORWARD,
        BLOCKS,
        HEADS,
        KV_HEADS,
        RMS_EPS,
        number("rope.dimension_count", _rotated),
        FREQ_BASE,
        # Zero tells Phi-4, which looks at everything, from the others.
        count("attention.sliding_window", "sliding_window", default=0),
        ratio("rope.scaling.attn_factor", _attention_factor),
    ),
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    extents=_extents,
    made_up=_long_and_short,
    window_ignored=True,
    rope_kinds=("longrope", "su", "yarn"),
)
