"""The k-quants: super-blocks of 256 weights, whose sub-blocks have small integer scales of one float16 scale.

`k_affine` holds the types with a scale and a minimum, `k_symmetric` those with a scale alone; both stand on the
searches in `fit_affine` and `fit_scale`.
"""

from __future__ import annotations

from .k_affine import Q2K, Q45K
from .k_symmetric import Q3K, Q6K
from .registry import Codec

CODECS: dict[str, Codec] = {
    "Q2_K": Q2K(),
    "Q3_K": Q3K(),
    "Q4_K": Q45K("Q4_K", bits=4, first=-1.0, steps=20),
    "Q5_K": Q45K("Q5_K", bits=5, first=-0.5, steps=15),
    "Q6_K": Q6K(),
}
