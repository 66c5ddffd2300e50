"""Service `kernels`: how long the processor takes for what a single token needs. Child process only.

The same functions of ggml that a model's graph calls, on weights of random bytes: kernels take as long for any numbers.
Everything is timed several times, in turns, and the lower quartile counts: other programs only ever add to a time.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...kernels import TYPES
from .binding import libggml
from .engine import Engine, Refused
from .tensors import F32, InitParams, TensorPointer
from .wire import Reply

_CPU = 0
_F16 = 1
_ROW = 2048
_SHORT_ROW = 256
_STREAMED = "Q8_0"
_LARGE = 2048, 4096  # row length and rows of matrices as models of a billion weights have them
_LITTLE = 768, 768  # of a hundred million
_MATRIX = 1 << 20
_SMALL = 2
_HEADS, _CELLS = 8, 512
_FAR_HEADS, _FAR_CELLS, _FAR_LAYERS = 32, 1024, 4  # rows of 4 KiB, and together more than a core's own cache
_HEAD_SIZES = 32, 48, 64, 80, 96, 112, 128, 192, 256  # what is left over of a vector register is computed one by one
_NODES = 256
_NARROW, _WIDE = 64, 2048
_MOST_MEMORY = 192 << 20
_LEAST_MEMORY = 48 << 20
_LARGE_SHARE = 2 / 3
_ROUNDS = 8
_RUNS = 3

_Build = Callable[[int], Sequence[Any]]
_V = ctypes.c_void_p


def kernels(engine: Engine, reply: Reply, threads: Sequence[int], available: int) -> dict[str, Any]:
    """Time the kernels with each number of `threads`; of the `available` bytes at most an eighth is streamed.

    Ends with the fields of `hardware.Kernels`.
    """
    processor = _Processor()
    short = processor.weights(_STREAMED, _SHORT_ROW, _SMALL)
    small = {kind: processor.weights(kind, _ROW, _SMALL) for kind in TYPES}
    memory = max(_LEAST_MEMORY, min(_MOST_MEMORY, available // 8))
    large = processor.weights(_STREAMED, _LARGE[0], int(_LARGE_SHARE * memory) // _bytes(_LARGE), _LARGE[1])
    little = processor.weights(_STREAMED, _LITTLE[0], int((1 - _LARGE_SHARE) * memory) // _bytes(_LITTLE), _LITTLE[1])
    one = {f"small {kind}": processor.products(found) for kind, found in small.items()}
    one |= {f"head {size}": processor.attention(size) for size in _HEAD_SIZES}
    one["far"] = processor.far_attention()
    one["short"] = processor.products(short)
    parts = [2**i for i in range(2, len(little).bit_length()) if 2**i < len(little)]
    one |= {f"part {part}": processor.products(little[:part]) for part in parts}
    one["wide nodes"] = processor.nodes(_WIDE)
    many = {"nodes": processor.nodes(_NARROW), "large": processor.products(large)}
    many["little"] = processor.products(little)
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(_ROUNDS):
        for name, graph in {**one, **many}.items():
            for n in threads if name in many else (1,):
                times.setdefault((name, n), []).append(processor.seconds(graph, n))
            engine.life.check()
    quiet = {key: sorted(found)[_ROUNDS // 4] for key, found in times.items()}
    return _figures(quiet, threads, parts, len(large), len(little))


def _figures(
    seconds: dict[tuple[str, int], float], threads: Sequence[int], parts: Sequence[int], n_large: int, n_little: int
) -> dict[str, Any]:
    """Nanoseconds for one of each, from the seconds that the graphs took.

    A row takes `per_row` and `per_byte` for each of its bytes: rows of two lengths tell both. What reading from memory
    adds, adds as the squares do, since computing goes on meanwhile (`advice.speed`); what little matrices take beyond
    that is the stall at the end of each, where threads wait for the last one and memory for all.
    """
    base = {"small": _SMALL * _rows(_STREAMED, _ROW), "short": _SMALL * _rows(_STREAMED, _SHORT_ROW)}
    long, short = seconds[f"small {_STREAMED}", 1] / base["small"], seconds["short", 1] / base["short"]
    ratio = _ROW / _SHORT_ROW
    per_row = max(0.0, (ratio * short - long) / (ratio - 1))
    per_byte = {
        kind: max(0.0, seconds[f"small {kind}", 1] / (_SMALL * _rows(kind, _ROW)) - per_row)
        / TYPES[kind].row_bytes(_ROW)
        for kind in TYPES
    }

    def computing(shape: tuple[int, int], n: int) -> float:
        return shape[1] * (per_row + TYPES[_STREAMED].row_bytes(shape[0]) * per_byte[_STREAMED]) / n

    def added(name: str, shape: tuple[int, int], count: int, n: int) -> float:
        return math.sqrt(max(0.0, (seconds[name, n] / count) ** 2 - computing(shape, n) ** 2)) / _bytes(shape)

    def stall(n: int) -> float:
        reading = math.hypot(computing(_LITTLE, n), _bytes(_LITTLE) * added("large", _LARGE, n_large, n))
        return max(0.0, seconds["little", n] / n_little - reading)

    slow = added("little", _LITTLE, n_little, 1)
    cached = [part for part in parts if added(f"part {part}", _LITTLE, part, 1) < slow / 2]
    near = seconds["head 64", 1] / (_HEADS * _CELLS * 2 * 64)
    far = seconds["far", 1] / (_FAR_HEADS * _FAR_CELLS * _FAR_LAYERS)
    wide = max(0.0, seconds["wide nodes", 1] - seconds["nodes", 1]) / _NODES / (_WIDE - _NARROW)
    return {
        "per_byte": {kind: _nanoseconds(seconds) for kind, seconds in per_byte.items()},
        "per_row": _nanoseconds(per_row),
        "per_head_element": {
            str(size): _nanoseconds(seconds[f"head {size}", 1] / (_HEADS * _CELLS * 2 * size)) for size in _HEAD_SIZES
        },
        "per_far_head": _nanoseconds(max(0.0, far - 128 * near)),
        "per_node_element": _nanoseconds(wide),
        "per_node": {str(n): _nanoseconds(seconds["nodes", n] / _NODES) for n in threads},
        "per_byte_from_memory": {str(n): _nanoseconds(added("large", _LARGE, n_large, n)) for n in threads},
        "per_matrix_from_memory": {str(n): _nanoseconds(stall(n)) for n in threads},
        "cache": max(cached, default=parts[0]) * _bytes(_LITTLE),
    }


def _nanoseconds(seconds: float) -> float:
    return round(1e9 * seconds, 5)


def _bytes(shape: tuple[int, int]) -> int:
    return shape[1] * TYPES[_STREAMED].row_bytes(shape[0])


def _rows(kind: str, k: int) -> int:
    """As many as 1 MiB holds; other layouts take rows by the dozen."""
    return _MATRIX // TYPES[kind].row_bytes(k) // 64 * 64


class _Processor:
    """ggml's processor device, and graphs on it. Nothing is freed: the process ends with its one request."""

    def __init__(self) -> None:
        _declare()
        device = libggml.ggml_backend_dev_by_type(_CPU)
        if not device:
            raise Refused("this llama.cpp has no processor back end")
        registry = libggml.ggml_backend_dev_backend_reg(device)
        self._backend = libggml.ggml_backend_dev_init(device, None)
        self._plain = libggml.ggml_backend_dev_buffer_type(device)
        set_threads = libggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        self._set_threads = ctypes.CFUNCTYPE(None, _V, ctypes.c_int)(set_threads)
        self._extra = None
        if extra := libggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts"):
            found = ctypes.CFUNCTYPE(ctypes.POINTER(_V), _V)(extra)(device)
            self._extra = found[0] if found else None
        self._noise = _like_weights(_bytes(_LARGE))

    def weights(self, kind: str, k: int, count: int, rows: int = 0) -> list[Any]:
        """`count` matrices with `rows` of `k`, by default 1 MiB each, laid out as llama.cpp lays out a model's."""
        rows = rows or _rows(kind, k)
        for place in (self._extra, self._plain):
            context = _context(count)
            found = [libggml.ggml_new_tensor_2d(context, TYPES[kind].ggml_id, k, rows) for _ in range(count)]
            if place is None or not libggml.ggml_backend_alloc_ctx_tensors_from_buft(context, place):
                continue
            # A place for other layouts leaves the types that it does not know without its mark.
            if place == self._plain or found[0].contents.extra:
                for tensor in found:
                    self._fill(tensor)
                return found
        raise Refused("there is not enough memory to measure how fast this machine computes")

    def products(self, matrices: Sequence[Any]) -> Any:
        """A graph that multiplies one input with all of them."""
        context = _context(len(matrices) + 1)
        vector = libggml.ggml_new_tensor_2d(context, F32, matrices[0].contents.ne[0], 1)
        return self._graph(context, [libggml.ggml_mul_mat(context, matrix, vector) for matrix in matrices])

    def attention(self, size: int) -> Any:
        """A graph in which one token looks back at all cells of a cache."""
        context = _context(4)
        query = libggml.ggml_new_tensor_3d(context, F32, size, 1, _HEADS)
        keys = libggml.ggml_new_tensor_3d(context, _F16, size, _CELLS, _HEADS)
        values = libggml.ggml_new_tensor_3d(context, _F16, size, _CELLS, _HEADS)
        return self._graph(context, [libggml.ggml_flash_attn_ext(context, query, keys, values, None, 0.125, 0.0, 0.0)])

    def far_attention(self) -> Any:
        """The same with a cache as it grows: all heads of a token lie together, and a head's next is a page away."""
        context = _context(8 * _FAR_LAYERS)
        size, near = (64, _FAR_HEADS, _FAR_CELLS), (0, 2, 1, 3)
        found, results = [], []
        for _ in range(_FAR_LAYERS):
            query = libggml.ggml_new_tensor_3d(context, F32, size[0], 1, _FAR_HEADS)
            pair = [libggml.ggml_new_tensor_3d(context, _F16, *size) for _ in range(2)]
            keys, values = (libggml.ggml_permute(context, tensor, *near) for tensor in pair)
            results.append(libggml.ggml_flash_attn_ext(context, query, keys, values, None, 0.125, 0.0, 0.0))
            found += pair
        graph = self._graph(context, results)
        for tensor in found:  # memory that nobody wrote to is one and the same page
            self._fill(tensor)
        return graph

    def nodes(self, width: int) -> Any:
        """A graph of many operations on `width` numbers, each of which waits for the one before."""
        context = _context(_NODES + 1)
        last = libggml.ggml_new_tensor_2d(context, F32, width, 1)
        for _ in range(_NODES):
            last = libggml.ggml_rms_norm(context, last, 1e-5)
        return self._graph(context, [last])

    def seconds(self, graph: Any, threads: int) -> float:
        """The median of some runs in a row, of which the first brings into the caches what fits there."""
        self._set_threads(self._backend, threads)
        found = []
        for _ in range(_RUNS):
            began = time.perf_counter()
            libggml.ggml_backend_graph_compute(self._backend, graph)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def _graph(self, context: Any, results: Sequence[Any]) -> Any:
        libggml.ggml_backend_alloc_ctx_tensors_from_buft(context, self._plain)
        graph = libggml.ggml_new_graph_custom(_context(0), 4 * _NODES, False)
        for result in results:
            libggml.ggml_build_forward_expand(graph, result)
        return graph

    def _fill(self, tensor: Any) -> None:
        n_bytes = libggml.ggml_nbytes(tensor)
        libggml.ggml_backend_tensor_set(tensor, self._noise.ctypes.data, 0, n_bytes)


