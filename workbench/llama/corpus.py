"""Texts to calibrate and to measure on: plain files, JSON lists, JSONL with a text field or chat messages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadArgument, ModelNotFound
from ..text import printable, size
from .contract import Message, Role

LARGEST_FILE = 1 << 30
_TEXT_FIELDS = ("text", "content", "prompt")
_CHAT_FIELDS = ("messages", "conversations", "conversation")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True)
class Document:
    """A piece of text, or a conversation that the model's own template turns into one."""

    text: str = ""
    messages: tuple[Message, ...] = ()


def read_corpus(path: Path) -> tuple[Document, ...]:
    """Read a text file (one document), `.json` (a list of texts, objects or conversations) or `.jsonl` (one a line).

    Raises:
        ModelNotFound: there is no such file, or it cannot be read.
        BadArgument: it holds no text, or something else than the formats above; the sentence names the place.
    """
    name = printable(path.name)
    text = _read(path, name)
    suffix = path.suffix.lower()
    if suffix == ".json":
        documents = _from_json(text, name)
    elif suffix in (".jsonl", ".ndjson"):
        documents = _from_lines(text, name)
    else:
        documents = (Document(text),)
    if not any(document.text.strip() or document.messages for document in documents):
        raise BadArgument(f"{name} holds no text.")
    return documents


def _read(path: Path, name: str) -> str:
    try:
        if not path.is_file():
            raise ModelNotFound(f"There is no text file {printable(str(path))}.")
        if path.stat().st_size > LARGEST_FILE:
            raise BadArgument(f"{name} is larger than {size(LARGEST_FILE)}; take a part of it.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadArgument(f"{name} is no UTF-8 text (byte {error.start}); convert it first.") from None
    except OSError as error:
        raise ModelNotFound(f"{name} cannot be read: {error.strerror}.") from error


def _from_json(text: str, name: str) -> tuple[Document, ...]:
    items = _parse(text, name)
    if not isinstance(items, list):
        raise BadArgument(f"{name} must hold a list of texts, of objects with a text field, or of conversations.")
    return tuple(_document(item, f"{name}, item {number}") for number, item in enumerate(items, 1))


def _from_lines(text: str, name: str) -> tuple[Document, ...]:
    numbered = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return tuple(_document(_parse(line, f"{name}, line {n}"), f"{name}, line {n}") for n, line in numbered)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"{place} is not JSON: {printable(str(error))[:120]}.") from None


def _document(item: Any, place: str) -> Document:
    if isinstance(item, str):
        return Document(item)
    if isinstance(item, list):
        return Document(messages=_messages(item, place))
    if isinstance(item, dict):
        for field in _CHAT_FIELDS:
            if isinstance(item.get(field), list):
                return Document(messages=_messages(item[field], place))
        for field in _TEXT_FIELDS:
            if isinstance(item.get(field), str):
                return Document(item[field])
    raise BadArgument(f"{place} is neither a text nor an object with one of {', '.join(_TEXT_FIELDS + _CHAT_FIELDS)}.")


def _messages(items: Iterable[Any], place: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for item in items:
        turn = item if isinstance(item, dict) else {}
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        content = turn.get("content", turn.get("value"))
        if role is None or not isinstance(content, str):
            raise BadArgument(f"{place} holds a turn without a known role or without text.")
        messages.append(Message(role=role, content=content))
    return tuple(messages)
