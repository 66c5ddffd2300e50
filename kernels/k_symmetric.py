"""Q3_K and Q6_K: k-quants with a signed scale for each sub-block and no minimum."""

from __future__ import annotations

import numpy as np

from .blocks import SuperBlockCodec
from .columns import (
    EPSILON,
    SUPER,
    add_down,
    clip,
    first_largest,
    importance_weights,
    join_bits,
    join_quarters,
    mean_square,
    nearest_int,
    read_halves,
    round_in_place,
    split_quarters,
    to_half,
    whole_blocks,
    write_halves,
)
from .fit_scale import signed_refined, symmetric
from .registry import Bytes, Floats


class Q3K(SuperBlockCodec):
    """Q3_K: w = d * (scale_j - 32) * (q - 4), q of 3 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 110 bytes:
        hmask     32 bytes: bit g of byte l is bit 2 of weight 32 g + l
        qs        64 bytes: bits 2 g, 2 g + 1 of byte 32 h + l are bits 0..1 of weight 128 h + 32 g + l
        scales    12 bytes: bits 0..3 of scale_j in bytes 0..7, low nibble for j < 8, else high; bits 4..5 in byte
                  8 + j % 4, at bit 2 (j // 4)
        d         float16
    """

    name = "Q3_K"
    column = 16

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        if beside is None:
            found, kept = signed_refined(x, 4)
            d, scales = self._share(found.reshape(16, -1))
        else:
            weights = importance_weights(x, beside, mean_square(x, 2))
            found, kept = symmetric(x, weights, 4)
            sums = add_down(weights)
            d, levels = symmetric(found.reshape(16, -1), sums.reshape(16, -1), 32, finite=False)
            scales = (levels + np.float32(32)).astype(np.uint8)
        step = to_half(d) * (scales.astype(np.float32) - np.float32(32))
        codes = whole_blocks(_final_codes(x, kept, step, 4), len(packed))
        packed[:, :32] = join_bits((codes >> np.uint8(2)).reshape(8, 32, -1), 1).T
        packed[:, 32:96] = join_quarters(codes & np.uint8(3))
        low, high = scales & np.uint8(15), (scales >> np.uint8(4)).reshape(4, 4, -1)
        packed[:, 96:104] = (low[:8] | low[8:] << 4).T
        packed[:, 104:108] = join_bits(high, 2).T
        write_halves(d, packed, 108)

    @staticmethod
    def _share(found: Floats) -> tuple[Floats, Bytes]:
        """The common scale (B,), largest / -32, of the sub-blocks' scales (16, B), and their codes 0..63."""
        largest = first_largest(found)
        inverse = np.float32(-32) / largest
        codes = np.clip(nearest_int(inverse * found).astype(np.int8), -32, 31) + 32
        zero = largest == 0
        codes[:, zero] = 0
        return np.where(zero, np.float32(0), np.float32(1) / inverse), codes.astype(np.uint8)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        low, high = packed[:, 96:104], packed[:, 104:108]
        top = high[:, None, :] >> _FOUR[:, None] & 3
        codes = np.concatenate((low & 15, low >> 4), axis=1) | top.reshape(-1, 16) << 4
        step = read_halves(packed, 108) * (codes.astype(np.float32) - np.float32(32))
        top = packed[:, None, :32] >> _EIGHT[:, None] & 1
        levels = split_quarters(packed[:, 32:96]) | top.reshape(-1, SUPER) << 2
        np.subtract(levels, np.float32(4), out=values)
        by_sub_block = values.reshape(-1, 16, 16)
        by_sub_block *= step[:, :, None]


class Q6K(SuperBlockCodec):
    """Q6_K: w = d * scale_j * (q - 32), q of 6 bits, for 16 sub-blocks j of 16 weights.

    Super-block of 210 bytes; weight 128 h + 32 g + l (half h, quarter g, l of 0..31) has its bits in
        ql        128 bytes: bits 0..3 in byte 64 h + 32 (g % 2) + l, low nibble for g < 2, else high
        qh        64 bytes: bits 4..5 in byte 32 h + l, at bit 2 g
        scales    16 x int8
        d         float16
    """

    name = "Q6_K"
    column = 16
    batch = 1040 * SUPER

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        weights = x * x if beside is None else beside.reshape(x.shape)
        found, kept = symmetric(x, weights, 32)
        found = found.reshape(16, -1)
        largest = first_largest(found)
        inverse = np.float32(-128) / largest
        d = np.float32(1) / inverse
        scales = np.minimum(nearest_int(inverse * found), 127).astype(np.int8)
        codes = whole_blocks(_final_codes(x, kept, to_half(d) * scales, 32), len(packed))
        pairs = (codes & np.uint8(15)).reshape(2, 2, 64, -1).swapaxes(0, 1)
        packed[:, :128] = join_bits(pairs, 4).reshape(128, -1).T
        packed[:, 128:192] = join_quarters(codes >> np.uint8(4))
        packed[:, 192:208] = scales.view(np.uint8).T
        write_halves(d, packed, 208)
        packed[np.abs(largest) < EPSILON] = 0

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        step = read_halves(packed, 208) * packed[:, 192:208].view(np.int8)
        pairs = packed[:, :128].reshape(-1, 2, 1, 64)
        low = (pairs >> np.array([[0], [4]], np.uint8) & 15).reshape(-1, SUPER)
        np.subtract(low | split_quarters(packed[:, 128:192]) << 4, np.float32(32), out=values)
        by_sub_block = values.reshape(-1, 16, 16)
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
