"""The families of models that can be converted, one module each kind; a new one is one more page and one more entry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..family import Family
from .cohere import COMMAND_R
from .deepseek import DEEPSEEK2
from .falcon import FALCON
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt import GPT2, GPT_NEOX
from .llama import GRANITE, LLAMA, MISTRAL, MIXTRAL, SMOLLM3
from .olmo import OLMO2
from .phi import PHI3
from .qwen import QWEN2, QWEN3, QWEN3_MOE
from .stablelm import STABLELM
from .starcoder import STARCODER2

_ALL = (
    LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, PHI3, SMOLLM3, OLMO2, STABLELM, GRANITE,
    COMMAND_R, GPT_NEOX, GPT2, FALCON, STARCODER2, DEEPSEEK2,
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({name: family for family in _ALL for name in family.classes})
"""Families by the name of the model class in transformers."""
