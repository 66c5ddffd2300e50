"""Llama 2 and 3, Mistral, Mixtral, SmolLM2 and 3, Granite: rotary pairs, gated feed-forward, RMS norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Extents, Family
from ..keys import (
    ATTENTION,
    EXPERTS,
    FREQ_BASE,
    RMS_EPS,
    ROPE_DIMENSIONS,
    ROPE_SCALING,
    ROTARY_RMS,
    SCALED,
    VOCAB_SIZE,
    number,
    ratio,
)
from ..views import MadeUp, View
from .blocks import ENDS, GATED, GATED_BIASED, NORMS, attention, experts, paired


def _extents(config: Config) -> Extents:
    return {"ff": config.feed_forward}


def rope_factors(config: Config) -> Mapping[str, View]:
    """Llama 3's scaling as one factor for each pair: long waves are stretched, short ones kept, those between blended.

    Formula: `_compute_llama3_parameters` of transformers (modeling_rope_utils), as the divisor of each frequency.
    """
    if config.rope_type != "llama3":
        return {}
    base, factor = config.rope_real("rope_theta", 10000.0), config.rope_real("factor", 8.0)
    low, high = config.rope_real("low_freq_factor", 1.0), config.rope_real("high_freq_factor", 4.0)
    trained = config.rope_real("original_max_position_embeddings", 8192)
    if not base > 0 or not factor > 0 or not low > 0 or not high > low:
        raise config.bad("rope_parameters", "a scaling that can be computed", dict(config.rope))
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    # Rounded after each step, and divided by multiplying with the reciprocal, as torch does: models were trained so.
    one = np.float32(1)
    frequencies = one / np.power(base, half.astype(np.float64)).astype(np.float32)
    waves = (one / frequencies) * np.float32(2 * math.pi)
    smooth = ((one / waves) * np.float32(trained) - np.float32(low)) / np.float32(high - low)
    blended = one / ((one - smooth) / np.float32(factor) + smooth)
    factors = np.where(waves < trained / high, one, np.where(waves > trained / low, np.float32(factor), blended))
    return {"rope_freqs.weight": MadeUp(factors.astype(np.float32))}


_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": False}
_HEAD_WIDTHS = (
    number("attention.key_length", lambda c: c.head_dim),
    number("attention.value_length", lambda c: c.head_dim),
)
_ROTATED = (*ATTENTION, *ROPE_SCALING, FREQ_BASE, RMS_EPS, *EXPERTS)

LLAMA = Family(
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    architecture="llama",
    weights=(*ENDS, *NORMS, *attention(paired, output_bias=True), *GATED_BIASED),
    keys=(*_ROTATED, *_HEAD_WIDTHS, VOCAB_SIZE, ROPE_DIMENSIONS),
    defaults=_DEFAULTS,
    extents=_extents,
    made_up=rope_factors,
    rope_kinds=(*SCALED, "llama3"),
)

MISTRAL = replace(
    LLAMA,
    classes=("MistralForCausalLM",),
    defaults=_DEFAULTS | {"num_key_value_heads": 8},
    window_ignored=True,
)

MIXTRAL = Family(
    classes=("MixtralForCausalLM",),
    architecture="llama",
    weights=(*ENDS, *NORMS, *attention(paired), *experts("model.layers.{i}.block_sparse_moe", "w1", "w3", "w2")),
    keys=(*ROTARY_RMS, VOCAB_SIZE, ROPE_DIMENSIONS),
    defaults=_DEFAULTS
    | {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}
    | {"rms_norm_eps": 1e-5, "rope_theta": 1e6},
    extents=lambda c: {"experts": c.count("num_local_experts"), "expert_ff": c.feed_forward},
    made_up=rope_factors,
    rope_kinds=LLAMA.rope_kinds,
    window_ignored=True,
)


def _every_fourth_without_rope(config: Config) -> None:
    """llama.cpp leaves out the rotation in every fourth layer, whatever the metadata says."""
    given = config.get("no_rope_layers")
    if given is not None and given != [int((i + 1) % 4 != 0) for i in range(config.n_layers)]:
        raise ValidationFailed(
            f"{shown(config.path)} leaves out the rotary positions in other layers than every fourth, which llama.cpp"
            " cannot run."
        )


SMOLLM3 = replace(
    LLAMA,
    classes=("SmolLM3ForCausalLM",),
    architecture="smollm3",
    weights=(*ENDS, *NORMS, *attention(paired), *GATED),
    keys=(*ROTARY_RMS, VOCAB_SIZE, ROPE_DIMENSIONS),
    defaults=_DEFAULTS
    | {"tie_word_embeddings": True, "rope_theta": 2e6, "num_key_value_heads": 4}
    | {"use_sliding_window": False},
    window_ignored=True,
    check=_every_fourth_without_rope,
    made_up=None,
    rope_kinds=SCALED,
)


def _multiplier(config: Config, field: str) -> float | None:
    return config.real(field, default=0.0) or None


GRANITE = replace(
    LLAMA,
    classes=("GraniteForCausalLM",),
    architecture="granite",
    keys=(
        *_ROTATED,
        VOCAB_SIZE,
        ROPE_DIMENSIONS,
        ratio("attention.scale", lambda c: _multiplier(c, "attention_multiplier")),
        ratio("embedding_scale", lambda c: _multiplier(c, "embedding_multiplier")),
        ratio("residual_scale", lambda c: _multiplier(c, "residual_multiplier")),
        ratio("logit_scale", lambda c: _multiplier(c, "logits_scaling")),
    ),
    defaults=_DEFAULTS
    | dict.fromkeys(("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0),
)
