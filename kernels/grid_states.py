"""Rounding groups to states: at one scale, or on a whole ladder of scales at once.

Arrays hold blocks as columns, see `columns`. "Group-wise" arrays are (group, groups): the i-th weight of every group,
where group g of block b is column g * blocks + b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .grid_books import Book, Floats

States = npt.NDArray[np.uint16]
_Number = TypeVar("_Number", np.float32, np.uint8)
_Index = TypeVar("_Index", np.intp, np.int32)

# Adding 3 * 2**23 to v rounds v / 2 to the nearest integer, ties to even, and leaves it in the low mantissa bits.
_ROUND_HALF = np.float32(25165824.0)
_MANTISSA = np.uint32(0x007FFFFF)
_ZERO = 0x00400000

_WRAPS_FROM = np.float32(1 << 22)

# Bit of a state that says: a weight lies on the border between two levels, within rounding.
BORDER = 1 << 13
_BORDER_FROM = np.float32(1 - 5e-5)

SMALL, LARGE = np.float32(1e-34), np.float32(1e34)
"""Outside of these bounds of a scale, or of a sum w x^2, float32 underflows or overflows somewhere."""


def group_wise(columns: npt.NDArray[_Number], group: int) -> npt.NDArray[_Number]:
    """Columns (weights of a block, blocks) as (group, groups), group g of block b in column g * blocks + b."""
    blocks = columns.shape[1]
    in_groups: npt.NDArray[_Number] = columns.reshape(-1, group, blocks).transpose(1, 0, 2).reshape(group, -1)
    return in_groups


def states(book: Book, x: Floats, inverse: Floats) -> States:
    """State of each group at the scale 1 / inverse, with `BORDER`.

    Args:
        book: the code book.
        x: group-wise weights (group, groups).
        inverse: the inverse scales, (groups,).

    Returns:
        uint16 (groups,).
    """
    value = x * inverse
    value -= np.float32(1)
    shifted = value + _ROUND_HALF
    nearest = shifted - _ROUND_HALF
    value -= nearest
    border = ~(np.maximum.reduce(np.abs(value, out=value), axis=0) < _BORDER_FROM)
    # Far from zero the mantissa wraps, and the state is not the nearest one.
    border |= ~(np.maximum.reduce(np.abs(nearest, out=nearest), axis=0) < _WRAPS_FROM)
    bits = shifted.view(np.uint32)
    bits &= _MANTISSA
    np.maximum(bits, np.uint32(_ZERO), out=bits)
    np.minimum(bits, np.uint32(_ZERO + book.levels - 1), out=bits)
    bits -= np.uint32(_ZERO)
    state: States = bits[-1].astype(np.uint16)
    for level in bits[-2::-1]:
        state *= np.uint16(book.levels)
        state += level.astype(np.uint16)
    state[border] |= np.uint16(BORDER)
    return state


@dataclass(frozen=True)
class _Ladder:
    """States of single weights on a whole ladder of scales, looked up by the weight's ratio to the block's `top`.

    Attributes:
        bins: ratio times this is the number of the bin.
        words: level at each step, 16 bits a step, 4 steps a word: uint64 (bins, words).
        unclear: bit t tells whether the level at step t changes, or borders on a change, in the bin: uint32 (bins,).
    """

    bins: np.float32
    words: npt.NDArray[np.uint64]
    unclear: npt.NDArray[np.uint32]


_BINS = 1 << 14
_FAR_OUT = np.float32(1 << 16)


@cache
def _ladder(levels: int, inverse: tuple[float, ...]) -> _Ladder:
    """The table for inverse scales `inverse` / top, ascending. Its last steps repeat the last one to fill a word."""
    steps = np.array(inverse + inverse[-1:] * (-len(inverse) % 4))
    width = 2 * (levels - 1) / steps[0] * (1 + 1e-3) / (_BINS - 2)
    edge = np.arange(_BINS)[:, None] * width
    value = edge * steps
    margin = 0.1 * width * steps + 1e-4
    low, level, high = (
        np.clip(np.floor(edges / 2), 0, levels - 1).astype(np.uint16)
        for edges in (value - margin, value + width / 2 * steps, value + width * steps + margin)
    )
    bit = np.left_shift(np.uint32(1), np.arange(len(steps), dtype=np.uint32))
    return _Ladder(np.float32(1 / width), level.view(np.uint64), ((low != high) * bit).sum(axis=1, dtype=np.uint32))


def ladder_states(book: Book, x: Floats, ladder: Floats, top: Floats) -> States:
    """State of each group at the inverse scales ladder / top.

    Args:
        book: the code book.
        x: group-wise weights (group, groups).
        ladder: (steps,), ascending.
        top: positive, (blocks,).

    Returns:
        uint16 (groups, steps).
    """
    group, groups = x.shape
    table = _ladder(book.levels, tuple(ladder.tolist()))
    columns = x.reshape(group, -1, len(top))
    words = np.zeros((groups, table.words.shape[1]), np.uint64)
    peak = np.maximum.reduce(np.abs(columns), axis=(0, 1))
    extreme = (top < SMALL) | (top > LARGE) | (peak > top * _FAR_OUT)
    unclear = np.tile(np.where(extreme, np.uint32(0xFFFFFFFF), np.uint32(0)), columns.shape[1])
    to_bin = table.bins / top
    for values in columns[::-1]:
        bins = (values * to_bin).reshape(-1)
        np.maximum(bins, np.float32(0), out=bins)
        np.minimum(bins, np.float32(_BINS - 1), out=bins)
        index = bins.astype(np.int32).astype(np.intp)
        words *= np.uint64(book.levels)
        words += table.words.take(index, axis=0, mode="clip")
        unclear |= table.unclear.take(index, mode="clip")
    state = np.ascontiguousarray(words.view(np.uint16)[:, : len(ladder)])
    again = np.flatnonzero(unclear)
    bits = np.unpackbits(unclear[again].astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    which, step = np.nonzero(bits[:, : state.shape[1]].view(bool))
    which = again[which]
    state[which, step] = states(book, x.take(which, axis=1), ladder[step] / top[remainder(which, len(top))])
    return state


def remainder(values: npt.NDArray[_Index], divisor: _Index | int) -> npt.NDArray[_Index]:
    """values % divisor, faster: numpy divides by one number with multiplications, but not for remainders."""
    return values - values // divisor * divisor
