"""libggml inside the installed llama-cpp-python, as the oracle of the kernel tests."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from quantdeck.kernels import TYPES


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """libggml-base, without importing llama_cpp (which would start its back ends and log)."""
    spec = find_spec("llama_cpp")
    assert spec and spec.origin, "llama-cpp-python is not installed"
    folder = Path(spec.origin).parent / "lib"
    path = next(p for p in sorted(folder.iterdir()) if p.name.startswith(("libggml-base.", "ggml-base.")))
    lib = ctypes.CDLL(str(path))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return lib


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def quantize(rows: np.ndarray, name: str, imatrix: np.ndarray | None = None) -> np.ndarray:
    """What `ggml_quantize_chunk` writes: float32 (n, k) -> uint8 (n, row_bytes)."""
    n, k = rows.shape
    packed = np.zeros((n, TYPES[name].row_bytes(k)), np.uint8)
    weights = imatrix.ctypes.data if imatrix is not None else None
    library().ggml_quantize_init(TYPES[name].ggml_id)
    done = library().ggml_quantize_chunk(TYPES[name].ggml_id, rows.ctypes.data, packed.ctypes.data, 0, n, k, weights)
    assert done == packed.nbytes
    return packed


def dequantize(packed: np.ndarray, name: str, k: int) -> np.ndarray:
    """What the type's `to_float` gives: uint8 (n, row_bytes) -> float32 (n, k)."""
    packed = np.ascontiguousarray(packed)
    rows = np.zeros((packed.shape[0], k), np.float32)
    traits = library().ggml_get_type_traits(TYPES[name].ggml_id).contents
    traits.to_float(packed.ctypes.data, rows.ctypes.data, rows.size)
    return rows
