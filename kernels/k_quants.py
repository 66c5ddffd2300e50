"""The k-quants: super-blocks of 256 weights, whose sub-blocks have small integer scales of one float16 scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .k_columns import SUPER, chunks, dot, half, half_bytes, nearest, tiled, to_columns
from .k_search import EPSILON, affine, symmetric
from .registry import TYPES, Bytes, Codec, Floats, KernelError

_CHUNK = 256


@dataclass(frozen=True)
class AffineK:
    """Q4_K and Q5_K: w = d * scale_j * q - dmin * min_j, q of 4 or 5 bits, for 8 sub-blocks j of 32 weights.

    Super-block of 144 or 176 bytes, in this order:
        d, dmin   float16 each
        scales    12 bytes: 6-bit scale_j and min_j, see `_pack_six_bits`
        qh        Q5_K only, 32 bytes: bit j of byte l is bit 4 of weight l of sub-block j
        qs        128 bytes: byte 32 g + l holds bits 0..3 of weight l of sub-blocks 2 g (low) and 2 g + 1 (high)
    """

    name: str
    nmax: int
    first: float
    steps: int

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack float32 (n, k) into uint8 (n, row_bytes)."""
        if imatrix is not None:
            raise KernelError(f"{self.name} with an importance matrix is not written yet")
        blocks = rows.reshape(-1, SUPER)
        packed = np.empty((len(blocks), TYPES[self.name].block_bytes), np.uint8)
        with np.errstate(all="ignore"):
            for chunk in chunks(len(blocks), _CHUNK):
                self._quantize(blocks[chunk], packed[chunk])
        return packed.reshape(len(rows), -1)

    def _quantize(self, blocks: Floats, packed: Bytes) -> None:
        x = to_columns(blocks, 32)
        magnitude = np.abs(x)
        weights = np.sqrt(dot(x, x) / np.float32(32)) + magnitude
        fit = affine(x, weights, self.nmax, first=self.first, step=0.1, steps=self.steps)
        d, scales = _share(fit.scale.reshape(8, -1), 63)
        dmin, mins = _share(fit.minimum.reshape(8, -1), 63)
        step = (half(d) * scales).reshape(-1)
        offset = (half(dmin) * mins).reshape(-1)
        levels = nearest((x + offset) / step)
        np.clip(levels, 0, self.nmax, out=levels)
        kept = np.flatnonzero(step == 0)
        levels[:, kept] = fit[kept].levels(x[:, kept], self.nmax)
        self._pack(packed, d, dmin, scales, mins, levels.astype(np.uint8).reshape(32, 8, -1))

    def _pack(self, packed: Bytes, d: Floats, dmin: Floats, scales: Bytes, mins: Bytes, levels: Bytes) -> None:
        packed[:, 0:2], packed[:, 2:4] = half_bytes(d), half_bytes(dmin)
        packed[:, 4:16] = _pack_six_bits(scales, mins)
        pairs = (levels[:, 0::2] & 15) | (levels[:, 1::2] << 4)
        packed[:, -128:].reshape(-1, 4, 32)[...] = pairs.transpose(2, 1, 0)
        if self.nmax > 15:
            packed[:, 16:48] = _gather_bits(levels >> 4).T

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""
        blocks = packed.reshape(-1, TYPES[self.name].block_bytes)
        rows = np.empty((len(blocks), SUPER), np.float32)
        with np.errstate(all="ignore"):
            for chunk in chunks(len(blocks), 4 * _CHUNK):
                self._dequantize(blocks[chunk], rows[chunk].reshape(-1, 8, 32))
        return rows.reshape(len(packed), k)

    def _dequantize(self, packed: Bytes, out: Floats) -> None:
        scales, mins = _unpack_six_bits(packed[:, 4:16])
        step = _read_half(packed, 0) * scales
        offset = _read_half(packed, 2) * mins
        pairs = packed[:, -128:].reshape(-1, 4, 32)
        out[:, 0::2] = pairs & 15
        out[:, 1::2] = pairs >> 4
        if self.nmax > 15:
            bits = packed[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]
            out += (bits & 1) << 4
        out *= step[:, :, None]
        out -= offset[:, :, None]


