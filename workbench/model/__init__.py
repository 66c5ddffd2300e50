"""Reading models: one lazy list of tensors with names, shapes, types and row access; writing GGUF headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .finite import CheckStopped, check_weights
    from .gguf_writer import Header, array, value, write_header, write_headers
    from .model import Model, Source, Tensor, Value
    from .reading import open_source, read_model

# A header is read without the arithmetic that looks at weights.
__getattr__ = lazy(
    __name__,
    {
        "finite": "CheckStopped check_weights",
        "gguf_writer": "Header array value write_header write_headers",
        "model": "Model Source Tensor Value",
        "reading": "open_source read_model",
    },
)

__all__ = [
    "CheckStopped",
    "Header",
    "Model",
    "Source",
    "Tensor",
    "Value",
    "array",
    "check_weights",
    "open_source",
    "read_model",
    "value",
    "write_header",
    "write_headers",
]
