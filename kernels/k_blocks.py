"""The frame of every k-quant: rows to batches of super-blocks and back, so that scratch is bounded.

Scratch, whatever the number of rows: 10..17 MB to quantize, at most 2 MB to dequantize. `np.setbufsize(512)` in the
process that quantizes makes the broadcasts of (s, n) with (n,) cheaper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from .k_columns import SUPER
from .registry import TYPES, Bytes, Floats

_BATCH = 2048
"""Super-blocks packed together, 2 MiB of rows: arrays of the second-level cache's order, that pay for numpy's calls."""


class SuperBlocks(ABC):
    """A codec that packs one super-block of 256 weights like the other, `_BATCH` of them at once."""

    name: str

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack float32 (n, k) into uint8 (n, row_bytes)."""
        blocks = rows.reshape(-1, SUPER)
        across = None if imatrix is None else imatrix.reshape(-1, SUPER)
        packed = np.empty((len(blocks), TYPES[self.name].block_bytes), np.uint8)
        with np.errstate(all="ignore"):
            for start in range(0, len(blocks), _BATCH):
                # An odd one out is packed twice: numpy sums the rows of a single column in another order.
                end = min(start + _BATCH, len(blocks))
                at = np.minimum(np.arange(start, end + (end - start) % 2), end - 1)
                chunk = blocks[start:end] if len(at) == end - start else blocks[at]
                out = np.empty((len(at), packed.shape[1]), np.uint8)
                self._pack(chunk, None if across is None else across[at % len(across)], out)
                packed[start:end] = out[: end - start]
        return packed.reshape(len(rows), -1)

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""
        blocks = packed.reshape(-1, TYPES[self.name].block_bytes)
        rows = np.empty((len(blocks), SUPER), np.float32)
        with np.errstate(all="ignore"):
            for start in range(0, len(blocks), _BATCH):
                self._unpack(blocks[start : start + _BATCH], rows[start : start + _BATCH])
        return rows.reshape(len(packed), k)

    @abstractmethod
    def _pack(self, blocks: Floats, importance: Floats | None, out: Bytes) -> None:
        """Quantize super-blocks (B, 256), with the importances beside them or None, into `out` (B, bytes)."""

    @abstractmethod
    def _unpack(self, packed: Bytes, out: Floats) -> None:
        """Decode super-blocks (B, bytes) into `out` (B, 256)."""
