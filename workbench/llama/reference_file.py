"""Reference log-probabilities on disk, in the form of llama-perplexity's `--save-all-logits`.

"_logits_", int32 context, int32 words, int32 chunks, the tokens of all chunks as int32, then per chunk the packed rows
of its context - 1 - context/2 scored tokens (see `scoring`): two bytes a word and token.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .scoring import Packed, packed_width

_MAGIC = b"_logits_"
_HEAD = struct.Struct("<iii")


def reference_bytes(n_vocab: int, context: int, chunks: int) -> int:
    """Size of the file: about two bytes per word of the vocabulary and half the tokens."""
    return len(_MAGIC) + _HEAD.size + 4 * context * chunks + chunks * _chunk_bytes(n_vocab, context)


def is_whole(path: Path) -> bool:
    """True if there is such a file at `path`, as long as its head says."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC) + _HEAD.size)
            size = file.seek(0, 2)
    except OSError:
        return False
    if len(start) < len(_MAGIC) + _HEAD.size or not start.startswith(_MAGIC):
        return False
    context, n_vocab, chunks = _HEAD.unpack(start[len(_MAGIC) :])
    return bool(context > 0 < n_vocab and size == reference_bytes(n_vocab, context, chunks))


class ReferenceFile:
    """An open file of reference log-probabilities; chunks lie at fixed places, so that writing can go on anywhere."""

    def __init__(self, file: BinaryIO, n_vocab: int, context: int, tokens: list[int]) -> None:
        self._file = file
        self._n_vocab = n_vocab
        self._context = context
        self._head = _MAGIC + _HEAD.pack(context, n_vocab, len(tokens) // context) + np.asarray(tokens, "<i4").tobytes()

    def write_head(self) -> None:
        """Begin a new file."""
        self._file.seek(0)
        self._file.write(self._head)

    def belongs(self) -> bool:
        """True if the file is for these tokens, this context and this vocabulary."""
        self._file.seek(0)
        return self._file.read(len(self._head)) == self._head

    def chunks(self) -> int:
        """Whole chunks in the file."""
        size = self._file.seek(0, 2)
        return max(0, size - len(self._head)) // _chunk_bytes(self._n_vocab, self._context)

    def write(self, chunk: int, packed: Packed) -> None:
        """Write one chunk's rows (context - 1 - context/2, packed_width)."""
        self._file.seek(self._place(chunk))
        self._file.write(np.ascontiguousarray(packed, "<u2").data)
        self._file.flush()

    def read(self, chunk: int, first: int, n: int) -> Packed | None:
        """Rows [first, first + n) of one chunk, None if the file ends before them."""
        row_bytes = packed_width(self._n_vocab) * 2
        self._file.seek(self._place(chunk) + first * row_bytes)
        content = self._file.read(n * row_bytes)
        if len(content) < n * row_bytes:
            return None
        return np.frombuffer(content, "<u2").reshape(n, -1)

    def _place(self, chunk: int) -> int:
        return len(self._head) + chunk * _chunk_bytes(self._n_vocab, self._context)


def _chunk_bytes(n_vocab: int, context: int) -> int:
    return (context - 1 - context // 2) * packed_width(n_vocab) * 2
