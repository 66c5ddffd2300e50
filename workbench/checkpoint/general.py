"""Metadata about the model as a whole: name, author, licence, size, what to sample with."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import QuantdeckError
from ..model import Value, array, value
from ..model.gguf_format import KINDS
from .folder import optional_json
from .views import View

_SAMPLING = {
    "sequence": ("sequence", "string"),
    "top_k": ("top_k", "int32"),
    "top_p": ("top_p", "float32"),
    "min_p": ("min_p", "float32"),
    "xtc_probability": ("xtc_probability", "float32"),
    "xtc_threshold": ("xtc_threshold", "float32"),
    "temp": ("temperature", "float32"),
    "penalty_last_n": ("penalty_last_n", "int32"),
    "penalty_repeat": ("repetition_penalty", "float32"),
    "mirostat": ("mirostat", "int32"),
    "mirostat_tau": ("mirostat_tau", "float32"),
    "mirostat_eta": ("mirostat_eta", "float32"),
}
"""GGUF's name of each sampling value, and the field of generation_config.json and kind that belong to it."""

_PYTHON: Mapping[str, tuple[type, ...]] = {"string": (str,), "int32": (int,), "float32": (int, float)}

MAX_CARD = 1 << 20
"""Bytes of the largest model card whose header is read."""


def general_metadata(folder: Path, architecture: str, views: Mapping[str, View], n_experts: int) -> dict[str, Value]:
    """The keys `general.*`, in the order of llama.cpp's converter."""
    found = {"general.architecture": value("string", architecture), "general.type": value("string", "model")}
    return found | _sampling(folder) | _authorship(folder, views, n_experts)


def _sampling(folder: Path) -> dict[str, Value]:
    """What generation_config.json recommends; published models carry broken ones, and nothing depends on them."""
    try:
        defaults = optional_json(folder / "generation_config.json")
    except QuantdeckError:
        return {}
    found = {}
    for name, (field, kind) in _SAMPLING.items():
        given = defaults.get(field)
        if isinstance(given, _PYTHON[kind]) and not isinstance(given, bool):
            with contextlib.suppress(struct.error, OverflowError):
                found[f"general.sampling.{name}"] = value(kind, given)
    return found


def _authorship(folder: Path, views: Mapping[str, View], n_experts: int) -> dict[str, Value]:
    """Name, licence and so on from the model card's header and the folder's name, by gguf's own rules."""
    import gguf

    total, shared, expert = _parameters(views, n_experts)
    readme = folder / "README.md"
    card = None if readme.is_file() and readme.stat().st_size > MAX_CARD else folder.absolute()
    logging.getLogger("metadata").disabled = True  # it would print what it thinks of the model card
    try:
        metadata = gguf.Metadata.load(None, card, None, total)
        for field in vars(metadata):
            if field.startswith("sampling_"):
                setattr(metadata, field, None)
        metadata.name = harmless(_hub_name(folder) or metadata.name or folder.absolute().name)
        metadata.size_label = metadata.size_label or gguf.size_label(total, shared, expert, n_experts)
        writer = gguf.GGUFWriter(path=None, arch="")
        writer.kv_data[0].clear()
        metadata.set_gguf_meta_model(writer)
        return {key: _value(item) for key, item in writer.kv_data[0].items()}
    except Exception:  # a hostile or broken model card must not stand in the way of the weights
        return {"general.name": value("string", harmless(folder.absolute().name))}


def harmless(name: str) -> str:
    """A model's name; one with `phi3` in it makes llama.cpp look for tokens that not every vocabulary has, and die."""
    return re.sub(r"(phi)-?3", r"\1 3", name, flags=re.IGNORECASE)


def _hub_name(folder: Path) -> str | None:
    """The repository's name, where the folder is a snapshot in the Hub's cache and named after a commit."""
    snapshots = folder.absolute().parent
    parts = snapshots.parent.name.split("--")
    return parts[-1].replace("-", " ") if snapshots.name == "snapshots" and parts[0] == "models" else None


def _value(item: Any) -> Value:
    """A value of gguf's writer as ours."""
    kinds = {number: name for name, number in KINDS.items()}
    if item.sub_type is None and isinstance(item.value, list):
        return array("string", [str(entry) for entry in item.value])
    return value(kinds[int(item.type)], item.value)


def _parameters(views: Mapping[str, View], n_experts: int) -> tuple[int, int, int]:
    """Weights of all tensors, of those that every token uses, and of one expert in all layers."""
    total = shared = expert = 0
    for name, view in views.items():
        size = math.prod(view.shape)
        total += size
        if "_exps." in name:
            expert += size // n_experts
        else:
            shared += size
    return total, shared, expert
