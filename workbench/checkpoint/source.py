"""Rows of a checkpoint's converted tensors, made as they are asked for."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...kernels import KernelError, quantize
from ..errors import ValidationFailed
from ..model.finite import Stored
from ..model.gguf import open_file, read_fully
from ..model.model import Floats, Model, Tensor
from ..model.wording import shown
from .checkpoint import layout_of
from .stored import ITEM_BYTES
from .views import widened


class CheckpointSource:
    """Open weights of a checkpoint. For one thread; memory is that of the rows asked for, and reads are `os.pread`."""

    def __init__(self, model: Model) -> None:
        """Open all files; ModelNotFound or ValidationFailed if they are not what they were when `model` was read."""
        self._model = model
        self._folder, self._views = layout_of(model.path)
        for tensor in model.tensors:
            view = self._views.get(tensor.name)
            if view is None or tuple(reversed(view.shape)) != tensor.shape:
                raise ValidationFailed(f"{shown(model.path)} has changed since it was read; start again.")
        self._descriptors: dict[int, int] = {}

    def rows(self, tensor: str, first: int, count: int) -> Floats:
        """Rows first .. first+count as float32 (count, row_length), as the tensor's own type holds them.

        Raises:
            ValidationFailed: a file is shorter than its header says.
        """
        info = self._model.by_name[tensor]
        packed, dtype = self._read(info, first, count)
        rows = widened(packed, dtype)
        if info.type not in (dtype, "F32"):
            rows = widened(_packed(tensor, rows, info.type), info.type)
        return np.ascontiguousarray(rows)

    def raw(self, tensor: str, first: int, count: int) -> bytes:
        """The same rows as bytes in the tensor's own type; ValidationFailed as `rows`, and for NaN and infinity."""
        info = self._model.by_name[tensor]
        packed, dtype = self._read(info, first, count)
        if dtype == info.type:
            return packed.tobytes()
        return _packed(tensor, widened(packed, dtype), info.type).tobytes()

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _read(self, tensor: Tensor, first: int, count: int) -> tuple[npt.NDArray[np.uint8], str]:
        if first < 0 or count < 0 or first + count > tensor.n_rows:
            raise IndexError(f"rows {first}..{first + count} of {tensor.n_rows} in {tensor.name}")
        view = self._views[tensor.name]
        return view.read(self._fill, first, count), view.dtype

    def _fill(self, file: int, offset: int, target: memoryview) -> None:
        path = self._folder.files[file]
        if file not in self._descriptors:
            self._descriptors[file] = open_file(path)
        read_fully(self._descriptors[file], path, offset, target)


def stored_weights(model: Model) -> list[Stored]:
    """The weights that the converted model is made of, each once, as they are stored; see `check_weights`."""
    _, views = layout_of(model.path)
    found: dict[str, Stored] = {}
    for name, view in views.items():
        kind = model.by_name[name].type if name in model.by_name else view.dtype
        for part in view.parts:
            shape = tuple(reversed(part.shape)) or (1,)
            tensor = Tensor(part.name, shape, part.dtype, math.prod(shape) * ITEM_BYTES[part.dtype])
            tensor = replace(tensor, file=part.file, offset=part.offset)
            found.setdefault(part.name, Stored(tensor, narrowed=part.dtype == "F32" and kind == "F16"))
    return list(found.values())


def _packed(tensor: str, rows: Floats, kind: str) -> npt.NDArray[np.uint8]:
    try:
        return quantize(np.ascontiguousarray(rows), kind)
    except KernelError as error:
        raise ValidationFailed(
            f"Tensor {shown(tensor)} cannot be converted: {error}; the source is damaged, get it again."
        ) from error
