"""Quantization arithmetic on numpy arrays: float rows in, packed bytes out, and back.

No files, no threads, no printing. Everything is byte-identical with libggml on stock x86-64 builds (compiled for the
SSE2 baseline, without FMA): the same order of float32 operations and sums, and the same quirks.

    TYPES["Q4_K"].row_bytes(4096)            bytes of one packed row
    quantize(rows, "Q4_K", imatrix=None)     float32 (n, k) -> uint8 (n, row_bytes)
    dequantize(packed, "Q4_K", k)            uint8 (n, row_bytes) -> float32 (n, k)

Each family of types is one module, which `registry` names and which holds its codecs in `CODECS`. Types with blocks are
`blocks.BlockCodec`s: the frame walks over the rows, the type packs and unpacks a batch of blocks. While they are packed
blocks stand as columns (`columns`); the searches for scales that several families share are in `fit_scale` (scale only)
and `fit_affine` (scale and minimum).
"""

from .registry import TYPES, KernelError, MissingImatrix, NotFinite, TensorType, dequantize, quantize

__all__ = ["TYPES", "KernelError", "MissingImatrix", "NotFinite", "TensorType", "dequantize", "quantize"]
