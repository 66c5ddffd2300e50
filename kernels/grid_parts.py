"""What the grid types share around the search: signs, block scales, and the way back to weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import SUPER, join_bits, nearest_int, whole_blocks
from .grid_books import grid_values, sign_bytes
from .registry import Bytes, Floats

Ints = npt.NDArray[np.intp]
Words = npt.NDArray[np.uint32]


def sign_bits(x: Floats) -> Bytes:
    """Bit i of byte (g, b) tells whether weight 8 g + i of column b is negative: uint8 (weights / 8, blocks)."""
    negative = (x < 0).view(np.uint8).reshape(-1, 8, x.shape[1])
    return join_bits(negative.swapaxes(0, 1), 1)


def even_signs(x: Floats, weight: Floats) -> tuple[Floats, Bytes]:
    """Magnitudes and 7 sign bits of each 8 weights, the number of minus signs made even.

    Where it is odd, the least important weight, by weight * x * x, changes sides: its magnitude becomes negative.
    """
    bits = sign_bits(x)
    magnitude = np.abs(x)
    cost = weight * x
    cost *= x
    costs = cost.reshape(-1, 8, x.shape[1])
    least = costs[:, 0].copy()
    where = np.zeros(bits.shape, np.uint8)
    for i in range(1, 8):
        smaller = costs[:, i] < least
        np.minimum(least, costs[:, i], out=least)
        np.maximum(where, smaller.view(np.uint8) * np.uint8(i), out=where)
    group, block = np.nonzero(_PARITY[bits])
    place = where[group, block]
    magnitude[group * 8 + place, block] *= np.float32(-1)
    bits[group, block] ^= np.left_shift(np.uint8(1), place)
    return magnitude, bits & np.uint8(127)


_PARITY = (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1) & 1).astype(bool)


def scale_codes(scale: Floats, steps: int, top: int) -> tuple[Floats, Bytes]:
    """Scales (blocks of a super-block, B) as d * (2 code + 1): d (B,) = largest / steps, codes uint8, 0..top.

    Super-blocks without a scale have d = 0 and codes 0.
    """
    largest = scale.max(axis=0)
    d = largest / np.float32(steps)
    code = np.clip(nearest_int(np.float32(0.5) * (np.float32(1) / d * scale - np.float32(1))), 0, top)
    return d, np.where(largest > 0, code, 0).astype(np.uint8)


def by_super_block(values: npt.NDArray[Any], supers: int) -> npt.NDArray[Any]:
    """Figures of groups (g, blocks) in the order of the weights: (B, groups of a super-block)."""
    ordered: npt.NDArray[Any] = np.ascontiguousarray(whole_blocks(values, supers).T)
    return ordered


def nibbles(code: Bytes) -> Bytes:
    """4-bit codes (2 m, B) as bytes (B, m), the even one in the low half."""
    packed: Bytes = join_bits(code.reshape(-1, 2, code.shape[1]).swapaxes(0, 1), 4).T
    return packed


def split_nibbles(packed: Bytes) -> Bytes:
    """The inverse of `nibbles`: bytes (B, m) as codes (B, 2 m)."""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def sign_words(signs: Bytes, code: Bytes) -> Words:
    """7-bit signs (4, 8 * B) and 4-bit codes (8, B) as little-endian words (B, 8)."""
    seven = signs.reshape(4, 8, -1).astype(np.uint32)
    words = seven[0] | seven[1] << 7 | seven[2] << 14 | seven[3] << 21 | code.astype(np.uint32) << 28
    return np.ascontiguousarray(words.T).astype("<u4")


def split_sign_words(words: Words) -> tuple[Bytes, Floats]:
    """The inverse of `sign_words`: all 8 signs (B, 32) and codes as float32 (B, 8)."""
    seven = words[:, :, None] >> np.array([0, 7, 14, 21], np.uint32) & np.uint32(127)
    return sign_bytes()[seven].reshape(len(words), 32), (words >> 28).astype(np.float32)


@cache
def decoded_grid(name: str) -> Floats:
    """Values of the grid points of a type, float32 (points, group)."""
    return grid_values(name)


@cache
def sign_values() -> Floats:
    """1 or -1 for each bit of a byte, the lowest first: float32 (256, 8)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    values: Floats = np.where(bits, np.float32(-1), np.float32(1))
    return values


def signed_points(name: str, index: Ints, signs: Bytes, scale: Floats, out: Floats) -> None:
    """Write scale * grid point * sign to `out` (B, 256).

    Args:
        name: the type whose grid it is.
        index: grid index of each group, (B, groups).
        signs: sign bits of each 8 weights, (B, 32).
        scale: scale of each block, (B, blocks).
        out: float32 (B, 256), C order.
    """
    supers = len(out)
    np.take(decoded_grid(name), index.reshape(-1), axis=0, out=out.reshape(-1, SUPER // index.shape[1]))
    blocks = out.reshape(supers, scale.shape[1], -1)
    blocks *= scale[:, :, None]
    eights = out.reshape(supers * 32, 8)
    eights *= sign_values()[signs.reshape(-1)]
