"""ggml tensors seen from a callback inside llama.cpp: names, and their numbers as numpy arrays. Child process only."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from .binding import libggml
from .engine import Refused

F32 = 0


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h. `check_layout` proves that it is the library's."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
TensorPointer = ctypes.POINTER(Tensor)


class InitParams(ctypes.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


libggml.ggml_init.restype = ctypes.c_void_p
libggml.ggml_init.argtypes = [InitParams]
libggml.ggml_free.argtypes = [ctypes.c_void_p]
libggml.ggml_new_tensor_2d.restype = TensorPointer
libggml.ggml_new_tensor_2d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
for _name in ("ggml_mul_mat", "ggml_mul_mat_id"):
    getattr(libggml, _name).restype = TensorPointer
libggml.ggml_mul_mat.argtypes = [ctypes.c_void_p, TensorPointer, TensorPointer]
libggml.ggml_set_name.argtypes = [TensorPointer, ctypes.c_char_p]
libggml.ggml_set_name.restype = TensorPointer
libggml.ggml_op_name.restype = ctypes.c_char_p
libggml.ggml_op_name.argtypes = [ctypes.c_int]
libggml.ggml_tensor_overhead.restype = ctypes.c_size_t
libggml.ggml_backend_buffer_is_host.restype = ctypes.c_bool
libggml.ggml_backend_buffer_is_host.argtypes = [ctypes.c_void_p]
libggml.ggml_backend_tensor_get.argtypes = [TensorPointer, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
libggml.ggml_nbytes.restype = ctypes.c_size_t
libggml.ggml_nbytes.argtypes = [TensorPointer]


def operation_number(name: str) -> int:
    """The number of an operation ("MUL_MAT"), which changes between versions of ggml."""
    for number in range(512):
        if libggml.ggml_op_name(number) == name.encode():
            return number
    raise Refused(f"this llama.cpp has no operation {name}")


def check_layout() -> None:
    """`Refused` if this library's tensors are laid out otherwise than `Tensor`."""
    context = libggml.ggml_init(InitParams(1 << 16, None, False))
    try:
        weight = libggml.ggml_set_name(libggml.ggml_new_tensor_2d(context, F32, 32, 3), b"weight")
        rows = libggml.ggml_new_tensor_2d(context, F32, 32, 5)
        product = libggml.ggml_mul_mat(context, weight, rows).contents
        fits = (
            list(weight.contents.ne) == [32, 3, 1, 1]
            and list(rows.contents.nb) == [4, 128, 640, 640]
            and product.op == operation_number("MUL_MAT")
            and list(product.ne) == [3, 5, 1, 1]
            and ctypes.addressof(product.src[0].contents) == ctypes.addressof(weight.contents)
            and ctypes.addressof(product.src[1].contents) == ctypes.addressof(rows.contents)
            and not product.src[2]
            and product.src[0].contents.name == b"weight"
            and rows.contents.data
            and ctypes.sizeof(Tensor) <= libggml.ggml_tensor_overhead()
        )
    finally:
        libggml.ggml_free(context)
    if not fits:
        raise Refused("this version of llama-cpp-python lays out its tensors in a new way; install the version we name")


def weight_name(tensor: Tensor) -> str:
    """The name without the marks that the scheduler adds to copies: CUDA0#blk.0.attn_k.weight#0."""
    parts = bytes(tensor.name).decode("utf-8", "surrogateescape").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def is_on_host(tensor: Tensor) -> bool:
    """True if `data` is an address of ours."""
    buffer = tensor.buffer or (tensor.view_src.contents.buffer if tensor.view_src else None)
    return not buffer or bool(libggml.ggml_backend_buffer_is_host(buffer))


def numbers(tensor: Tensor, dtype: Any) -> npt.NDArray[Any]:
    """All elements, shape as ne reversed, strides as nb: a view of the tensor's memory or of a copy of it."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    n_bytes = int(libggml.ggml_nbytes(ctypes.byref(tensor)))
    if is_on_host(tensor):
        memory = (ctypes.c_uint8 * n_bytes).from_address(tensor.data)
    else:
        memory = (ctypes.c_uint8 * n_bytes)()
        libggml.ggml_backend_tensor_get(ctypes.byref(tensor), memory, 0, n_bytes)
    found: npt.NDArray[Any] = np.ndarray(shape, dtype, memoryview(memory), 0, strides)
    found.flags.writeable = False
    return found
