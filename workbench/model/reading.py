"""Which reader a model needs. A format is one entry here and one module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from .gguf import read_gguf_model
from .model import Model, Source


def _gguf_source(model: Model) -> Source:
    from .gguf_source import GgufSource

    return GgufSource(model)


def _checkpoint_source(model: Model) -> Source:
    from ..checkpoint import CheckpointSource

    return CheckpointSource(model)


_SOURCES: Mapping[str, Callable[[Model], Source]] = MappingProxyType(
    {"gguf": _gguf_source, "safetensors": _checkpoint_source}
)


def read_model(path: Path, pre: str | None = None) -> Model:
    """Read what a model is, without its weights: a GGUF file, any one shard of a split one, or a checkpoint's folder.

    Args:
        path: the file, or the folder of a Hugging Face checkpoint.
        pre: llama.cpp's name of a checkpoint's pre-tokenizer, where the user knows better than its files.

    Raises:
        ModelNotFound: nothing there, a folder of something else, no permission, or a shard is missing.
        ValidationFailed: not a model, damaged, truncated, or of a version or kind that is not supported.
        BadArgument: `pre` is no pre-tokenizer.
    """
    if os.path.isdir(path):  # noqa: PTH112 - never raises, whatever the name
        from ..checkpoint import is_checkpoint, read_checkpoint

        if is_checkpoint(path):
            return read_checkpoint(path, pre)
    return read_gguf_model(path)


def open_source(model: Model) -> Source:
    """Open the weights of a model that `read_model` has read; ModelNotFound if a file is not there any more."""
    return _SOURCES[model.format](model)
