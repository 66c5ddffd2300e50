"""Gemma 1, 2 and 3 (text): norms stored as their difference from one, embeddings that are the output too."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Extents, Family, Weight, plus_one
from ..keys import (
    ATTENTION,
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    KV_HEADS,
    OWN_FREQ_BASE,
    RMS_EPS,
    ROPE_SCALING,
    Key,
    count,
    number,
    ratio,
    real,
)
from .blocks import EMBEDDINGS, GATED, attention

_DEFAULTS = {
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "tie_word_embeddings": True,
}


def _extents(config: Config) -> Extents:
    return {"ff": config.feed_forward}


def _norm(stored: str, name: str, extent: str = "d") -> Weight:
    return Weight(f"{stored}.weight", f"{name}.weight", (extent,), plus_one)


_OUTPUT_NORM = _norm("model.norm", "output_norm")
_LAYER = "model.layers.{i}"
_AROUND = (
    _norm(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm"),
    _norm(f"{_LAYER}.post_attention_layernorm", "blk.{i}.post_attention_norm"),
    _norm(f"{_LAYER}.pre_feedforward_layernorm", "blk.{i}.ffn_norm"),
    _norm(f"{_LAYER}.post_feedforward_layernorm", "blk.{i}.post_ffw_norm"),
)
_HEAD_WIDTHS = (
    number("attention.key_length", lambda c: c.head_dim),
    number("attention.value_length", lambda c: c.head_dim),
)
_KEYS = (
    CONTEXT,
    EMBEDDING,
    BLOCKS,
    FEED_FORWARD,
    HEADS,
    KV_HEADS,
    RMS_EPS,
    *_HEAD_WIDTHS,
    OWN_FREQ_BASE,
    *ROPE_SCALING,
)

# The output is the embeddings; copies of it that some tools leave behind are not needed.
_IGNORED = (r"lm_head\.weight",)


def _windows(every: int) -> Key:
    """Which layers look only at a window; left out where every so many-th looks at everything, as llama.cpp expects."""

    def read(config: Config) -> list[bool] | None:
        kinds = config.get("layer_types")
        pattern = config.get("sliding_window_pattern", "_sliding_window_pattern", default=every)
        if kinds is None and type(pattern) is int and pattern > 0:
            found = [(i + 1) % pattern != 0 for i in range(config.n_layers)]
        elif isinstance(kinds, list) and len(kinds) == config.n_layers:
            found = [kind == "sliding_attention" for kind in kinds]
        else:
            raise config.bad("layer_types", "a list with one entry for each layer", kinds)
        return None if found == [(i + 1) % every != 0 for i in range(config.n_layers)] else found

    return Key("attention.sliding_window_pattern", "bool", read)


def _scaled_as_llama_cpp_does(largest: int) -> Callable[[Config], None]:
    """llama.cpp knows the factor of the queries by the number of layers: the largest model's is that of equal heads."""

    def check(config: Config) -> None:
        width = config.hidden // config.heads if config.n_layers == largest else config.head_dim
        if config.real("query_pre_attn_scalar", default=256.0) != width:
            raise ValidationFailed(
                f"{shown(config.path)} scales queries for heads of {config.get('query_pre_attn_scalar', default=256)}"
                f" values (query_pre_attn_scalar), and llama.cpp always does so for {width} here."
            )

    return check


GEMMA = Family(
    classes=("GemmaForCausalLM",),
    architecture="gemma",
    weights=(
        EMBEDDINGS,
        _OUTPUT_NORM,
        _norm(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm"),
        _norm(f"{_LAYER}.post_attention_layernorm", "blk.{i}.ffn_norm"),
        *attention(),
        *GATED,
    ),
    keys=_KEYS,
    defaults=_DEFAULTS,
    extents=_extents,
    ignored=_IGNORED,
    no_space_prefix=True,
)

GEMMA2 = Family(
    classes=("Gemma2ForCausalLM",),
    architecture="gemma2",
    weights=(EMBEDDINGS, _OUTPUT_NORM, *_AROUND, *attention(), *GATED),
    keys=(
        *_KEYS,
        real("attn_logit_softcapping", "attn_logit_softcapping"),
        real("final_logit_softcapping", "final_logit_softcapping"),
        count("attention.sliding_window", "sliding_window"),
        _windows(2),
    ),
    defaults=_DEFAULTS
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}
    | {"num_key_value_heads": 4},
    extents=_extents,
    ignored=_IGNORED,
    check=_scaled_as_llama_cpp_does(largest=46),
    no_space_prefix=True,
)


def _runs(config: Config) -> None:
    _scaled_as_llama_cpp_does(largest=62)(config)
    if config.get("attn_logit_softcapping") is not None:
        raise ValidationFailed(f"{shown(config.path)} caps attention, which llama.cpp cannot do for Gemma 3.")


def _local_base(config: Config) -> float | None:
    theta = config.rope_swa.get("rope_theta")
    return None if theta is None else config.finite(theta, "rope_theta")


GEMMA3 = Family(
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    architecture="gemma3",
    weights=(
        EMBEDDINGS,
        _OUTPUT_NORM,
        *_AROUND,
        *attention(),
        _norm(f"{_LAYER}.self_attn.q_norm", "blk.{i}.attn_q_norm", "head"),
        _norm(f"{_LAYER}.self_attn.k_norm", "blk.{i}.attn_k_norm", "head"),
        *GATED,
    ),
    keys=(
        *ATTENTION,
        *ROPE_SCALING,
        ratio("rope.freq_base", lambda c: c.rope_real("rope_theta", 1e6)),
        ratio("rope.freq_base_swa", _local_base),
        RMS_EPS,
        *_HEAD_WIDTHS,
        ratio("final_logit_softcapping", lambda c: c.real("final_logit_softcapping", default=0.0) or None),
        count("attention.sliding_window", "sliding_window"),
        _windows(6),
    ),
    defaults=_DEFAULTS
    | {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4}
    | {"sliding_window": 4096, "rope_local_base_freq": 10000.0, "hidden_size": 2304, "intermediate_size": 9216}
    | {"num_hidden_layers": 26, "vocab_size": 262208},
    extents=_extents,
    ignored=_IGNORED,
    check=_runs,
    trims=True,
    no_space_prefix=True,
)
