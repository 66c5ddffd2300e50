"""Rows of the tensors of a GGUF model."""

from __future__ import annotations

import os

import numpy as np

from ...kernels import TYPES, KernelError, dequantize
from ..errors import ValidationFailed
from .gguf import open_file, read_fully
from .gguf_format import STORED
from .model import Floats, Model, Tensor
from .wording import shown


class GgufSource:
    """Open weights of a GGUF model. For one thread: rows pass through one scratch buffer."""

    def __init__(self, model: Model) -> None:
        """Open all files of `model`; ModelNotFound if one is not there any more."""
        self._model = model
        self._descriptors: list[int] = []
        self._scratch = bytearray()
        try:
            for path in model.files:
                self._descriptors.append(open_file(path))
        except BaseException:
            self.close()
            raise

    def rows(self, tensor: str, first: int, count: int) -> Floats:
        """Rows first .. first+count as float32 (count, row_length), C order, for the caller to keep.

        Raises:
            ValidationFailed: the file is shorter than its header says, or the tensor's type holds no weights.
        """
        info = self._model.by_name[tensor]
        if info.type not in TYPES:
            raise ValidationFailed(f"Tensor {shown(tensor)} of type {info.type} cannot be read as weights.")
        if info.type == "F32":
            weights = np.empty((count, info.row_length), np.float32)
            self._read(info, first, count, weights.reshape(-1).view(np.uint8).data)
            return weights
        row_bytes = TYPES[info.type].row_bytes(info.row_length)
        if len(self._scratch) < count * row_bytes:
            self._scratch = bytearray(count * row_bytes)
        packed = memoryview(self._scratch)[: count * row_bytes]
        self._read(info, first, count, packed)
        try:
            return dequantize(np.frombuffer(packed, np.uint8).reshape(count, row_bytes), info.type, info.row_length)
        except KernelError as error:
            raise ValidationFailed(f"Tensor {shown(tensor)} cannot be unpacked: {error}.") from error

    def raw(self, tensor: str, first: int, count: int) -> bytes:
        """The same rows as bytes in the tensor's own type; ValidationFailed as `rows`."""
        info = self._model.by_name[tensor]
        content = bytearray(STORED[info.type].n_bytes(info.row_length, count))
        self._read(info, first, count, memoryview(content))
        return bytes(content)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _read(self, tensor: Tensor, first: int, count: int, target: memoryview) -> None:
        if first < 0 or count < 0 or first + count > tensor.n_rows:
            raise IndexError(f"rows {first}..{first + count} of {tensor.n_rows} in {tensor.name}")
        path = self._model.files[tensor.file]
        position = tensor.offset + STORED[tensor.type].n_bytes(tensor.row_length, first)
        read_fully(self._descriptors[tensor.file], path, position, target)
