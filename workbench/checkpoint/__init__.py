"""Hugging Face checkpoints (safetensors) as models: names, shapes, types and metadata of the GGUF they become.

read_checkpoint(folder)            the model; nothing but headers, config.json and the tokenizer is read
CheckpointSource(model)            its rows, converted range by range
stored_weights(model)              the same as they lie in the files
with_matrices(model, "F32")        the same with its matrices as another type: the plain conversion
"""

from .checkpoint import FORMAT, MATRIX_TYPES, read_checkpoint, with_matrices
from .folder import is_checkpoint
from .source import CheckpointSource, stored_weights

__all__ = [
    "FORMAT",
    "MATRIX_TYPES",
    "CheckpointSource",
    "is_checkpoint",
    "read_checkpoint",
    "stored_weights",
    "with_matrices",
]
