"""Reading tokenizer.model: a small strict reader of the one protobuf message that SentencePiece writes.

ModelProto: 1 pieces (1 text, 2 score, 3 kind), 2 trainer (3 kind of model), 3 normalizer (3 add_dummy_prefix).
Everything else is skipped. The numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotFound, ValidationFailed
from ..model.wording import shown

MAX_BYTES = 64 << 20
MAX_PIECES = 1 << 20

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces; GGUF's token types have the same numbers."""

_UNIGRAM, _BPE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """One token: its text (spaces as U+2581), its score and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """A vocabulary. `space_prefix`: a text gets a space in front."""

    pieces: tuple[Piece, ...]
    space_prefix: bool


class _Damaged(Exception):
    """Not the message that was expected."""


def is_sentencepiece(path: Path) -> bool:
    """True if a file of this name is SentencePiece's; other tokenizers use the name too."""
    try:
        read_sentencepiece(path)
    except (ValidationFailed, ModelNotFound):
        return False
    return True


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The vocabulary in a tokenizer.model; ModelNotFound or ValidationFailed."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValidationFailed(f"{shown(path)} is too large to be a tokenizer.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"{shown(path)} cannot be read: {error.strerror}.") from error
    pieces: list[Piece] = []
    kind, space_prefix = _UNIGRAM, True
    try:
        for number, wire, value in _fields(memoryview(content)):
            if number == 1 and wire == _BYTES and isinstance(value, memoryview):
                pieces.append(_piece(value))
            elif number == 2 and isinstance(value, memoryview):
                kind = _last(value, 3, kind)
            elif number == 3 and isinstance(value, memoryview):
                space_prefix = bool(_last(value, 3, 1))
            if len(pieces) > MAX_PIECES:
                raise _Damaged
        if not pieces:
            raise _Damaged
    except (_Damaged, UnicodeDecodeError) as error:
        raise ValidationFailed(f"{shown(path)} is damaged, or not a SentencePiece tokenizer.") from error
    if kind != _BPE:
        raise ValidationFailed(
            f"{shown(path)} is a SentencePiece tokenizer of another kind than BPE, with which llama.cpp would cut"
            " text wrongly."
        )
    return SentencePieceModel(tuple(pieces), space_prefix)


def _piece(message: memoryview) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, wire, value in _fields(message):
        if number == 1 and isinstance(value, memoryview):
            text = bytes(value).decode("utf-8")
        elif number == 2 and wire == _FIXED32 and isinstance(value, int):
            score = struct.unpack("<f", value.to_bytes(4, "little"))[0]
        elif number == 3 and wire == _VARINT and isinstance(value, int):
            kind = value
    if not NORMAL <= kind <= BYTE:
        raise _Damaged
    return Piece(text, score, kind)


def _last(message: memoryview, wanted: int, default: int) -> int:
    """The last value of a number field of a message."""
    found = default
    for number, _, value in _fields(message):
        if number == wanted and isinstance(value, int):
            found = value
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field; _Damaged for what is none."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if length < 0 or position + length > len(message) or not number:
            raise _Damaged
        cut = message[position : position + length]
        position += length
        yield number, wire, cut if wire == _BYTES else int.from_bytes(cut, "little")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Damaged
