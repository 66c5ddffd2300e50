"""The publishers of ready-made quants that the guides name, as data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Provider:
    """A publisher: the key that leads there, its name on the Hub, the filter to use, and what it is good for.

    `gguf` are the names that it gives to GGUF files of OWNER/NAME, with {owner} and {name} to be filled in.
    """

    key: str
    author: str
    tag: str
    words: str
    gguf: tuple[str, ...] = ()


@cache
def providers() -> tuple[Provider, ...]:
    """All of them, the most useful first."""
    table = tomllib.loads(Path(__file__).with_name("providers.toml").read_text("utf-8"))
    return tuple(Provider(**{**each, "gguf": tuple(each.get("gguf", ()))}) for each in table["provider"])
