"""Q1_0 and Q2_0: one or two bits a weight and one scale.

The importance matrix has no influence. Formulas: llama.cpp, ggml-quants.c, quantize_row_q1_0_ref and _q2_0_ref. What C
leaves undefined: where max |x| of a Q2_0 block is so small (below 2^-128) that its reciprocal overflows, C casts
infinity or NaN to an integer; on x86-64 that is the lowest one, so that every q is 0, and so it is here.
"""

from __future__ import annotations

import numpy as np

from .blocks import BlockCodec
from .columns import add_down, join_bits, read_halves, split_bits, write_halves
from .registry import Bytes, Codec, Floats
from .ternary import round_to_trits


class Q1(BlockCodec):
    """Q1_0, the sign and the mean magnitude: x = d or -d, d = mean |x|; both zeros count as positive.

    18 bytes: d binary16 | 16 bytes of signs, 1 for positive, the first weight's in the lowest bit.
    """

    name = "Q1_0"
    column = 128
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        positive = (x >= 0).view(np.uint8).reshape(16, 8, -1)
        packed[:, 2:] = join_bits(positive.swapaxes(0, 1), 1).T
        write_halves(add_down(np.abs(x, out=x)) / np.float32(128), packed, 0)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        values[...] = split_bits(packed[:, 2:])
        values *= np.float32(2)
        values -= np.float32(1)
        values *= read_halves(packed, 0)


class Q2(BlockCodec):
    """Q2_0, two bits: x = d (q - 1), d = max |x|. The quantizer never uses q = 3, which reads as 2 d.

    18 bytes: d binary16 | 16 bytes with four consecutive weights each, the first in the lowest two bits.
    """

    name = "Q2_0"
    column = 64
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        d, trits = round_to_trits(x)
        overflow = np.isinf(np.float32(1) / d) & (d > 0)
        trits[:, overflow] = 0
        write_halves(d, packed, 0)
        packed[:, 2:] = join_bits(trits.reshape(16, 4, -1).swapaxes(0, 1), 2).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        quarters = values.reshape(-1, 16, 4)
        for place in range(4):
            quarters[:, :, place] = (packed[:, 2:] >> np.uint8(2 * place)) & np.uint8(3)
        values -= np.float32(1)
        values *= read_halves(packed, 0)


CODECS: dict[str, Codec] = {"Q1_0": Q1(), "Q2_0": Q2()}
