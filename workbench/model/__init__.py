"""Reading models: one lazy list of tensors with names, shapes, types and row access."""

from .model import Model, Source, Tensor, Value

__all__ = ["Model", "Source", "Tensor", "Value"]
