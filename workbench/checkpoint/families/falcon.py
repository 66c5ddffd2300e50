"""Falcon: queries, keys and values in one matrix, group by group; one or two norms side by side."""

from __future__ import annotations

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Extents, Family, Weight
from ..keys import BLOCKS, EMBEDDING, HEADS, NORM_EPS, OWN_FREQ_BASE, ROPE_SCALING, Key, number
from ..stored import StoredTensor
from ..views import Gathered, View, from_groups
from .blocks import linear

TRAINED_CONTEXT = 2048
"""Not in config.json of the models that were published."""

_LAYER = "h.{i}"


def _kv_heads(config: Config) -> int:
    """Key-value heads; the field for them means nothing in the older architecture, which has one or all."""
    if config.flag("new_decoder_architecture"):
        return config.count("num_kv_heads", "n_head_kv", default=config.heads)
    return 1 if config.flag("multi_query", default=True) else config.heads


def _extents(config: Config) -> Extents:
    head, kv = config.hidden // config.heads, _kv_heads(config)
    return {"ff": _inner(config), "kv_heads": kv, "qkv": (config.heads + 2 * kv) * head, "head": head}


def _inner(config: Config) -> int:
    return config.count("ffn_hidden_size", default=4 * config.hidden)


def _group_by_group(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """Each group holds its queries, then one key and one value."""
    head, groups = extents["head"], extents["kv_heads"]
    sections = (extents["heads"] // groups * head, head, head)
    return Gathered(parts, parts[0].shape, from_groups(sections, groups))


def _two_norms(config: Config, layer: int) -> bool:
    return config.flag("new_decoder_architecture") and config.count("num_ln_in_parallel_attn", default=2) == 2


def _runs(config: Config) -> None:
    kv = _kv_heads(config)
    if not kv or config.heads % kv:
        raise config.bad("num_kv_heads", f"a divisor of {config.heads}", kv)
    if config.flag("alibi") or not config.flag("parallel_attn", default=True):
        raise ValidationFailed(
            f"{shown(config.path)} describes a Falcon with ALiBi positions or without parallel attention (the RW"
            " models), which llama.cpp cannot run."
        )


FALCON = Family(
    classes=("FalconForCausalLM", "RWForCausalLM"),
    architecture="falcon",
    weights=(
        Weight("word_embeddings.weight", "token_embd.weight", ("vocab", "d")),
        *linear("ln_f", "output_norm", "d"),
        Weight("lm_head.weight", "output.weight", ("vocab", "d"), tied=True),
        Weight(
            f"{_LAYER}.input_layernorm.weight",
            "blk.{i}.attn_norm.weight",
            ("d",),
            layers=lambda c, i: not _two_norms(c, i),
        ),
        Weight(
            f"{_LAYER}.input_layernorm.bias", "blk.{i}.attn_norm.bias", ("d",), layers=lambda c, i: not _two_norms(c, i)
        ),
        Weight(f"{_LAYER}.ln_mlp.weight", "blk.{i}.attn_norm.weight", ("d",), layers=_two_norms),
        Weight(f"{_LAYER}.ln_mlp.bias", "blk.{i}.attn_norm.bias", ("d",), layers=_two_norms),
        Weight(f"{_LAYER}.ln_attn.weight", "blk.{i}.attn_norm_2.weight", ("d",), layers=_two_norms),
        Weight(f"{_LAYER}.ln_attn.bias", "blk.{i}.attn_norm_2.bias", ("d",), layers=_two_norms),
        Weight(
            f"{_LAYER}.self_attention.query_key_value.weight", "blk.{i}.attn_qkv.weight", ("qkv", "d"), _group_by_group
        ),
        Weight(f"{_LAYER}.self_attention.dense.weight", "blk.{i}.attn_output.weight", ("d", "d")),
        Weight(f"{_LAYER}.mlp.dense_h_to_4h.weight", "blk.{i}.ffn_up.weight", ("ff", "d")),
        Weight(f"{_LAYER}.mlp.dense_4h_to_h.weight", "blk.{i}.ffn_down.weight", ("d", "ff")),
    ),
    keys=(
        number("context_length", lambda c: TRAINED_CONTEXT),
        Key("tensor_data_layout", "string", lambda c: "jploski"),
        EMBEDDING,
        number("feed_forward_length", _inner),
        BLOCKS,
        HEADS,
        number("attention.head_count_kv", _kv_heads),
        NORM_EPS,
        OWN_FREQ_BASE,
        *ROPE_SCALING,
    ),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "multi_query": True, "parallel_attn": True},
    extents=_extents,
    check=_runs,
    prefix="transformer.",
)
