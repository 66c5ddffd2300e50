"""A model as the rest of the product sees it, whatever file it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ...kernels import TYPES
from ..weights import bits_per_weight

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model, as GGUF would hold it.

    `shape` is in ggml's order: shape[0] is the row length, the last numbers count experts and the like.
    `type` is a name in `kernels.TYPES`, or another ggml type (I32 ...) that is only ever copied.
    `file` is an index into `Model.files`, `offset` the absolute position of the first row in that file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int
    file: int = field(default=0, compare=False, repr=False)
    offset: int = field(default=0, compare=False, repr=False)

    @property
    def row_length(self) -> int:
        """Weights in one row (ne[0])."""
        return self.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows over all other dimensions."""
        return math.prod(self.shape[1:])

    @property
    def n_weights(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Value:
    """One metadata value: its GGUF type and its bytes exactly as a GGUF file holds them, decoded only when asked.

    Keeping the bytes makes copying metadata exact, and a vocabulary of 150,000 words costs nothing until it is read.
    For an array `raw` begins with the element type (uint32) and the count (uint64).
    """

    kind: int
    raw: bytes = field(repr=False)

    @cached_property
    def python(self) -> Any:
        """int, float, bool, str, or a list of these; strings that are not UTF-8 keep their bytes as surrogates."""
        from .gguf_values import decode

        return decode(self.kind, self.raw)


@dataclass(frozen=True)
class Model:
    """What a model file or folder holds, without its weights.

    `tensors` are in file order. `files` are all files that were read (shards), the first one being `path` for a GGUF.
    `notes` are sentences on what llama.cpp computes otherwise than the original; `window` are the tokens that its
    layers look back where llama.cpp lets them look at everything, 0 for none.
    """

    path: Path
    format: str
    architecture: str
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    window: int = 0

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as a Python object; `{arch}.` at the start of `key` stands for the architecture."""
        value = self.metadata.get(key.replace("{arch}", self.architecture))
        return default if value is None else value.python

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def n_weights(self) -> int:
        """All weights of all tensors."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors' data, padding not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average bits per weight over all tensors."""
        return bits_per_weight(self.n_bytes, self.n_weights)

    @property
    def is_quantized(self) -> bool:
        """True if any tensor already has a quantized type."""
        return any(t.type in TYPES and TYPES[t.type].quantized for t in self.tensors)


class Source(Protocol):
    """Open weights of a model: one per process, not shared between threads. Reads with `os.pread`, never maps."""

    def rows(self, tensor: str, first: int, count: int) -> Floats:
        """Rows first .. first+count of a tensor as float32 (count, row_length), converted from whatever is stored."""

    def raw(self, tensor: str, first: int, count: int) -> bytes:
        """The same rows as bytes in the tensor's own type (`Tensor.type`), for copying."""

    def close(self) -> None:
        """Close the files."""
