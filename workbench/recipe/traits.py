"""What the mixes ask of a model: its layers, heads and experts, as llama.cpp reads them from the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ValidationFailed
from ..model import Model
from ..model.wording import shown

OUTPUT = "output.weight"


@dataclass(frozen=True)
class Traits:
    """Facts about one model, the same for all of its tensors.

    `heads_per_kv` are query heads to a key-value head in the first layer; `shares_values` marks the models of 70
    billion weights and their like, whose attention values are few and cheap to keep well.
    """

    architecture: str
    n_layers: int
    n_experts: int
    heads_per_kv: int
    tied_embeddings: bool
    shares_values: bool

    @property
    def falcon(self) -> bool:
        """True for the one architecture with rules of its own in many mixes."""
        return self.architecture == "falcon"


def read_traits(model: Model) -> Traits:
    """The traits of a model; ValidationFailed where its metadata does not say them or makes no sense."""
    tied = OUTPUT not in model.by_name
    if model.architecture == "clip":
        # The vision and audio parts that lie in files of their own; llama.cpp reads no figures of them.
        return Traits(model.architecture, 0, 0, 0, tied, False)
    layers = _number(model, "{arch}.block_count", required=True)
    heads = _number(model, "{arch}.attention.head_count")
    kv_heads = _number(model, "{arch}.attention.head_count_kv", heads)
    return Traits(
        architecture=model.architecture,
        n_layers=_layers_in_memory(model, layers),
        n_experts=_experts(model),
        heads_per_kv=heads // kv_heads if kv_heads else 0,
        tied_embeddings=tied,
        shares_values=_shares_values(
            model.architecture, layers - _number(model, "{arch}.nextn_predict_layers"), heads, kv_heads
        ),
    )


def _layers_in_memory(model: Model, layers: int) -> int:
    """Layers as llama.cpp counts them: looped ones several times, and a router as one more."""
    if model.architecture == "nanbeige":
        return layers * max(1, _number(model, "{arch}.num_loops", 1))
    if model.architecture == "graniteswitch":
        return layers - _number(model, "{arch}.nextn_predict_layers") + 1
    return layers


def _experts(model: Model) -> int:
    experts = _number(model, "{arch}.expert_count")
    return 0 if experts == 1 and model.architecture in ("hunyuan-dense", "hunyuan_vl") else experts


def _shares_values(architecture: str, layers: int, heads: int, kv_heads: int) -> bool:
    if architecture in ("llama", "llama-embed"):
        return layers == 80 and heads != kv_heads
    return (architecture, layers) in {("qwen2", 80), ("deci", 80), ("olmo", 80), ("jais2", 68)}


def _number(model: Model, key: str, default: int = 0, *, required: bool = False) -> int:
    """A count from the metadata; of a list with one for each layer, the first."""
    found: Any = model.get(key)
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None and not required:
        return default
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 31:
        full = shown(key.replace("{arch}", model.architecture))
        raise ValidationFailed(f"{shown(model.path)} is damaged: its metadata gives no valid {full}.")
    return found
