"""What stands behind one tensor of the converted model: rows gathered, stacked, turned or made up, range by range.

A view knows its shape (numpy's order: the row is last) and reads any range of its rows, never more than these rows of
the stored tensors. Its rows are counted over all dimensions but the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .stored import ITEM_BYTES, StoredTensor

Numbers = npt.NDArray[np.int64]
Order = Callable[[Numbers], Numbers]
"""From rows of the converted tensor to the rows of the stored one that they come from."""

ReadBytes = Callable[[int, int, memoryview], None]
"""read(file, offset, target): fill `target` from a file of the checkpoint."""

_RAW = {2: np.uint16, 4: np.uint32}


class View(Protocol):
    """One tensor as the converted model holds it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents in numpy's order."""

    @property
    def dtype(self) -> str:
        """F32, F16 or BF16: what `read` gives."""

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """The stored tensors that it is made of."""

    def read(self, read: ReadBytes, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Rows first .. first+count as bytes (count, row bytes) of `dtype`."""


@dataclass(frozen=True)
class Gathered:
    """Rows of stored tensors. `parts` are stacked along a new first dimension if there are several (experts).

    `order` says where a row comes from (within its part); None for the rows as they are stored. For a tensor of one
    dimension the order counts elements.
    """

    parts: tuple[StoredTensor, ...]
    shape: tuple[int, ...]
    order: Order | None = None

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.parts[0].dtype

    def read(self, read: ReadBytes, first: int, count: int) -> npt.NDArray[np.uint8]:
        """One read for each run of rows that lie together."""
        if len(self.shape) == 1:
            return self._vector(read)[first : first + count]
        row_bytes = self.parts[0].row_bytes
        out = np.empty((count, row_bytes), np.uint8)
        per_part = math.prod(self.shape[:-1]) // len(self.parts)
        numbers = np.arange(first, first + count)
        part = numbers // per_part
        rows = numbers % per_part
        rows = rows if self.order is None else self.order(rows)
        ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(part) != 0)) + 1
        starts = [0, *ends.tolist()]
        for start, stop in zip(starts, [*starts[1:], count], strict=True):
            if start < stop:
                stored = self.parts[int(part[start])]
                read(stored.file, stored.offset + int(rows[start]) * row_bytes, out[start:stop].reshape(-1).data)
        return out

    def _vector(self, read: ReadBytes) -> npt.NDArray[np.uint8]:
        stored = self.parts[0]
        item = ITEM_BYTES[stored.dtype]
        whole = np.empty((math.prod(stored.shape), item), np.uint8)
        read(stored.file, stored.offset, whole.reshape(-1).data)
        chosen = np.arange(self.shape[0]) if self.order is None else self.order(np.arange(self.shape[0]))
        return whole[chosen].reshape(1, -1)


@dataclass(frozen=True)
class Turned:
    """Blocks of stored rows, each with rows and columns changed over.

    Block b is rows b * `stride` + `skip` .. + `rows` of the stored matrix; it becomes `row_length` rows of `rows`.
    Reading `count` rows touches as many columns of each stored row.
    """

    stored: StoredTensor
    shape: tuple[int, ...]
    rows: int
    stride: int = 0
    skip: int = 0

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.stored.dtype

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """The one matrix."""
        return (self.stored,)

    def read(self, read: ReadBytes, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Column by column of the stored rows."""
        item, width = ITEM_BYTES[self.stored.dtype], self.stored.row_length
        out = np.empty((count, self.rows), _RAW[item])
        done = 0
        while done < count:
            block, column = divmod(first + done, width)
            columns = min(count - done, width - column)
            cut = np.empty((self.rows, columns), _RAW[item])
            top = block * self.stride + self.skip
            for row in range(self.rows):
                position = ((top + row) * width + column) * item
                read(self.stored.file, self.stored.offset + position, cut[row].view(np.uint8).data)
            out[done : done + columns] = cut.T
            done += columns
        return out.view(np.uint8)


@dataclass(frozen=True)
class MadeUp:
    """A tensor that no file holds, of float32 values that follow from config.json."""

    values: npt.NDArray[np.float32] = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The values' own."""
        return self.values.shape

    @property
    def dtype(self) -> str:
        """Always F32."""
        return "F32"

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """None."""
        return ()

    def read(self, read: ReadBytes, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Nothing is read."""
        rows = self.values.reshape(-1, self.values.shape[-1])[first : first + count]
        packed: npt.NDArray[np.uint8] = np.ascontiguousarray(rows).view(np.uint8)
        return packed


@dataclass(frozen=True)
class PlusOne:
    """Norms that the checkpoint stores as the difference from one; computed in float32."""

    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        """That of what is shifted."""
        return self.view.shape

    @property
    def dtype(self) -> str:
        """Always F32."""
        return "F32"

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """Those of what is shifted."""
        return self.view.parts

    def read(self, read: ReadBytes, first: int, count: int) -> npt.NDArray[np.uint8]:
        """The rows below, plus one."""
        shifted: npt.NDArray[np.float32] = widened(self.view.read(read, first, count), self.view.dtype) + np.float32(1)
        return shifted.view(np.uint8)


def widened(packed: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float32]:
    """Bytes (n, row bytes) of F32, F16 or BF16 as float32 (n, k), exactly."""
    if dtype == "F32":
        return packed.view(np.float32)
    if dtype == "F16":
        return packed.view(np.float16).astype(np.float32)
    words: npt.NDArray[np.uint32] = packed.view(np.uint16).astype(np.uint32)
    words <<= np.uint32(16)
    return words.view(np.float32)


def halves_to_pairs(head_dim: int) -> Order:
    """Rotary rows: stored as the two halves of a head, wanted as pairs (x0, y0, x1, y1 ...).

    Meta's layout rotates neighbours, Hugging Face's the two halves of a head; llama.cpp's `llama` keeps Meta's.
    """
    half = head_dim // 2

    def order(rows: Numbers) -> Numbers:
        head, within = np.divmod(rows, head_dim)
        stored: Numbers = head * head_dim + (within % 2) * half + within // 2
        return stored

    return order


def from_groups(sections: Sequence[int], n_groups: int) -> Order:
    """Fused projections: stored group by group (q, k, v, q, k, v ...), wanted section by section (all q, all k, all v).

    Args:
        sections: rows of each section in one group.
        n_groups: groups.
    """
    size = sum(sections)
    starts = [sum(sections[:i]) for i in range(len(sections))]

    def order(rows: Numbers) -> Numbers:
        out = np.empty_like(rows)
        end = 0
        for start, width in zip(starts, sections, strict=True):
            begin, end = end, end + width * n_groups
            inside = (rows >= begin) & (rows < end)
            group, within = np.divmod(rows[inside] - begin, width)
            out[inside] = group * size + start + within
        return out

    return order


def cut_of_groups(size: int, skip: int, width: int) -> Order:
    """One section of each group: rows skip .. skip+width of every `size` rows."""

    def order(rows: Numbers) -> Numbers:
        group, within = np.divmod(rows, width)
        stored: Numbers = group * size + skip + within
        return stored

    return order
