"""The language between parent and child: one JSON object a line, of bounded length, both ways. No pickles.

Requests carry `id` and `do`; replies the same `id` and `event`. Every request ends with exactly one `done` or `failed`.
`failed` carries the `reason` as a clause, and its `kind` (see `FailureKind`).
Lines without an `id` concern the child as a whole: `hello` once, `alive` while a long call makes progress.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any, Literal

LONGEST_LINE = 32 << 20

Line = dict[str, Any]

# engine: llama.cpp's or Python's own words; the log may tell more. The others say all there is to say: told, in our
# words; argument, what was asked for makes no sense; space, a disk is full.
FailureKind = Literal["engine", "told", "argument", "space"]


class BadLine(Exception):
    """A line that is too long, not JSON, or not an object."""


def write(stream: IO[bytes], line: Line) -> None:
    """Send one line at once."""
    encoded = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    if len(encoded) > LONGEST_LINE:
        raise BadLine(f"a message of {len(encoded)} bytes is longer than {LONGEST_LINE}")
    stream.write(encoded)
    stream.flush()


def read(stream: IO[bytes]) -> Line | None:
    """The next line, or None at the end of the stream; half a line at the end counts as the end."""
    raw = stream.readline(LONGEST_LINE + 1)
    if len(raw) > LONGEST_LINE:
        raise BadLine("a line of endless length")
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadLine(str(error)) from error
    if not isinstance(line, dict):
        raise BadLine("not an object")
    return line


class Reply:
    """Answers to one request; `Service` functions get it as their way to speak."""

    def __init__(self, send: Callable[[Line], None], number: int) -> None:
        self._send = send
        self._number = number

    def __call__(self, event: str, **content: Any) -> None:
        """Send an event of this request."""
        self._send({"id": self._number, "event": event, **content})
