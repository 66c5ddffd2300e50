"""MXFP4 and NVFP4: 4-bit floats (sign, two bits of exponent, one of mantissa) with a shared scale.

x = d K(q), where K is twice the value of the 4-bit float: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives, and d half the
shared scale. Each weight takes the nearest; of two equally near the one closer to zero, and never the negative zero.
The importance matrix has no influence. Formulas: llama.cpp, ggml-quants.c, quantize_row_mxfp4_ref and _nvfp4_ref.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .blocks import BlockCodec
from .columns import Levels, join_bits, largest_magnitude
from .registry import Bytes, Codec, Floats

FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
MIDPOINTS = (FP4[:7] + FP4[1:8]) / np.float32(2)
ALMOST_FLAT = np.float32(2.0**28)
"""From 32 times this magnitude on, a weight and its distances to all multiples of NVFP4's largest d round alike."""


class MXFP4(BlockCodec):
    """A power of two as scale: d = 2^(e - 128), e = floor(log2(max |x|)) + 125.

    17 bytes: e | 16 bytes of nibbles, weight j below weight j + 16.

    What C leaves undefined: for max |x| below 2^-125, e is negative; its low byte is written, as on x86-64. Just below
    a power of two the C library's log2f may round up to the whole number; `_floor_log2` does as glibc does.
    """

    name = "MXFP4"
    column = 32
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        magnitude = largest_magnitude(x)
        exponent = _floor_log2(magnitude) + np.int32(125)
        e = np.where(magnitude > 0, exponent, np.int32(0)).astype(np.uint8)
        packed[:, 0] = e
        packed[:, 1:] = join_bits(_nearest(x, E8M0_HALF[e]).reshape(2, 16, -1), 4).T

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        _split(packed[:, 1:], values)
        values *= E8M0_HALF[packed[:, 0], None]


class NVFP4(BlockCodec):
    """A small float as scale for each 16 of the block's 64 weights: 2 d = max |x| / 6 as an unsigned E4M3.

    36 bytes: 4 scales | 4 times 8 bytes of nibbles, weight j of a sub-block below weight j + 8.
    """

    name = "NVFP4"
    column = 16
    uses_imatrix = False

    def _pack(self, x: Floats, beside: Floats | None, packed: Bytes) -> None:
        magnitude = largest_magnitude(x)
        scale = _to_ue4m3(magnitude / np.float32(6))
        levels = _nearest(x, UE4M3_HALF[scale])
        flat = magnitude > ALMOST_FLAT
        if flat.any():
            levels[:, flat] = _first_nearest(x[:, flat], UE4M3_HALF[scale[flat]])
        packed[:, :4] = scale.reshape(4, -1).T
        packed[:, 4:].reshape(-1, 4, 8)[...] = join_bits(levels.reshape(2, 8, 4, -1), 4).transpose(2, 1, 0)

    def _unpack(self, packed: Bytes, values: Floats) -> None:
        sub_blocks = values.reshape(-1, 4, 16)
        _split(packed[:, 4:].reshape(-1, 4, 8), sub_blocks)
        sub_blocks *= UE4M3_HALF[packed[:, :4], None]


def _nearest(x: Floats, d: Floats) -> Levels:
    """Index of the FP4 value nearest to x / d, for columns x (k, m) and d (m,).

    C compares the distances |K d - x|. Near a midpoint of two neighbours both are exact (Sterbenz), and so is the
    midpoint times d, so that one comparison decides alike.
    """
    magnitude = np.abs(x)
    levels: Levels = (magnitude > MIDPOINTS[0] * d).view(np.uint8)
    for midpoint in MIDPOINTS[1:]:
        levels += (magnitude > midpoint * d).view(np.uint8)
    negative = (x < 0).view(np.uint8)
    negative &= (levels > 0).view(np.uint8)
    negative <<= np.uint8(3)
    levels |= negative
    levels[:, d == 0] = 0
    return levels


def _first_nearest(x: Floats, d: Floats) -> Levels:
    """What `_nearest` gives, by C's search: the first of the sixteen whose float32 distance is the smallest."""
    distances = np.abs(FP4[:, None, None] * d - x)
    levels: Levels = distances.argmin(axis=0).astype(np.uint8)
    return levels


def _split(nibbles: Bytes, values: Floats) -> None:
    """Write the FP4 values of nibbles (..., k) to `values` (..., 2k)."""
    half = nibbles.shape[-1]
    values[..., :half] = FP4[nibbles & np.uint8(15)]
    values[..., half:] = FP4[nibbles >> np.uint8(4)]


def _floor_log2(magnitude: Floats) -> npt.NDArray[np.int32]:
    """floor(log2f(magnitude)) as int32 (m,), for magnitudes above zero."""
    exponent: npt.NDArray[np.int32] = np.floor(np.log2(magnitude.astype(np.float64)).astype(np.float32)).astype(
        np.int32
    )
    return exponent


def _to_ue4m3(x: Floats) -> Levels:
    """Non-negative x (m,) as unsigned E4M3: 4 bits of exponent (bias 7), 3 of mantissa, ties upwards.

    As in C everything that rounds to 256 or more becomes 448, the largest.
    """
    bits: npt.NDArray[np.int32] = np.minimum(x, np.float32(448)).view(np.int32)
    # One bit below the mantissa is added to it: a carry goes into the exponent by itself.
    normal = ((bits >> 19) + 1 >> 1) - (120 << 3)
    subnormal = np.minimum((x * np.float32(512) + np.float32(0.5)).astype(np.int32), 7)
    normal[normal >= 0x78] = 0x7E
    code: Levels = np.where(bits >> 23 > 120, normal, subnormal).astype(np.uint8)
    return code


def _e8m0_half() -> Floats:
    """2^(e - 128) for e = 0 .. 255."""
    powers: Floats = np.exp2(np.arange(256) - 128.0).astype(np.float32)
    return powers


def _ue4m3_half() -> Floats:
    """Half the value of each unsigned E4M3; the top bit is ignored, 0x7F is read as zero."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    value = np.where(exponent == 0, mantissa * 2.0**-10, (1 + mantissa / 8) * 2.0 ** (exponent - 8))
    value[0x7F] = 0
    return value.astype(np.float32)


E8M0_HALF = _e8m0_half()
UE4M3_HALF = _ue4m3_half()
CODECS: dict[str, Codec] = {"MXFP4": MXFP4(), "NVFP4": NVFP4()}
