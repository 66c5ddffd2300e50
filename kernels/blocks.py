"""The frame of every type with blocks: the walk over the rows, batch by batch, so that scratch stays bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from .columns import SUPER, to_columns
from .registry import TYPES, Bytes, Floats


class BlockCodec(ABC):
    """Quantizes and dequantizes batches of blocks; a subclass says what happens to the blocks of one.

    While it is quantized, a batch stands as columns, see `columns`. Scratch is the same whatever the number of rows:
    below 8 MB, where a family does not say otherwise.
    """

    name: str
    """The type, a key of TYPES."""
    column: int
    """Weights that have a scale in common."""
    batch = 127 << 10
    """Weights quantized together: a float32 array of them takes half a megabyte, and a few fit in the second-level
    cache. The number of columns is better not a power of two, or the rows compete for the same cache lines."""
    uses_imatrix = True
    """Whether the importance matrix has an influence."""

    @property
    def block_size(self) -> int:
        """Weights of a block."""
        return TYPES[self.name].block_size

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack float32 (n, k) into uint8 (n, row_bytes)."""
        kind = TYPES[self.name]
        packed = np.empty((rows.size // kind.block_size, kind.block_bytes), np.uint8)
        # C divides by denormal scales and casts what comes of it; so do we, without a warning.
        with np.errstate(all="ignore"):
            self._pack_rows(rows, imatrix if self.uses_imatrix else None, packed)
        return packed.reshape(len(rows), kind.row_bytes(rows.shape[1]))

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""
        blocks = packed.reshape(-1, TYPES[self.name].block_bytes)
        values = np.empty((len(blocks), self.block_size), np.float32)
        with np.errstate(all="ignore"):
            for part in slices(len(blocks), self.batch // self.block_size):
                self._unpack(blocks[part], values[part])
        return values.reshape(len(packed), k)

    def _pack_rows(self, rows: Floats, imatrix: Floats | None, packed: Bytes) -> None:
        """Quantize rows (n, k) into the blocks of `packed`; overridden where a block is not all that counts."""
        for part, x, beside in self._batches(rows, imatrix):
            self._pack(x, beside, packed[part])

    def _batches(self, rows: Floats, imatrix: Floats | None) -> Iterator[tuple[slice, Floats, Floats | None]]:
        """Which blocks, as columns (s, j * B), and the importances (s, j, B) beside them."""
        blocks = rows.reshape(-1, self.block_size)
        most = self.batch // self.block_size
        importances = None if imatrix is None else Importances(imatrix, self.block_size, self.column, most)
        for part in slices(len(blocks), most):
            beside = None if importances is None else importances.beside(part)
            yield part, to_columns(blocks[part], self.column), beside

    @abstractmethod
    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        """Quantize the columns `x` (s, j * B), which may be overwritten, into `packed` (B, block bytes).

        `beside` holds the importances of the weights, (s, j, B), or is None without an importance matrix.
        """

    @abstractmethod
    def _unpack(self, packed: Bytes, values: Floats) -> None:
        """Write the weights of `packed` (B, block bytes) to `values` (B, block size)."""


class SuperBlockCodec(BlockCodec):
    """Super-blocks of 256 weights, large batches of them: their searches work on a few figures a column.

    Scratch: 5..12 MB for the k-quants, 13..22 MB for the grid types.
    """

    batch = 1552 * SUPER


class Importances:
    """The importances (k,) that all rows share, beside the columns of any batch of at most `most` blocks."""

    def __init__(self, imatrix: Floats, block_size: int, s: int, most: int) -> None:
        self._per_row = imatrix.size // block_size
        columns = to_columns(imatrix.reshape(-1, block_size), s).reshape(s, -1, self._per_row)
        self._columns = columns.take(np.arange(self._per_row + most) % self._per_row, axis=2)

    def beside(self, part: slice) -> Floats:
        """The importances (s, j, B) of the blocks `part` of rows laid end to end."""
        start = part.start % self._per_row
        return self._columns[:, :, start : start + part.stop - part.start]


def slices(count: int, most: int) -> Iterator[slice]:
    """Consecutive slices of `count` items, at most `most` long: few, and about equal, for each costs its calls."""
    parts = max(1, -(-count // most))
    step = -(-count // parts // 16) * 16
    if step % 256 == 0:
        # See BlockCodec.batch.
        step += 16
    step = min(step, most)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