@dataclass(frozen=True)
class Q6K:
    """Q6_K: w = d * scale_j * (q - 32), q of 6 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 210 bytes; weight 128 h + 32 g + l (half h, quarter g, l of 0..31) has its bits in
        ql        128 bytes: bits 0..3 in byte 64 h + 32 (g % 2) + l, low nibble for g < 2, else high
        qh        64 bytes: bits 4..5 in byte 32 h + l, at bit 2 g
        scales    16 x int8
        d         float16
    """

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Pack float32 (n, k) into uint8 (n, row_bytes)."""
        blocks = rows.reshape(-1, SUPER)
        packed = np.empty((len(blocks), 210), np.uint8)
        with np.errstate(all="ignore"):
            for chunk in chunks(len(blocks), _CHUNK):
                weights = None if imatrix is None else to_columns(tiled(imatrix, chunk), 16)
                self._quantize(to_columns(blocks[chunk], 16), weights, packed[chunk])
        return packed.reshape(len(rows), -1)

    def _quantize(self, x: Floats, weights: Floats | None, packed: Bytes) -> None:
        found, fallback = symmetric(x, x * x if weights is None else weights, 32)
        found = found.reshape(16, -1)
        where = np.abs(found).argmax(axis=0)
        peak = np.take_along_axis(found, where[None], axis=0)[0]
        inverse = np.float32(-128) / peak
        d = np.float32(1) / inverse
        scales = np.minimum(nearest(inverse * found), 127).astype(np.int8)
        step = (half(d) * scales).reshape(-1)
        levels = np.clip(nearest(x / step), -32, 31)
        levels = np.where(step == 0, fallback.astype(np.int32), levels) + 32
        self._pack(packed, d, scales, levels.astype(np.uint8))
        packed[np.abs(peak) < EPSILON] = 0

    @staticmethod
    def _pack(packed: Bytes, d: Floats, scales: np.ndarray, levels: Bytes) -> None:
        # Columns to (half, quarter, l, super-block): sub-block 8 h + 2 g + l // 16, weight l % 16.
        q = levels.reshape(16, 2, 4, 2, -1).transpose(1, 2, 3, 0, 4).reshape(2, 4, 32, -1)
        packed[:, :128] = ((q[:, :2] & 15) | (q[:, 2:] << 4)).reshape(128, -1).T
        top = q >> 4
        packed[:, 128:192] = (top[:, 0] | top[:, 1] << 2 | top[:, 2] << 4 | top[:, 3] << 6).reshape(64, -1).T
        packed[:, 192:208] = scales.view(np.uint8).T
        packed[:, 208:210] = half_bytes(d)

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Unpack uint8 (n, row_bytes) into float32 (n, k)."""
        blocks = packed.reshape(-1, 210)
        rows = np.empty((len(blocks), SUPER), np.float32)
        with np.errstate(all="ignore"):
            for chunk in chunks(len(blocks), 4 * _CHUNK):
                self._dequantize(blocks[chunk], rows[chunk])
        return rows.reshape(len(packed), k)

    @staticmethod
    def _dequantize(packed: Bytes, out: Floats) -> None:
        step = _read_half(packed, 208) * packed[:, 192:208].view(np.int8)
        low = packed[:, :128].reshape(-1, 2, 1, 64)
        low = (low >> np.array([[0], [4]], np.uint8)) & 15
        top = packed[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8)
        q = low.reshape(-1, 2, 4, 32) | (top & 3) << 4
        np.subtract(q.reshape(-1, SUPER), np.float32(32), out=out)
        out.reshape(-1, 16, 16)[...] *= step[:, :, None]


def _share(values: Floats, nmax: int) -> tuple[Floats, Bytes]:
    """The common scale (B,) of the sub-blocks' values (j, B), and their codes 0..nmax of it: largest / nmax."""
    top = np.fmax(np.fmax.reduce(values, axis=0), np.float32(0))
    inverse = np.where(top > 0, np.float32(nmax) / top, np.float32(0))
    codes = nearest(inverse * values).astype(np.uint8)
    return top / np.float32(nmax), np.minimum(codes, np.uint8(nmax))


def _pack_six_bits(scales: Bytes, mins: Bytes) -> Bytes:
    """Eight 6-bit scales and mins (8, B) in 12 bytes (B, 12).

    Bytes 0..3: scale 0..3, above it bits 4..5 of scale 4..7. Bytes 4..7: the same of min. Bytes 8..11: bits 0..3 of
    scale 4..7, above them those of min 4..7.
    """
    return np.concatenate(
        (
            scales[:4] | (scales[4:] >> 4) << 6,
            mins[:4] | (mins[4:] >> 4) << 6,
            (scales[4:] & 15) | (mins[4:] & 15) << 4,
        )
    ).T


def _unpack_six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The scales and mins (B, 8) of 12 bytes (B, 12)."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (rest & 15) | (first >> 6) << 4), axis=1)
    mins = np.concatenate((second & 63, (rest >> 4) | (second >> 6) << 4), axis=1)
    return scales, mins


def _gather_bits(bits: Bytes) -> Bytes:
    """Bit j of the result (l, B) is bits[:, j] of (l, 8, B), each 0 or 1."""
    return np.asarray(np.bitwise_or.reduce(bits << np.arange(8, dtype=np.uint8)[:, None], axis=1))


def _read_half(packed: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block (B, bytes) as float32 (B, 1)."""
    return np.ascontiguousarray(packed[:, at : at + 2]).view("<f2").astype(np.float32)


CODECS: dict[str, Codec] = {
    "Q4_K": AffineK("Q4_K", 15, -1.0, 20),
    "Q5_K": AffineK("Q5_K", 31, -0.5, 15),
    "Q6_K": Q6K(),
}