def _like_weights(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Random bytes that read as 16-bit floats are small positive numbers, as scales are.

    With any numbers there, looking them up in ggml's table of all 16-bit floats would miss the cache.
    """
    noise = np.random.default_rng(0).integers(0, 256, n_bytes, np.uint8)
    noise[1::2] = 0x2C + noise[1::2] % 4
    return noise


def _context(tensors: int) -> Any:
    """Room for so many tensors and one graph, without their numbers."""
    return libggml.ggml_init(InitParams((tensors + 1) * 512 + (1 << 17), None, True))


def _declare() -> None:
    integer, real, size = ctypes.c_int, ctypes.c_float, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_backend_dev_by_type": (_V, [integer]),
        "ggml_backend_dev_backend_reg": (_V, [_V]),
        "ggml_backend_dev_init": (_V, [_V, ctypes.c_char_p]),
        "ggml_backend_dev_buffer_type": (_V, [_V]),
        "ggml_backend_reg_get_proc_address": (_V, [_V, ctypes.c_char_p]),
        "ggml_backend_alloc_ctx_tensors_from_buft": (_V, [_V, _V]),
        "ggml_backend_tensor_set": (None, [TensorPointer, _V, size, size]),
        "ggml_backend_graph_compute": (integer, [_V, _V]),
        "ggml_new_graph_custom": (_V, [_V, size, ctypes.c_bool]),
        "ggml_build_forward_expand": (None, [_V, TensorPointer]),
        "ggml_new_tensor_3d": (TensorPointer, [_V, integer, *[ctypes.c_int64] * 3]),
        "ggml_permute": (TensorPointer, [_V, TensorPointer, *[integer] * 4]),
        "ggml_rms_norm": (TensorPointer, [_V, TensorPointer, real]),
        "ggml_flash_attn_ext": (TensorPointer, [_V, *[TensorPointer] * 4, *[real] * 3]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(libggml, name)
        function.restype, function.argtypes = result, arguments
