"""TQ1_0 and TQ2_0, for models trained with weights -1, 0, 1: x = d (q - 1), d = max |x|, q = 0, 1 or 2.

The importance matrix has no influence. Formulas: llama.cpp, ggml-quants.c, quantize_row_tq*_ref. What C leaves
undefined: where max |x| is so small (below 2^-128) that its reciprocal overflows, C rounds infinity or NaN to an
integer; on x86-64 its low bits are zero, so that every q is 1, and so it is here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .blocks import BlockCodec
from .columns import Levels, join_quarters, largest_magnitude, read_halves, reciprocal, split_quarters, write_halves
from .registry import Bytes, Codec, Floats


class TQ1(BlockCodec):
    """TQ1_0, five weights a byte.

    54 bytes: 32 bytes with weights m, m + 32 .. m + 128 each | 16 bytes with weights 160 + m, m + 16 .. m + 64 |
    4 bytes with weights 240 + m, m + 4 .. m + 12 | d binary16. A byte holds the digits, the first weight's the most
    significant, as a fraction of 3^5 in 256ths, rounded up: multiplying it by 3 again and again carries out one
    digit after the other. The last four bytes have a fifth digit 0.
    """

    name = "TQ1_0"
    column = 256
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        d, trits = round_to_trits(x)
        packed[:, :32] = _fraction(trits[:160].reshape(5, 32, -1)).T
        packed[:, 32:48] = _fraction(trits[160:240].reshape(5, 16, -1)).T
        packed[:, 48:52] = _fraction(trits[240:].reshape(4, 4, -1)).T
        write_halves(d, packed, 52)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _read_digits(packed[:, :32], values[:, :160])
        _read_digits(packed[:, 32:48], values[:, 160:240])
        _read_digits(packed[:, 48:52], values[:, 240:])
        values -= np.float32(1)
        values *= read_halves(packed, 52)


class TQ2(BlockCodec):
    """TQ2_0, four weights a byte.

    66 bytes: 32 bytes with weights m, m + 32, m + 64, m + 96 each, the first in the lowest two bits | 32 bytes with
    weights 128 + m likewise | d binary16.
    """

    name = "TQ2_0"
    column = 256
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        d, trits = round_to_trits(x)
        packed[:, :64] = join_quarters(trits)
        write_halves(d, packed, 64)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        np.subtract(split_quarters(packed[:, :64]), np.float32(1), out=values)
        values *= read_halves(packed, 64)


def round_to_trits(x: Floats) -> tuple[Floats, Levels]:
    """The largest magnitude d (m,) of each column of x (k, m), and x / d rounded, ties away from zero, plus 1 (k, m).

    Overwrites `x`.
    """
    d = largest_magnitude(x)
    inverse = reciprocal(d)
    inverse[np.isinf(inverse)] = 0
    x *= inverse
    trits = (x >= np.float32(0.5)).view(np.uint8)
    trits += np.uint8(1)
    trits -= (x <= np.float32(-0.5)).view(np.uint8)
    return d, trits


def _fraction(trits: Levels) -> Levels:
    """Digits (4 or 5, bytes, m) base 3, the first the most significant, as ceil(256 * number / 3^5) (bytes, m)."""
    number: npt.NDArray[np.uint16] = trits[0].astype(np.uint16)
    for digits in trits[1:]:
        number *= np.uint16(3)
        number += digits
    if len(trits) == 4:
        number *= np.uint16(3)
    number *= np.uint16(256)
    number += np.uint16(242)
    number //= np.uint16(243)
    fraction: Levels = number.astype(np.uint8)
    return fraction


def _read_digits(packed: Bytes, values: Floats) -> None:
    """Write the digits of `packed` (m, bytes), most significant first, to `values` (m, digits * bytes)."""
    bytes_ = packed.shape[1]
    fraction = packed.copy()
    for start in range(0, values.shape[1], bytes_):
        carried = fraction.astype(np.uint16)
        carried *= np.uint16(3)
        carried >>= np.uint16(8)
        values[:, start : start + bytes_] = carried
        fraction *= np.uint8(3)


CODECS: dict[str, Codec] = {"TQ1_0": TQ1(), "TQ2_0": TQ2()}
