"""Q3_K and Q6_K: k-quants with a signed scale for each sub-block and no minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .k_blocks import SuperBlocks
from .k_columns import (
    SUPER,
    clip,
    first_largest,
    gather_quarters,
    half,
    half_bytes,
    nearest,
    read_half,
    round_in_place,
    split_quarters,
    super_dot,
    thirty_twos,
    to_columns,
)
from .k_fit_scale import EPSILON, signed_refined, symmetric
from .registry import Bytes, Floats


@dataclass(frozen=True)
class Q3K(SuperBlocks):
    """Q3_K: w = d * (scale_j - 32) * (q - 4), q of 3 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 110 bytes:
        hmask     32 bytes: bit g of byte l is bit 2 of weight 32 g + l
        qs        64 bytes: bits 2 g, 2 g + 1 of byte 32 h + l are bits 0..1 of weight 128 h + 32 g + l
        scales    12 bytes: bits 0..3 of scale_j in bytes 0..7, low nibble for j < 8, else high; bits 4..5 in byte
                  8 + j % 4, at bit 2 (j // 4)
        d         float16
    """

    name: str = "Q3_K"

    def _pack(self, blocks: Floats, importance: Floats | None, out: Bytes) -> None:
        x = to_columns(blocks, 16)
        if importance is None:
            found, kept = signed_refined(x, 4)
            d, scales = self._share(found.reshape(16, -1))
        else:
            sigma2 = np.float32(2) * super_dot(x, x) / np.float32(SUPER)
            weights = to_columns(importance, 16) * np.sqrt(np.tile(sigma2, 16) + x * x)
            found, kept = symmetric(x, weights, 4)
            sums = np.add.reduce(weights, axis=0)
            d, levels = symmetric(found.reshape(16, -1), sums.reshape(16, -1), 32, finite=False)
            scales = (levels + np.float32(32)).astype(np.uint8)
        step = half(d) * (scales.astype(np.float32) - np.float32(32))
        codes = _final_codes(x, kept, step, 4)
        out[:, :32] = np.bitwise_or.reduce(thirty_twos(codes >> np.uint8(2)) << _EIGHT[:, None, None], axis=0).T
        out[:, 32:96] = gather_quarters(codes & np.uint8(3))
        low, high = scales & 15, (scales >> 4).reshape(4, 4, -1)
        out[:, 96:104] = (low[:8] | low[8:] << 4).T
        out[:, 104:108] = (high[0] | high[1] << 2 | high[2] << 4 | high[3] << 6).T
        out[:, 108:110] = half_bytes(d)

    @staticmethod
    def _share(found: Floats) -> tuple[Floats, Bytes]:
        """The common scale (B,), largest / -32, of the sub-blocks' scales (16, B), and their codes 0..63."""
        largest = first_largest(found)
        inverse = np.float32(-32) / largest
        codes = np.clip(nearest(inverse * found).astype(np.int8), -32, 31) + 32
        zero = largest == 0
        codes[:, zero] = 0
        return np.where(zero, np.float32(0), np.float32(1) / inverse), codes.astype(np.uint8)

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        low, high = packed[:, 96:104], packed[:, 104:108]
        top = high[:, None, :] >> _FOUR[:, None] & 3
        codes = np.concatenate((low & 15, low >> 4), axis=1) | top.reshape(-1, 16) << 4
        step = read_half(packed, 108) * (codes.astype(np.float32) - np.float32(32))
        levels = split_quarters(packed[:, 32:96]) | ((packed[:, None, :32] >> _EIGHT[:, None] & 1) << 2).reshape(
            -1, SUPER
        )
        np.subtract(levels, np.float32(4), out=out)
        by_sub_block = out.reshape(-1, 16, 16)
        by_sub_block *= step[:, :, None]


@dataclass(frozen=True)
class Q6K(SuperBlocks):
    """Q6_K: w = d * scale_j * (q - 32), q of 6 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 210 bytes; weight 128 h + 32 g + l (half h, quarter g, l of 0..31) has its bits in
        ql        128 bytes: bits 0..3 in byte 64 h + 32 (g % 2) + l, low nibble for g < 2, else high
        qh        64 bytes: bits 4..5 in byte 32 h + l, at bit 2 g
        scales    16 x int8
        d         float16
    """

    name: str = "Q6_K"

    def _pack(self, blocks: Floats, importance: Floats | None, out: Bytes) -> None:
        x = to_columns(blocks, 16)
        found, kept = symmetric(x, x * x if importance is None else to_columns(importance, 16), 32)
        found = found.reshape(16, -1)
        largest = first_largest(found)
        inverse = np.float32(-128) / largest
        d = np.float32(1) / inverse
        scales = np.minimum(nearest(inverse * found), 127).astype(np.int8)
        codes = _final_codes(x, kept, half(d) * scales, 32)
        out[:, :128] = self._nibbles(codes & np.uint8(15))
        out[:, 128:192] = gather_quarters(codes >> np.uint8(4))
        out[:, 192:208] = scales.view(np.uint8).T
        out[:, 208:210] = half_bytes(d)
        out[np.abs(largest) < EPSILON] = 0

    @staticmethod
    def _nibbles(low: Bytes) -> Bytes:
        by_half = thirty_twos(low).reshape(2, 2, 64, -1)
        packed: Bytes = (by_half[:, 0] | by_half[:, 1] << 4).reshape(128, -1).T
        return packed

    def _unpack(self, packed: Bytes, out: Floats) -> None:
        step = read_half(packed, 208) * packed[:, 192:208].view(np.int8)
        pairs = packed[:, :128].reshape(-1, 2, 1, 64)
        low = (pairs >> np.array([[0], [4]], np.uint8) & 15).reshape(-1, SUPER)
        np.subtract(low | split_quarters(packed[:, 128:192]) << 4, np.float32(32), out=out)
        by_sub_block = out.reshape(-1, 16, 16)
        by_sub_block *= step[:, :, None]


_EIGHT = np.arange(8, dtype=np.uint8)
_FOUR = 2 * np.arange(4, dtype=np.uint8)


def _final_codes(x: Floats, kept: Floats, step: Floats, nmax: int) -> Bytes:
    """The codes 0..2 nmax - 1 (s, n) that the decoder's own step (16, B) asks for; where that is 0, the search's.

    Overwrites x.
    """
    step = step.reshape(-1)
    unused = np.flatnonzero(step == 0)
    step[unused] = 1
    x /= step
    round_in_place(x)
    clip(x, np.float32(-nmax), np.float32(nmax - 1), out=x)
    x[:, unused] = kept[:, unused]
    x += np.float32(nmax)
    return x.astype(np.uint8)
