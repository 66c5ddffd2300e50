"""Service `evaluate`: perplexity, and divergence from a reference, chunk by chunk. Child process only."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..text import size
from .binding import lib
from .contract import LoadSettings
from .engine import Engine, Refused
from .reference_file import ReferenceFile, reference_bytes
from .scoring import FIELDS, Packed, Scores, pack, score
from .text_input import chunked_tokens
from .windows import compute_windows, open_for_windows
from .wire import Reply

_SPARE_DISK = 64 << 20


def evaluate(
    engine: Engine,
    reply: Reply,
    corpus: str,
    scores: str,
    context: int,
    chunks: int,
    parse_special: bool | None,
    model: str,
    reference: str = "",
    read_from: str = "",
    write_to: str = "",
) -> dict[str, Any]:
    """Score `corpus` in windows of `context`, the second half of each (llama-perplexity's protocol).

    Compares with the model `reference` in lock step, or with the file `read_from`; `write_to` makes such a file of this
    model. Events: `begun` (chunks, done, tokens, parse_special, bytes), `chunk` (done, and its means). The scores of
    every chunk are appended to the file `scores`, which the caller reads; a later call goes on there.
    """
    together = open_for_windows(engine, context) if engine.has_vocab else 0
    if not together or not _writes_text(engine):
        raise Refused("only models that write text word by word have a perplexity")
    tokens, n_chunks, parsed = chunked_tokens(engine, reply, Path(corpus), parse_special, context, chunks)
    n_bytes = reference_bytes(engine.n_vocab, context, n_chunks) if write_to else 0
    identity = _identity(tokens, context, model, reference, read_from, write_to)
    with ExitStack() as stack:
        record = stack.enter_context(_ScoreFile(Path(scores), identity, context - 1 - context // 2))
        target = _Target(stack, write_to, engine, context, tokens, n_bytes, record)
        source = _source(stack, engine, reference, read_from, context, tokens)
        reply("begun", chunks=n_chunks, done=record.chunks, tokens=len(tokens), parse_special=parsed, bytes=n_bytes)
        for first in range(record.chunks, n_chunks, together):
            numbers = range(first, min(first + together, n_chunks))
            windows = [tokens[number * context : (number + 1) * context] for number in numbers]
            parts = _score_windows(engine, first, windows, source, target)
            for number, part in zip(numbers, parts, strict=True):
                target.end_chunk(number)
                record.append(part)
                reply("chunk", done=number + 1, nll=float(part[0].mean()), kl=float(part[2].mean()))
    return {}


def _writes_text(engine: Engine) -> bool:
    return bool(engine.memory) and not engine.is_encoder_decoder and not lib.llama_model_is_diffusion(engine.model)


def _score_windows(
    engine: Engine, number: int, windows: Sequence[list[int]], source: _Source, target: _Target
) -> list[npt.NDArray[np.float64]]:
    """Scores float64 (len(FIELDS), n) of each window, the first of them the chunk `number`."""
    parts: list[list[Scores]] = [[] for _ in windows]
    source.begin(windows)
    for piece in logits_of_second_half(engine, windows):
        first, window = piece.first, windows[piece.window]
        following = np.asarray(window[first + 1 : first + 1 + len(piece.logits)], np.int64)
        reference = source.rows(number + piece.window, first - len(window) // 2, len(piece.logits))
        part = score(piece.logits, following, reference, engine.prompt_threads)
        if not np.isfinite(part.nll).all():
            raise Refused(
                "it computes values that are not numbers (NaN): its weights are damaged or were quantized badly"
            )
        target.add(number + piece.window, piece.logits)
        parts[piece.window].append(part)
    return [np.concatenate([part.table() for part in of_window], axis=1) for of_window in parts]


@dataclass(frozen=True)
class _Piece:
    """Logits (n, n_vocab) from position `first` of a window on, a view that the next step overwrites."""

    window: int
    first: int
    logits: npt.NDArray[np.float32]


def logits_of_second_half(engine: Engine, windows: Sequence[list[int]]) -> Iterator[_Piece]:
    """Logits of positions len/2 .. len-2 of every window. The last token is computed too, as by the tool."""
    half, last = len(windows[0]) // 2, len(windows[0]) - 1
    for begin, end in compute_windows(engine, windows, half):
        first = max(begin, half)
        if first >= min(end, last):
            continue
        logits = engine.all_logits(len(windows) * (end - first)).reshape(len(windows), end - first, -1)
        for window, rows in enumerate(logits):
            yield _Piece(window, first, rows[: min(end, last) - first])


class _Source:
    """Where the reference's log-probabilities come from: nowhere, unless a subclass knows."""

    def begin(self, windows: Sequence[list[int]]) -> None:
        """The rows of these windows are asked for next, as `logits_of_second_half` gives them."""

    def rows(self, number: int, first: int, n: int) -> Packed | None:
        """Packed rows [first, first + n) of chunk `number`, counted from its first scored token."""
        return None


class _FileSource(_Source):
    """A reference computed earlier."""

    def __init__(self, file: ReferenceFile) -> None:
        self._file = file

    def rows(self, number: int, first: int, n: int) -> Packed | None:
        rows = self._file.read(number, first, n)
        if rows is None:
            raise Refused("the file of reference logits became shorter while it was read; try again")
        return rows


class _ModelSource(_Source):
    """A second model, computed in lock step: no file, but both in memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pieces: Iterator[_Piece] = iter(())

    def begin(self, windows: Sequence[list[int]]) -> None:
        self._pieces = logits_of_second_half(self._engine, windows)

    def rows(self, number: int, first: int, n: int) -> Packed | None:
        return pack(next(self._pieces).logits, self._engine.prompt_threads)


def _source(
    stack: ExitStack, engine: Engine, reference: str, read_from: str, context: int, tokens: list[int]
) -> _Source:
    if read_from:
        stream = stack.enter_context(contextlib.closing(Path(read_from).open("rb")))  # noqa: SIM115
        file = ReferenceFile(stream, engine.n_vocab, context, tokens)
        if not file.belongs():
            raise Refused(f"{read_from} holds logits of another text, context or vocabulary; remove it and try again")
        return _FileSource(file)
    if not reference:
        return _Source()
    other = Engine(engine.log, engine.life)
    settings = LoadSettings(gpu_layers=engine.settings.gpu_layers, threads=engine.prompt_threads)
    other.load(reference, settings, lambda _: None)
    if other.n_vocab != engine.n_vocab:
        raise Refused(f"its vocabulary has {engine.n_vocab} words and the reference's {other.n_vocab}: no comparison")
    open_for_windows(other, context)
    return _ModelSource(other)


class _Target:
    """Where this model's own log-probabilities go, if they are to be a reference for others."""

    def __init__(
        self,
        stack: ExitStack,
        path: str,
        engine: Engine,
        context: int,
        tokens: list[int],
        n_bytes: int,
        record: _ScoreFile,
    ) -> None:
        self._threads = engine.prompt_threads
        self._file: ReferenceFile | None = None
        self._rows: dict[int, list[Packed]] = {}
        if not path:
            return
        target = Path(path)
        present = target.stat().st_size if target.exists() else 0
        free = shutil.disk_usage(target.parent).free
        if n_bytes - present + _SPARE_DISK > free:
            raise Refused(
                f"the reference logits need {size(n_bytes)} of disk, and {size(free)} are free there; make room, use "
                "fewer chunks, or keep no logits (--lock-step)"
            )
        target.touch()
        self._file = ReferenceFile(stack.enter_context(target.open("r+b")), engine.n_vocab, context, tokens)
        if self._file.belongs():
            record.keep(self._file.chunks())
        else:
            record.keep(0)
            self._file.write_head()

    def add(self, number: int, logits: npt.NDArray[np.float32]) -> None:
        if self._file is not None:
            self._rows.setdefault(number, []).append(pack(logits, self._threads))

    def end_chunk(self, number: int) -> None:
        if self._file is not None:
            self._file.write(number, np.concatenate(self._rows.pop(number)))


class _ScoreFile:
    """Scores of finished chunks: 64 bytes of identity, then per chunk float64 (len(FIELDS), n)."""

    def __init__(self, path: Path, identity: str, n: int) -> None:
        self._path = path
        self._identity = identity.encode()
        self._chunk_bytes = len(FIELDS) * n * 8
        self._file: BinaryIO | None = None
        self.chunks = 0

    def __enter__(self) -> _ScoreFile:
        self._path.touch()
        self._file = self._path.open("r+b")
        known = self._file.read(len(self._identity)) == self._identity
        self.chunks = (self._file.seek(0, 2) - len(self._identity)) // self._chunk_bytes if known else 0
        self.keep(self.chunks)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def keep(self, chunks: int) -> None:
        """Forget all chunks after the first `chunks`."""
        assert self._file is not None
        self.chunks = min(chunks, self.chunks)
        self._file.seek(0)
        self._file.write(self._identity)
        self._file.truncate(len(self._identity) + self.chunks * self._chunk_bytes)
        self._file.seek(0, 2)

    def append(self, part: npt.NDArray[np.float64]) -> None:
        assert self._file is not None
        self._file.write(part.astype("<f8").tobytes())
        self._file.flush()


def _identity(tokens: list[int], *what: object) -> str:
    digest = hashlib.sha256(np.asarray(tokens, np.int32).tobytes())
    digest.update(repr(what).encode())
    return digest.hexdigest()
