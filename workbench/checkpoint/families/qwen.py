"""Qwen 2, 2.5 and 3: biases at the queries, keys and values (2), norms of queries and keys (3), experts."""

from __future__ import annotations

from ...errors import ValidationFailed
from ...model.wording import shown
from ..config import Config
from ..family import Extents, Family
from ..keys import ROTARY_RMS, count
from .blocks import ENDS, GATED, NORMS, attention, experts, head_norms

_DEFAULTS = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
_FIRST_WITH_WINDOW = {"max_window_layers": 28}


def _extents(config: Config) -> Extents:
    return {"ff": config.feed_forward}


QWEN2 = Family(
    classes=("Qwen2ForCausalLM",),
    architecture="qwen2",
    weights=(*ENDS, *NORMS, *attention(), *GATED),
    keys=ROTARY_RMS,
    defaults=_DEFAULTS | _FIRST_WITH_WINDOW,
    extents=_extents,
    window_ignored=True,
)

QWEN3 = Family(
    classes=("Qwen3ForCausalLM",),
    architecture="qwen3",
    weights=(*ENDS, *NORMS, *attention(), *head_norms(), *GATED),
    keys=ROTARY_RMS,
    defaults=_DEFAULTS | _FIRST_WITH_WINDOW | {"head_dim": 128},
    extents=_extents,
    window_ignored=True,
)


def _experts_everywhere(config: Config) -> None:
    if not config.flag("norm_topk_prob"):
        raise ValidationFailed(
            f"{shown(config.path)} leaves the shares of the chosen experts as they are (norm_topk_prob), and llama.cpp"
            " always makes them add up to one for this family."
        )
    if config.get("mlp_only_layers", default=[]) or config.count("decoder_sparse_step", default=1) != 1:
        raise ValidationFailed(
            f"{shown(config.path)} mixes layers with and without experts, which llama.cpp cannot run for this family."
        )


QWEN3_MOE = Family(
    classes=("Qwen3MoeForCausalLM",),
    architecture="qwen3moe",
    weights=(
        *ENDS,
        *NORMS,
        *attention(),
        *head_norms(),
        *experts("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=(*ROTARY_RMS, count("expert_feed_forward_length", "moe_intermediate_size")),
    defaults=_DEFAULTS | {"num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    extents=lambda c: {
        "experts": c.count("num_local_experts", "num_experts", default=128),
        "expert_ff": c.count("moe_intermediate_size"),
    },
    check=_experts_everywhere,
    window_ignored=True,
)
