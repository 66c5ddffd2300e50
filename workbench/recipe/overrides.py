"""Types that the user gives to tensors by regular expressions, as ECMAScript's (llama.cpp searches with std::regex)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...kernels import TYPES
from ..errors import BadArgument
from ..model.wording import shown

# What Python reads differently from ECMAScript, or only one of them knows: in the whole expression, and outside of
# escapes and sets of characters.
_NOT_COMMON = re.compile(r"\[\[:|\\[AZz]")
_NOT_COMMON_OUTSIDE = re.compile(r"\(\?(?![:=!])|[*+?}]\+")
_ESCAPES_AND_SETS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]")


@dataclass(frozen=True)
class Override:
    """Tensors whose names `pattern` finds get `type`."""

    pattern: re.Pattern[str]
    type: str


def find_type(name: str) -> str:
    """A tensor type by its name in any case; BadArgument if there is none."""
    wanted = name.strip().upper()
    if wanted not in TYPES:
        raise BadArgument(f"There is no tensor type '{shown(name)}'; the types are {', '.join(TYPES)}.")
    return wanted


def compile_overrides(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> tuple[Override, ...]:
    """Compile (expression, type) pairs and hold them against the names of the tensors that may be quantized.

    Raises:
        BadArgument: an expression that does not compile, that Python and llama.cpp read differently, or that finds
            no tensor; an unknown type.
    """
    return tuple(Override(_compiled(expression, names), find_type(kind)) for expression, kind in pairs)


def _compiled(expression: str, names: Sequence[str]) -> re.Pattern[str]:
    named = f"The expression '{shown(expression)}'"
    if _NOT_COMMON.search(expression) or _NOT_COMMON_OUTSIDE.search(_ESCAPES_AND_SETS.sub("x", expression)):
        raise BadArgument(f"{named} uses syntax that is not common to Python and ECMAScript.")
    try:
        pattern = re.compile(expression, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadArgument(f"{named} cannot be understood: {error}.") from None
    if not any(pattern.search(name) for name in names):
        raise BadArgument(f"{named} finds none of the tensors that can be quantized.")
    return pattern
