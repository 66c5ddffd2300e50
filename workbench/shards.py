"""How the files of a model that is split are named: as llama.cpp makes and expects them."""

from __future__ import annotations

import re
from pathlib import Path

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

MOST_SHARDS = 999
"""More are refused: every one is an open file in each of several processes, and 1,024 are allowed by default."""


def shard_path(folder: Path, stem: str, number: int, count: int) -> Path:
    """Where file `number` (from 1) of `count` lies."""
    return folder / f"{stem}-{number:05}-of-{count:05}.gguf"


def shard_paths(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` belongs to, as its name says; `path` alone for any other name."""
    match = SHARD_NAME.fullmatch(path.name)
    if not match or not 1 <= int(match["number"]) <= int(match["count"]) <= MOST_SHARDS:
        return (path,)
    count = int(match["count"])
    return tuple(shard_path(path.parent, match["stem"], number, count) for number in range(1, count + 1))
