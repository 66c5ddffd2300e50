"""Frozen data classes from TOML or JSON tables and back: strict about types, never raising for their content."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .text import printable

T = TypeVar("T")

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


class Wrong(ValueError):
    """A value that its field cannot take; the text completes "must be ..."."""


def from_table(kind: type[T], table: Mapping[str, Any], problems: list[str], where: str = "") -> T:
    """An instance of the data class `kind`; what does not fit falls back to the field's default.

    Each such value, and each key that looks like a known one mistyped, adds one sentence to `problems`, with `where`
    (as `chat.`) before the key. Other unknown keys are passed over. A field's metadata may hold `least` and
    `most`, and `stored` False keeps it out of tables.
    Raises Wrong only if a field without default is missing or wrong.
    """
    fields, hints = _fields(cast(Hashable, kind))
    values: dict[str, Any] = {}
    for field in fields:
        key = where + field.name
        if field.name not in table:
            if not (_has_default(field) or _optional(hints[field.name])):
                raise Wrong(f"a table with {field.name}")
            values[field.name] = _default(field)
            continue
        try:
            values[field.name] = _within(field, _value(hints[field.name], table[field.name], problems, key))
        except Wrong as wrong:
            problems.append(f"{key} must be {wrong}, not {_shown(table[field.name])}")
            if not (_has_default(field) or _optional(hints[field.name])):
                raise Wrong(f"a table with a good {field.name}") from None
            values[field.name] = _default(field)
    _hint_typos(table, [field.name for field in fields], problems, where)
    return kind(**values)


def to_table(value: Any) -> dict[str, Any]:
    """The data class as plain dictionaries and lists; fields that are None, or not `stored`, are left out."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in _fields(cast(Hashable, type(value)))[0]
        if getattr(value, field.name) is not None
    }


@lru_cache(maxsize=64)
def _fields(kind: Any) -> tuple[tuple[dataclasses.Field[Any], ...], dict[str, Any]]:
    """The fields that tables hold, and their types; evaluating the annotations is slow, so once is enough."""
    stored = tuple(field for field in dataclasses.fields(kind) if field.metadata.get("stored", True))
    return stored, get_type_hints(kind)


def _value(kind: Any, value: Any, problems: list[str], where: str) -> Any:
    """`value` as the type `kind`, or Wrong."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of([argument for argument in arguments if argument is not type(None)], value, problems, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise Wrong("a list in brackets")
        return tuple(_value(arguments[0], item, problems, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise Wrong("a table")
        return _entries(arguments[1], value, problems, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise Wrong("a table")
        return from_table(cast("type[Any]", kind), value, problems, f"{where}.")
    return _scalar(kind, value)


def _entries(kind: Any, table: Mapping[str, Any], problems: list[str], where: str) -> dict[str, Any]:
    """A table with keys of the user's own: the wrong entries are left out, the others stay."""
    entries = {}
    for key, item in table.items():
        try:
            entries[key] = _value(kind, item, problems, f"{where}.{key}")
        except Wrong as wrong:
            problems.append(f"{where}.{printable(key)[:60]} must be {wrong}, not {_shown(item)}")
    return entries


def _one_of(kinds: list[Any], value: Any, problems: list[str], where: str) -> Any:
    """The first of the types that takes the value; a bool is no number, so the order does not matter."""
    kind, *others = kinds
    try:
        return _value(kind, value, problems, where)
    except Wrong as wrong:
        if not others:
            raise
        try:
            return _one_of(others, value, problems, where)
        except Wrong as last:
            raise Wrong(f"{wrong} or {last}") from None


def _scalar(kind: Any, value: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise Wrong(_WORDS[kind])
    return value


def _within(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value, if it lies between the field's `least` and `most`."""
    least, most = field.metadata.get("least"), field.metadata.get("most")
    if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
        raise Wrong(f"from {least} to {most}" if most is not None else f"at least {least}")
    return value


def _hint_typos(table: Mapping[str, Any], known: list[str], problems: list[str], where: str) -> None:
    missing = [name for name in known if name not in table]
    for key in table:
        close = [] if key in known else difflib.get_close_matches(str(key), missing, 1, cutoff=0.75)
        if close:
            problems.append(f"{where}{printable(str(key))[:60]} is not known; did you mean {where}{close[0]}?")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _shown(value: Any) -> str:
    """A value as a message can hold it: short and harmless."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    text = printable(text[:100])
    return text if len(text) <= 60 else text[:57] + "..."
