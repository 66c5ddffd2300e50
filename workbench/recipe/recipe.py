"""What a quantization is asked to be, and what it becomes: the type of each tensor, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...kernels import TYPES
from ..model import Header, Tensor, Value, write_header
from ..model.gguf_format import DEFAULT_ALIGNMENT
from ..weights import bits_per_weight


@dataclass(frozen=True)
class ImatrixFacts:
    """What the recipe must know of an importance matrix: where it came from, and which tensors it covers.

    `file` and `dataset` are written into the output; only their last path component is kept. 0 chunks: not known.
    """

    file: str
    names: frozenset[str]
    dataset: str = ""
    chunks: int = 0


@dataclass(frozen=True)
class Request:
    """What somebody asks for. Types are names in `kernels.TYPES`, levels are names in `LEVELS`; any case will do.

    `tensor_types` are (regular expression, type) pairs, searched in the tensor's name; the first that matches counts.
    `pure` gives every tensor the level's default type, `leave_output` keeps output.weight as it is.
    """

    level: str
    pure: bool = False
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    leave_output: bool = False
    allow_requantize: bool = False


@dataclass(frozen=True)
class TensorChoice:
    """One tensor of the output: what it is in the source, the type it gets, the level's own type, and why they differ.

    `reason` is empty where `type` is `asked`. `fallback` is true where the row length forced another type,
    `needs_imatrix` where the result would be garbage without an importance matrix.
    """

    tensor: Tensor
    type: str
    asked: str
    reason: str = ""
    fallback: bool = False
    needs_imatrix: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor's data in the output, padding not counted."""
        if self.copied:
            return self.tensor.n_bytes
        return self.tensor.n_rows * TYPES[self.type].row_bytes(self.tensor.row_length)

    @property
    def misfit(self) -> int:
        """Where `fallback` is true, the block size that the rows are not a multiple of."""
        block = TYPES[self.asked].block_size
        return block if self.tensor.row_length % block else 256

    @property
    def copied(self) -> bool:
        """True if the source's bytes are taken as they are."""
        return self.type == self.tensor.type


@dataclass(frozen=True)
class Recipe:
    """The type of every tensor of the output, in the output's order, and the output's metadata.

    `level` is the level's canonical name, `file_type` the number for `general.file_type`, `notes` are sentences
    that the user should read before the start.
    """

    level: str
    file_type: int
    tensors: tuple[TensorChoice, ...]
    metadata: Mapping[str, Value] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all tensors' data in the output, header and padding not counted."""
        return sum(choice.n_bytes for choice in self.tensors)

    @cached_property
    def bits_per_weight(self) -> float:
        """Average bits per weight over all tensors, as llama.cpp's log counts them."""
        return bits_per_weight(self.n_bytes, sum(choice.tensor.n_weights for choice in self.tensors))

    @property
    def imatrix_needed_by(self) -> tuple[str, ...]:
        """Names of the tensors that cannot be quantized without an importance matrix."""
        return tuple(choice.tensor.name for choice in self.tensors if choice.needs_imatrix)

    @property
    def summary(self) -> str:
        """One line: what was asked, what it becomes, and why if row lengths forced other types."""
        becomes = f"{self.bits_per_weight:.2f} bits per weight"
        misfits = Counter((c.tensor.row_length, c.misfit) for c in self.tensors if c.fallback).most_common()
        if not misfits:
            return f"{self.level}: {becomes}"
        parts = [_rows(count, length, block) for (length, block), count in misfits[:2]]
        more = sum(count for _, count in misfits[2:])
        if more:
            parts.append(f"{more} others have rows that do not fit either")
        return f"asked {self.level}, becomes {becomes}, because {' and '.join(parts)}"

    @property
    def alignment(self) -> int:
        """Bytes to whose multiples tensors are aligned in the output."""
        alignment = self.metadata.get("general.alignment")
        return DEFAULT_ALIGNMENT if alignment is None else int(alignment.python)

    def header(self) -> Header:
        """The complete header of the output, with where each tensor goes, in the order of `tensors`."""
        tensors = [(choice.tensor.name, choice.tensor.shape, choice.type) for choice in self.tensors]
        return write_header(self.metadata, tensors, self.alignment)


def _rows(count: int, length: int, block: int) -> str:
    have = "1 tensor has" if count == 1 else f"{count} tensors have"
    return f"{have} rows of {length} weights, not a multiple of {block}"
