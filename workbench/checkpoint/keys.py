"""Metadata that follows from config.json: GGUF's names, and the fields of any transformers that they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ..errors import ValidationFailed
from ..model import Value, array, value
from ..model.wording import shown
from .config import Config


@dataclass(frozen=True)
class Key:
    """One metadata value. `name` is without the architecture; `read` gives None where the key is left out."""

    name: str
    kind: str
    read: Callable[[Config], Any]

    def value(self, config: Config) -> Value | None:
        """The value as GGUF holds it."""
        found = self.read(config)
        if found is None:
            return None
        return array(self.kind, found) if isinstance(found, list) else value(self.kind, found)


def count(name: str, *fields: str, default: int | None = None, required: bool = True) -> Key:
    """A whole number from the first of these fields."""

    def read(config: Config) -> int | None:
        if not required and default is None and config.get(*fields) is None:
            return None
        return config.count(*fields, default=default)

    return Key(name, "uint32", read)


def real(name: str, *fields: str, required: bool = True) -> Key:
    """A number from the first of these fields."""
    return Key(name, "float32", lambda c: c.real(*fields) if required or c.get(*fields) is not None else None)


def number(name: str, read: Callable[[Config], int | None]) -> Key:
    """A whole number that is computed."""
    return Key(name, "uint32", read)


def ratio(name: str, read: Callable[[Config], float | None]) -> Key:
    """A number that is computed."""
    return Key(name, "float32", read)


BLOCKS = number("block_count", lambda c: c.n_layers)
CONTEXT = count("context_length", "max_position_embeddings", "n_positions", "n_ctx")
EMBEDDING = number("embedding_length", lambda c: c.hidden)
FEED_FORWARD = number("feed_forward_length", lambda c: c.feed_forward)
HEADS = number("attention.head_count", lambda c: c.heads)
KV_HEADS = number("attention.head_count_kv", lambda c: c.kv_heads)
RMS_EPS = real("attention.layer_norm_rms_epsilon", "rms_norm_eps")
NORM_EPS = real("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
FREQ_BASE = ratio("rope.freq_base", lambda c: c.rope_real("rope_theta", 10000.0))
OWN_FREQ_BASE = ratio(
    "rope.freq_base", lambda c: found if (found := c.rope_real("rope_theta", 10000.0)) != 10000.0 else None
)
"""For families whose base llama.cpp's converter leaves out, which then is the usual one."""
VOCAB_SIZE = count("vocab_size", "vocab_size")
ROPE_DIMENSIONS = number("rope.dimension_count", lambda c: c.head_dim)
HEAD_WIDTHS = (
    count("attention.key_length", "head_dim", required=False),
    count("attention.value_length", "head_dim", required=False),
)

UNSCALED = ("default", "none")
"""Kinds of rotary positions that are as trained."""

SCALED = ("linear", "yarn")
"""Kinds that llama.cpp reads from the metadata, for every architecture that rotates."""


_YARN_ALWAYS = {"beta_fast": 32, "beta_slow": 1, "extrapolation_factor": 1, "truncate": True}
"""What llama.cpp does not read, though its converter writes some of it, and what it takes instead."""


def check_rope(config: Config, kinds: Collection[str]) -> None:
    """Refuse rotary positions of a kind that the converted model would lose; `kinds` are those that it keeps."""
    for rope, allowed in ((config.rope, kinds), (config.rope_swa, ())):
        kind = str(rope.get("rope_type", rope.get("type", "default"))).lower()
        if kind not in UNSCALED and kind not in allowed:
            raise ValidationFailed(
                f"{shown(config.path)} asks for rotary positions of the kind {shown(kind)}, which llama.cpp cannot"
                " compute for this architecture; with the rope_type default in it, the model can be converted for the"
                " context that it had before they were scaled."
            )
    if config.rope_type in SCALED and not config.rope_real("factor") > 0:
        raise config.bad("factor", "more than 0", config.rope.get("factor"))
    for name, always in _YARN_ALWAYS.items():
        if config.rope_type == "yarn" and config.rope.get(name, always) not in (always, None):
            raise ValidationFailed(
                f"{shown(config.path)} asks for YaRN with {name} {shown(str(config.rope[name]))}, and llama.cpp always"
                f" computes with {always} for this architecture."
            )


def _scaling_type(config: Config) -> str | None:
    return config.rope_type if config.rope_type in SCALED else None


def _scaled(name: str, field: str, kind: str = "float32", only: tuple[str, ...] = ("yarn",)) -> Key:
    def read(config: Config) -> float | int | None:
        if config.rope_type not in only or config.rope.get(field) is None:
            return None
        found = config.rope_real(field)
        return int(found) if kind == "uint32" else found

    return Key(name, kind, read)


def _magnitude(config: Config) -> float | None:
    """How much larger rotated values are than llama.cpp makes them by itself under YaRN, where config.json says so.

    llama.cpp takes 0.1 ln(factor) + 1 and does not look at yarn_attn_factor; formula of the rest:
    `_compute_yarn_parameters` of transformers (modeling_rope_utils).
    """
    if config.rope_type != "yarn":
        return None
    factor = config.rope_real("factor")

    def scale(name: str | None = None) -> float:
        return 1.0 if factor <= 1 else 0.1 * (config.rope_real(name) if name else 1.0) * math.log(factor) + 1.0

    if config.rope.get("attention_factor") is not None:
        wanted = config.rope_real("attention_factor")
    elif config.rope.get("mscale") and config.rope.get("mscale_all_dim"):
        wanted = scale("mscale") / scale("mscale_all_dim")
    else:
        return None
    return wanted / scale() if abs(wanted - scale()) > 1e-6 else None


OWN_ROPE_SCALING = (
    Key("rope.scaling.type", "string", _scaling_type),
    _scaled("rope.scaling.factor", "factor", only=("linear", "yarn")),
    _scaled("rope.scaling.original_context_length", "original_max_position_embeddings", "uint32"),
    _scaled("rope.scaling.yarn_ext_factor", "extrapolation_factor"),
    _scaled("rope.scaling.yarn_attn_factor", "attention_factor"),
    _scaled("rope.scaling.yarn_beta_fast", "beta_fast"),
    _scaled("rope.scaling.yarn_beta_slow", "beta_slow"),
)
"""For families that scale the magnitude in their own way."""

ROPE_SCALING = (*OWN_ROPE_SCALING, ratio("rope.scaling.attn_factor", _magnitude))

ROPE_SCALING_OR_NONE = (
    Key("rope.scaling.type", "string", lambda config: _scaling_type(config) or "none"),
    *ROPE_SCALING[1:],
)
"""For families of which llama.cpp's converter says so where nothing is scaled."""

GATING = {"softmax": 1, "sigmoid": 2}


def _gating(config: Config) -> int | None:
    found = config.get("scoring_func")
    if found is not None and found not in GATING:
        raise config.bad("scoring_func", "softmax or sigmoid", found)
    return None if found is None else GATING[found]


EXPERTS = (
    count("expert_count", "num_local_experts", "num_experts", "n_routed_experts", required=False),
    count("expert_used_count", "num_experts_per_tok", "num_experts_per_token", required=False),
    count("expert_group_count", "n_group", required=False),
    count("expert_group_used_count", "topk_group", required=False),
    number("expert_gating_func", _gating),
)

ATTENTION = (BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS)
"""What every transformer's metadata begins with."""

ROTARY_RMS = (*ATTENTION, *ROPE_SCALING, FREQ_BASE, RMS_EPS, *EXPERTS, *HEAD_WIDTHS)
"""The common case: rotary positions and RMS norms."""
