"""The grid types, IQ1 to IQ3: weights in small groups, each group one point of a code book.

Importing this is cheap; code books and neighbour lists are made when a type is first used, in less than half a second.
"""

from __future__ import annotations

from .grid_iq1 import IQ1M, IQ1S
from .grid_iq2 import IQ2S, IQ2XS, IQ2XXS
from .grid_iq3 import IQ3S, IQ3XXS
from .registry import Codec

CODECS: dict[str, Codec] = {
    "IQ3_S": IQ3S(),
    "IQ3_XXS": IQ3XXS(),
    "IQ2_S": IQ2S(),
    "IQ2_XS": IQ2XS(),
    "IQ2_XXS": IQ2XXS(),
    "IQ1_S": IQ1S(),
    "IQ1_M": IQ1M(),
}
