"""Names from files, made fit for a sentence."""

from __future__ import annotations

from pathlib import Path

from ..text import printable

_LONGEST = 100


def shown(name: str | Path) -> str:
    """A name from a file or of one: harmless for a terminal, on one line, shortened in the middle if very long."""
    text = str(name)
    if isinstance(name, str) and len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
    return printable(text).replace("\n", "\ufffd").replace("\t", "\ufffd")
