"""Which reader a model needs. A format is one entry here and one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from .gguf import read_gguf_model
from .gguf_source import GgufSource
from .model import Model, Source

_SOURCES: Mapping[str, Callable[[Model], Source]] = MappingProxyType({"gguf": GgufSource})


def read_model(path: Path) -> Model:
    """Read what a model is, without its weights: a GGUF file, or any one shard of a split one.

    Raises:
        ModelNotFound: nothing there, a folder, not a regular file, no permission, or a shard is missing.
        ValidationFailed: not a model, damaged, truncated, or of a version that is not supported.
    """
    return read_gguf_model(path)


def open_source(model: Model) -> Source:
    """Open the weights of a model that `read_model` has read; ModelNotFound if a file is not there any more."""
    return _SOURCES[model.format](model)
