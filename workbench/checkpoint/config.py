"""config.json of transformers 4 or 5 as one thing: fields by any of their names, rotary positions in one place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ValidationFailed
from ..model.wording import shown

MAX_COUNT = 1 << 31
MAX_REAL = (2 - 2**-23) * 2.0**127
"""The largest number that GGUF holds as float32."""


class Config:
    """The values of a config.json; text models inside of larger ones are moved to the top.

    `defaults` are what the model's class in transformers takes where config.json says nothing.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        inner = values.get("text_config")
        merged = {**values, **(inner if isinstance(inner, dict) else {})}
        self.path = path
        self.values = dict(defaults or {}) | {name: item for name, item in merged.items() if item is not None}

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these fields that is there and not null."""
        return next((self.values[name] for name in names if name in self.values), default)

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number that is not negative; ValidationFailed if it is missing (without a default) or none."""
        value = self.get(*names, default=default)
        if type(value) is not int or not 0 <= value < MAX_COUNT:
            raise self.bad(names[0], "a whole number", value)
        return value

    def real(self, *names: str, default: float | None = None) -> float:
        """A finite number; ValidationFailed if it is missing (without a default) or none."""
        return self.finite(self.get(*names, default=default), names[0])

    def finite(self, value: Any, name: str) -> float:
        """A value that must be a number, finite also as float32."""
        # A comparison takes whole numbers of any length, and NaN is in no range.
        if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_REAL <= value <= MAX_REAL:
            raise self.bad(name, "a number", value)
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name, default=default)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false", value)
        return value

    def bad(self, name: str, wanted: str, value: Any) -> ValidationFailed:
        """What to raise for a field that is not what it must be."""
        found = "is missing" if value is None else f"is {shown(str(value))}"
        return ValidationFailed(f"{shown(self.path)} is damaged: {name} must be {wanted} and {found}.")

    @property
    def n_layers(self) -> int:
        """Layers."""
        return self.count("num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def hidden(self) -> int:
        """Width of the embeddings."""
        return self.count("hidden_size", "n_embd")

    @property
    def heads(self) -> int:
        """Query heads, at least one."""
        heads = self.count("num_attention_heads", "n_head")
        if not heads:
            raise self.bad("num_attention_heads", "at least 1", heads)
        return heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        heads = self.count("num_key_value_heads", default=self.heads)
        if not heads or self.heads % heads:
            raise self.bad("num_key_value_heads", f"a divisor of {self.heads}", heads)
        return heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.count("head_dim", default=self.hidden // self.heads)

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward part."""
        return self.count("intermediate_size", "n_inner", "ffn_hidden_size")

    @cached_property
    def rope(self) -> Mapping[str, Any]:
        """Rotary positions: rope_theta, rope_type, factor ...; those of full attention where there are two kinds."""
        rope = self._rope_parameters
        full = rope.get("full_attention", rope)
        return full if isinstance(full, dict) else {}

    @cached_property
    def rope_swa(self) -> Mapping[str, Any]:
        """Rotary positions of layers with a sliding window, where they have their own; else empty."""
        own = self._rope_parameters.get("sliding_attention", {})
        return own if isinstance(own, dict) else {}

    @cached_property
    def _rope_parameters(self) -> dict[str, Any]:
        given = self.get("rope_parameters", "rope_scaling", default={})
        if not isinstance(given, dict):
            raise self.bad("rope_parameters", "a table", given)
        rope = dict(given)
        if "full_attention" in rope or "sliding_attention" in rope:
            return rope
        moved = {
            "rope_theta": self.get("rope_theta", "rotary_emb_base"),
            "rope_type": rope.get("type"),
            "partial_rotary_factor": self.get("partial_rotary_factor", "rotary_pct", "rope_pct"),
            "original_max_position_embeddings": self.get("original_max_position_embeddings"),
        }
        rope |= {name: value for name, value in moved.items() if value is not None and name not in rope}
        if (local := self.get("rope_local_base_freq", "local_rope_theta")) is not None:
            rope["sliding_attention"] = {"rope_theta": local}
        return rope

    @property
    def rope_type(self) -> str:
        """How positions beyond the trained ones are treated: default, linear, llama3, yarn, longrope ..."""
        return str(self.rope.get("rope_type", self.rope.get("type", "default"))).lower()

    def rope_real(self, name: str, default: float | None = None) -> float:
        """A number among the rotary parameters."""
        return self.finite(self.rope.get(name, default), name)

    @property
    def rotary(self) -> float:
        """The part of a head that is rotated."""
        return self.rope_real("partial_rotary_factor", 1.0)
