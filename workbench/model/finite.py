"""Are all weights of a source numbers? Looked at before a job begins, at the speed of the disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import QuantdeckError, ValidationFailed
from .gguf import open_file, read_fully
from .model import Model, Tensor
from .wording import shown

PIECE_BYTES = 16 << 20
"""What a thread looks at in one go: between two pieces it may be stopped."""

BUFFER_BYTES = 1 << 20
"""Bytes of each thread's memory; they stay in the second-level cache between reading and looking."""

MAX_THREADS = 4

PROGRESS_SECONDS = 0.25

F16_END = 0x477FF000
"""Bits of 65520 in float32: from there on a magnitude becomes infinite in F16."""


@dataclass(frozen=True)
class _Words:
    """Floats as unsigned words: with the sign bit off, what is not finite is not below `infinity`."""

    word: npt.DTypeLike
    signed: npt.DTypeLike
    sign: int
    infinity: int


_WORDS: Mapping[str, _Words] = MappingProxyType(
    {
        "F16": _Words(np.uint16, np.int16, 0x8000, 0x7C00),
        "BF16": _Words(np.uint16, np.int16, 0x8000, 0x7F80),
        "F32": _Words(np.uint32, np.int32, 0x80000000, 0x7F800000),
    }
)


class CheckStopped(QuantdeckError):
    """The user stopped the look at the weights."""


@dataclass(frozen=True)
class Stored:
    """Weights as they lie in a file of the model. `narrowed`: they become F16, which does not hold every magnitude."""

    tensor: Tensor
    narrowed: bool = False

    @property
    def infinity_is_data(self) -> bool:
        """A vector of a GGUF is copied as it is, and some architectures may mean infinity by it."""
        return len(self.tensor.shape) == 1


def check_weights(
    model: Model,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    threads: int | None = None,
) -> None:
    """Refuse a model of which a floating-point weight is NaN or infinite.

    Looks at F32, F16 and BF16; blocks of quantized types are looked at when they are unpacked. Bits are compared as
    integers: two passes over a buffer in the cache and no temporary, so that reading is what takes the time.

    Args:
        model: a GGUF or a checkpoint.
        on_progress: called every PROGRESS_SECONDS with bytes done and bytes in all, from the calling thread.
        cancelled: asked between pieces.
        threads: None for as many as there are cores, up to MAX_THREADS.

    Raises:
        ValidationFailed: naming the first such tensor, in the model's order, and its row.
        ModelNotFound: a file is not there any more.
        CheckStopped: `cancelled` said so.
    """
    from concurrent.futures import ThreadPoolExecutor  # workers of jobs come through this package, and start at once

    weights = list(stored_weights(model))
    total = sum(stored.tensor.n_bytes for stored in weights)
    stop = threading.Event()
    descriptors = [open_file(path) for path in model.files]
    local = threading.local()

    def look(piece: tuple[Stored, int, int]) -> int:
        if not stop.is_set():
            if not hasattr(local, "buffer"):
                local.buffer = np.empty(BUFFER_BYTES, np.uint8)
            _look(model, descriptors, local.buffer, *piece)
        return piece[2]

    done, told = 0, time.monotonic()
    pool = ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1), "weights")
    try:
        for n_bytes in pool.map(look, _pieces(weights)):
            done += n_bytes
            if cancelled and cancelled():
                raise CheckStopped("The look at the weights was stopped; nothing was begun.")
            if on_progress and time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                on_progress(done, total)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for descriptor in descriptors:
            os.close(descriptor)


def stored_weights(model: Model) -> Iterable[Stored]:
    """The floating-point weights that a job on `model` would read."""
    if model.format == "gguf":
        return [Stored(tensor) for tensor in model.tensors if tensor.type in _WORDS]
    from ..checkpoint import stored_weights

    return stored_weights(model)


def _pieces(weights: Iterable[Stored]) -> Iterator[tuple[Stored, int, int]]:
    for stored in weights:
        for first in range(0, stored.tensor.n_bytes, PIECE_BYTES):
            yield stored, first, min(PIECE_BYTES, stored.tensor.n_bytes - first)


def _look(
    model: Model, descriptors: list[int], buffer: npt.NDArray[np.uint8], stored: Stored, first: int, n_bytes: int
) -> None:
    tensor, path = stored.tensor, model.files[stored.tensor.file]
    words = _WORDS[tensor.type]
    for start in range(first, first + n_bytes, BUFFER_BYTES):
        part = buffer[: min(BUFFER_BYTES, first + n_bytes - start)]
        read_fully(descriptors[tensor.file], path, tensor.offset + start, part.data)
        limit = F16_END if stored.narrowed else words.infinity
        if _any_from(part, words, limit):
            _refuse(model, stored, part.view(words.word), start // part.view(words.word).itemsize)


def _any_from(part: npt.NDArray[np.uint8], words: _Words, limit: int) -> bool:
    """True if a magnitude's bits are not below `limit`.

    Taken as signed numbers the largest is the largest positive one, as unsigned the largest negative one, if any.
    """
    return bool(part.view(words.signed).max() >= limit or part.view(words.word).max() >= words.sign + limit)


def _refuse(model: Model, stored: Stored, bits: npt.NDArray[Any], first: int) -> None:
    """Raise for the first weight of `bits` that is not right; `first` is its number in the tensor."""
    tensor, words = stored.tensor, _WORDS[stored.tensor.type]
    magnitudes = bits & bits.dtype.type(words.sign - 1)
    bad = magnitudes > words.infinity if model.format == "gguf" and stored.infinity_is_data else None
    bad = magnitudes >= words.infinity if bad is None else bad
    if bad.any():
        row = (first + int(bad.argmax())) // tensor.row_length
        raise ValidationFailed(
            f"Tensor {shown(tensor.name)} in {shown(model.files[tensor.file].name)} holds NaN or infinity in row {row};"
            " the source is damaged, get it again."
        )
    if stored.narrowed:
        row = (first + int((magnitudes >= F16_END).argmax())) // tensor.row_length
        raise ValidationFailed(
            f"Tensor {shown(tensor.name)} holds a weight in row {row} that is too large for F16, which a checkpoint in"
            " F32 passes through; convert it with -q BF16 first and quantize that."
        )
