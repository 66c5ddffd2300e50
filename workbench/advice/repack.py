"""Which weights llama.cpp lays out anew for the processor while it loads them.

A mapped file then stays in memory beside the new layout: such models are better read than mapped. Follows
`ggml_repack_get_optimal_repack_type` of llama.cpp 0.3.36; features are named as it names them.
"""

from __future__ import annotations

from collections.abc import Collection

from ..model import Model

_X86 = {"AVX2": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"), "AVX512": ("Q2_K",)}
_ARM = {
    "DOTPROD": ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"),
    "MATMUL_INT8": ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
}
WORTH_READING = 0.1
"""Share of a file from which on reading it takes clearly less memory than mapping it."""


def repacked_bytes(model: Model, features: Collection[str]) -> int:
    """Bytes of the matrices that are laid out anew on a processor with these features; 0 if that is switched off."""
    if "REPACK" not in features:
        return 0
    types = {kind for feature, kinds in {**_X86, **_ARM}.items() if feature in features for kind in kinds}
    return sum(t.n_bytes for t in model.tensors if t.type in types and t.name.startswith(("blk.", "output.")))


def better_read(model: Model, features: Collection[str], free: int) -> bool:
    """True if a model had better be read than mapped: much of it is laid out anew, and it fits easily."""
    return model.n_bytes < free // 2 and repacked_bytes(model, features) > WORTH_READING * model.n_bytes
