"""The named levels: every name that llama-quantize lists, with the type that most tensors get."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import BadArgument
from ..model.wording import shown


@dataclass(frozen=True)
class Level:
    """One level. `file_type` is llama.cpp's number of the mix, `type` the type of a tensor without a rule of its own.

    `needs_imatrix` is true where ordinary models cannot be quantized to the level without an importance matrix.
    """

    name: str
    file_type: int
    type: str
    needs_imatrix: bool = False

    @property
    def copies(self) -> bool:
        """True for COPY, which changes no tensor."""
        return self.name == "COPY"


def _table() -> Mapping[str, Level]:
    levels = [
        Level("F32", 0, "F32"),
        Level("F16", 1, "F16"),
        Level("BF16", 32, "BF16"),
        Level("Q8_0", 7, "Q8_0"),
        Level("Q6_K", 18, "Q6_K"),
        Level("Q5_K_M", 17, "Q5_K"),
        Level("Q5_K_S", 16, "Q5_K"),
        Level("Q5_1", 9, "Q5_1"),
        Level("Q5_0", 8, "Q5_0"),
        Level("Q4_K_M", 15, "Q4_K"),
        Level("Q4_K_S", 14, "Q4_K"),
        Level("Q4_1", 3, "Q4_1"),
        Level("Q4_0", 2, "Q4_0"),
        Level("IQ4_NL", 25, "IQ4_NL"),
        Level("IQ4_XS", 30, "IQ4_XS"),
        Level("MXFP4_MOE", 38, "MXFP4"),
        Level("Q3_K_L", 13, "Q3_K"),
        Level("Q3_K_M", 12, "Q3_K"),
        Level("Q3_K_S", 11, "Q3_K"),
        Level("IQ3_M", 27, "IQ3_S"),
        Level("IQ3_S", 26, "IQ3_S"),
        Level("IQ3_XS", 22, "IQ3_S", needs_imatrix=True),
        Level("IQ3_XXS", 23, "IQ3_XXS", needs_imatrix=True),
        Level("Q2_K", 10, "Q2_K"),
        Level("Q2_K_S", 21, "Q2_K", needs_imatrix=True),
        Level("IQ2_M", 29, "IQ2_S", needs_imatrix=True),
        Level("IQ2_S", 28, "IQ2_XS", needs_imatrix=True),
        Level("IQ2_XS", 20, "IQ2_XS", needs_imatrix=True),
        Level("IQ2_XXS", 19, "IQ2_XXS", needs_imatrix=True),
        Level("Q2_0", 41, "Q2_0"),
        Level("TQ2_0", 37, "TQ2_0"),
        Level("IQ1_M", 31, "IQ1_M", needs_imatrix=True),
        Level("TQ1_0", 36, "TQ1_0"),
        Level("IQ1_S", 24, "IQ1_S", needs_imatrix=True),
        Level("Q1_0", 40, "Q1_0"),
        Level("COPY", 0, "F32"),
    ]
    return MappingProxyType({level.name: level for level in levels})


LEVELS = _table()
"""Levels by canonical name, from many bits to few."""

ALIASES: Mapping[str, str] = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"})


def find_level(name: str) -> Level:
    """The level called `name`, in any case, aliases too; BadArgument with the nearest names for one that is none."""
    wanted = name.strip().upper()
    wanted = ALIASES.get(wanted, wanted)
    if wanted in LEVELS:
        return LEVELS[wanted]
    near = difflib.get_close_matches(wanted, [*LEVELS, *ALIASES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the levels are {', '.join(LEVELS)}."
    raise BadArgument(f"There is no level '{shown(name)}'; {hint}")
