"""F32, F16 and BF16: no blocks and no scales, only rounding.

Scratch: about 1 MB, whatever the number of rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .registry import Bytes, Codec, Floats

Words = npt.NDArray[np.uint32]

CHUNK = 1 << 16
"""Weights that are converted at once, so that all scratch stays in the second-level cache."""


class F32:
    """float32, little-endian: 4 bytes a weight, unchanged."""

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Copy float32 (n, k) into uint8 (n, 4k); the imatrix has no influence."""
        packed: Bytes = rows.view(np.uint8).copy()
        return packed

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Copy uint8 (n, 4k) into float32 (n, k)."""
        rows: Floats = packed.copy().view(np.float32)
        return rows


class F16:
    """IEEE binary16: 2 bytes a weight, rounded to nearest, ties to even.

    Magnitudes from 65520 up become infinity, those below 2^-14 denormal numbers, those up to 2^-25 a zero with the
    sign of the weight.
    """

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Round float32 (n, k) to uint8 (n, 2k); the imatrix has no influence."""
        halves = np.empty(rows.shape, np.uint16)
        flat, out = rows.reshape(-1), halves.reshape(-1)
        with np.errstate(over="ignore", under="ignore"):
            for start in range(0, flat.size, CHUNK):
                _round_to_half(flat[start : start + CHUNK], out[start : start + CHUNK])
        return halves.view(np.uint8)

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Widen uint8 (n, 2k) to float32 (n, k), exactly."""
        return np.ascontiguousarray(packed).view(np.float16).astype(np.float32)


class BF16:
    """The upper half of a float32: 2 bytes a weight, rounded to nearest, ties to even.

    Denormal numbers stay denormal; magnitudes beyond the largest BF16 become infinity.
    """

    def quantize(self, rows: Floats, imatrix: Floats | None) -> Bytes:
        """Round float32 (n, k) to uint8 (n, 2k); the imatrix has no influence."""
        halves = np.empty(rows.shape, np.uint16)
        flat, out = rows.reshape(-1).view(np.uint32), halves.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            bits = flat[start : start + CHUNK]
            rounded = bits >> np.uint32(16)
            rounded &= np.uint32(1)
            rounded += bits
            rounded += np.uint32(0x7FFF)
            rounded >>= np.uint32(16)
            out[start : start + CHUNK] = rounded
        return halves.view(np.uint8)

    def dequantize(self, packed: Bytes, k: int) -> Floats:
        """Widen uint8 (n, 2k) to float32 (n, k), exactly."""
        bits = np.ascontiguousarray(packed).view(np.uint16).astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)


def _round_to_half(values: Floats, out: npt.NDArray[np.uint16]) -> None:
    """Write the binary16 bits of finite `values` (n,) to `out` (n,); four times as fast as numpy's own cast.

    Adding 2^(e+13) to a magnitude with exponent e leaves, after float32's own rounding, exactly binary16's eleven
    significant bits at the low end of the sum. The exponent is held at -14, so that what is denormal in binary16
    loses the right number of bits, and the product with 2^112 sends magnitudes beyond binary16 to infinity.
    """
    bits = values.view(np.uint32)
    exponent = bits & np.uint32(0x7F800000)
    np.maximum(exponent, np.uint32(0x38800000), out=exponent)
    exponent += np.uint32(0x07800000)
    magnitude = np.abs(values)
    magnitude *= np.float32(2.0**112)
    magnitude *= np.float32(2.0**-110)
    magnitude += exponent.view(np.float32)
    rounded: Words = magnitude.view(np.uint32)
    # The mantissa's carry adds to the exponent, so both parts are added, not joined.
    np.right_shift(rounded, np.uint32(13), out=exponent)
    exponent &= np.uint32(0x7C00)
    rounded &= np.uint32(0x0FFF)
    rounded += exponent
    np.right_shift(bits, np.uint32(16), out=exponent)
    exponent &= np.uint32(0x8000)
    rounded |= exponent
    out[:] = rounded


CODECS: dict[str, Codec] = {"F32": F32(), "F16": F16(), "BF16": BF16()}
