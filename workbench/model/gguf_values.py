"""Metadata values of GGUF: their bytes and the Python objects that they stand for."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from .gguf_format import ARRAY, KINDS, SCALARS, STRING
from .model import Value


def decode(kind: int, raw: bytes) -> Any:
    """int, float, bool, str, or a list of these, from bytes that the reader has checked (`Value.raw`)."""
    if kind == STRING:
        return raw[8:].decode("utf-8", "surrogateescape")
    if kind != ARRAY:
        return struct.unpack(SCALARS[kind], raw)[0]
    element, count = struct.unpack_from("<IQ", raw)
    if element == STRING:
        return _strings(raw, count)
    return list(struct.unpack_from(f"<{count}{SCALARS[element][1:]}", raw, 12))


def _strings(raw: bytes, count: int) -> list[str]:
    length = struct.Struct("<Q").unpack_from
    position, strings = 12, []
    for _ in range(count):
        start = position + 8
        position = start + length(raw, position)[0]
        strings.append(raw[start:position].decode("utf-8", "surrogateescape"))
    return strings


def value(kind: str, item: Any) -> Value:
    """One scalar or string as GGUF holds it; `kind` is a key of KINDS: value("uint32", 5), value("string", "x")."""
    return Value(KINDS[kind], _encode(KINDS[kind], item))


def array(kind: str, items: Sequence[Any]) -> Value:
    """A list of scalars or strings of one kind as GGUF holds it: array("string", ["a", "b"])."""
    element = KINDS[kind]
    content = b"".join(_encode(element, item) for item in items)
    return Value(ARRAY, struct.pack("<IQ", element, len(items)) + content)


def _encode(kind: int, item: Any) -> bytes:
    if kind == STRING:
        text = str(item).encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(text)) + text
    return struct.pack(SCALARS[kind], item)
