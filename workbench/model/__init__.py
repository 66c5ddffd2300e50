"""Reading models: one lazy list of tensors with names, shapes, types and row access; writing GGUF headers."""

from .finite import CheckStopped, check_weights
from .gguf_writer import Header, array, value, write_header, write_headers
from .model import Model, Source, Tensor, Value
from .reading import open_source, read_model

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
