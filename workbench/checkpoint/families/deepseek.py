"""DeepSeek V2 and V2-Lite: keys and values from one narrow vector (multi-head latent attention), shared experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Extents, Family, Weight
from ..keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    EXPERTS,
    FEED_FORWARD,
    FREQ_BASE,
    HEADS,
    OWN_ROPE_SCALING,
    RMS_EPS,
    VOCAB_SIZE,
    Key,
    count,
    number,
    ratio,
    real,
)
from ..stored import StoredTensor
from ..views import Gathered, Turned, View, cut_of_groups
from .blocks import ENDS, NORMS, experts, linear

_ATTENTION = "model.layers.{i}.self_attn"
_MLP = "model.layers.{i}.mlp"


def _extents(config: Config) -> Extents:
    nope, rope = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    value, latent = config.count("v_head_dim"), config.count("kv_lora_rank")
    routed = config.count("n_routed_experts", default=0)
    width = config.count("moe_intermediate_size", default=0)
    return {
        "ff": config.feed_forward,
        "nope": nope,
        "value": value,
        "latent": latent,
        "latent_rope": latent + rope,
        "keys_values": config.heads * (nope + value),
        "queries": config.heads * (nope + rope),
        "values": config.heads * value,
        "q_latent": config.count("q_lora_rank", default=0),
        "experts": routed,
        "expert_ff": width,
        "shared_ff": width * config.count("n_shared_experts", default=0),
    }


def _keys(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """The part of each head that makes its keys, turned, so that it can be applied to the query instead."""
    nope, value = extents["nope"], extents["value"]
    shape = (extents["heads"], extents["latent"], nope)
    return Turned(parts[0], shape, rows=nope, stride=nope + value)


def _values(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """The part of each head that makes its values."""
    nope, value = extents["nope"], extents["value"]
    shape = (extents["heads"], value, extents["latent"])
    return Gathered(parts, shape, cut_of_groups(nope + value, nope, value))


def _dense(config: Config, layer: int) -> bool:
    return not _routed(config, layer)


def _routed(config: Config, layer: int) -> bool:
    return bool(config.get("n_routed_experts")) and layer >= config.count("first_k_dense_replace", default=0)


def _shared(config: Config, layer: int) -> bool:
    return _routed(config, layer) and bool(config.get("n_shared_experts"))


def _narrow_queries(config: Config, layer: int) -> bool:
    return bool(config.get("q_lora_rank"))


def _only(weights: tuple[Weight, ...], layers: Callable[[Config, int], bool]) -> tuple[Weight, ...]:
    return tuple(replace(weight, layers=layers) for weight in weights)


def _matrix(stored: str, name: str, rows: str, columns: str) -> tuple[Weight, ...]:
    return (Weight(f"{stored}.weight", f"{name}.weight", (rows, columns)),)


_WIDE_QUERIES = (26, 27)
"""Layers of the models whose queries llama.cpp expects as one matrix; it has no other sign of it."""


def _runs(config: Config) -> None:
    lite, vocabulary = not config.get("q_lora_rank"), config.count("vocab_size")
    if lite != (config.n_layers in _WIDE_QUERIES or (config.n_layers == 48 and vocabulary == 128256)):
        raise ValidationFailed(
            f"{shown(config.path)} describes a model of {config.n_layers} layers {'without' if lite else 'with'}"
            " q_lora_rank, which llama.cpp cannot run: it tells the lite models, which have none, by their 26 or 27"
            " layers."
        )
    if config.get("topk_method") == "group_limited_greedy" and config.count("n_group", default=1) > 1:
        raise ValidationFailed(
            f"{shown(config.path)} chooses groups of experts by their best one (group_limited_greedy), and llama.cpp"
            " always does so by their best two."
        )


DEEPSEEK2 = Family(
    classes=("DeepseekV2ForCausalLM",),
    architecture="deepseek2",
    weights=(
        *ENDS,
        *NORMS,
        *_only(
            _matrix(f"{_ATTENTION}.q_proj", "blk.{i}.attn_q", "queries", "d"), lambda c, i: not _narrow_queries(c, i)
        ),
        *_only(
            (
                *linear(f"{_ATTENTION}.q_a_proj", "blk.{i}.attn_q_a", "q_latent", "d"),
                Weight(f"{_ATTENTION}.q_a_layernorm.weight", "blk.{i}.attn_q_a_norm.weight", ("q_latent",)),
                *_matrix(f"{_ATTENTION}.q_b_proj", "blk.{i}.attn_q_b", "queries", "q_latent"),
            ),
            _narrow_queries,
        ),
        *_matrix(f"{_ATTENTION}.kv_a_proj_with_mqa", "blk.{i}.attn_kv_a_mqa", "latent_rope", "d"),
        Weight(f"{_ATTENTION}.kv_a_layernorm.weight", "blk.{i}.attn_kv_a_norm.weight", ("latent",)),
        Weight(f"{_ATTENTION}.kv_b_proj.weight", "blk.{i}.attn_k_b.weight", ("keys_values", "latent"), _keys),
        Weight(f"{_ATTENTION}.kv_b_proj.weight", "blk.{i}.attn_v_b.weight", ("keys_values", "latent"), _values),
        *_matrix(f"{_ATTENTION}.o_proj", "blk.{i}.attn_output", "d", "values"),
        *_only(
            (
                *_matrix(f"{_MLP}.gate_proj", "blk.{i}.ffn_gate", "ff", "d"),
                *_matrix(f"{_MLP}.up_proj", "blk.{i}.ffn_up", "ff", "d"),
                *_matrix(f"{_MLP}.down_proj", "blk.{i}.ffn_down", "d", "ff"),
            ),
            _dense,
        ),
        *_only(experts(_MLP, "gate_proj", "up_proj", "down_proj"), _routed),
        *_only(
            (
                *_matrix(f"{_MLP}.shared_experts.gate_proj", "blk.{i}.ffn_gate_shexp", "shared_ff", "d"),
                *_matrix(f"{_MLP}.shared_experts.up_proj", "blk.{i}.ffn_up_shexp", "shared_ff", "d"),
                *_matrix(f"{_MLP}.shared_experts.down_proj", "blk.{i}.ffn_down_shexp", "d", "shared_ff"),
            ),
            _shared,
        ),
    ),
    keys=(
        BLOCKS,
        CONTEXT,
        EMBEDDING,
        FEED_FORWARD,
        HEADS,
        # All heads share the narrow vector: one key-value head as wide as it and its rotated part.
        number("attention.head_count_kv", lambda c: 1),
        *OWN_ROPE_SCALING,
        FREQ_BASE,
        RMS_EPS,
        *EXPERTS,
        number("attention.key_length", lambda c: c.count("kv_lora_rank") + c.count("qk_rope_head_dim")),
        count("attention.value_length", "kv_lora_rank"),
        number("leading_dense_block_count", lambda c: c.count("first_k_dense_replace", default=0)),
        VOCAB_SIZE,
        number("attention.q_lora_rank", lambda c: c.count("q_lora_rank", default=0) or None),
        count("attention.kv_lora_rank", "kv_lora_rank"),
        number("attention.key_length_mla", lambda c: c.count("qk_nope_head_dim") + c.count("qk_rope_head_dim")),
        count("attention.value_length_mla", "v_head_dim"),
        count("expert_feed_forward_length", "moe_intermediate_size", "intermediate_size"),
        count("expert_shared_count", "n_shared_experts", default=0),
        real("expert_weights_scale", "routed_scaling_factor", required=False),
        Key("expert_weights_norm", "bool", lambda c: c.flag("norm_topk_prob") or None),
        count("rope.dimension_count", "qk_rope_head_dim"),
        ratio(
            "rope.scaling.yarn_log_multiplier",
            lambda c: 0.1 * c.rope_real("mscale_all_dim") if c.rope.get("mscale_all_dim") is not None else None,
        ),
    ),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "tie_word_embeddings": False,
    },
    extents=_extents,
    check=_runs,
)
