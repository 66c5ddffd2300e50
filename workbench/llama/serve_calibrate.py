"""Service `calibrate`: run a corpus through the model and gather an importance matrix by chunks. Child process only."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import QuantdeckError
from ..imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from .collector import SQUARES, Collector, Totals
from .engine import Engine, Refused
from .text_input import chunked_tokens
from .windows import compute_windows, open_for_windows
from .wire import Reply

_IDENTITY = "quantdeck.calibration"


def calibrate(
    engine: Engine,
    reply: Reply,
    corpus: str,
    output: str,
    partial: str,
    context: int,
    chunks: int,
    parse_special: bool | None,
    with_output: bool,
    model: str,
) -> dict[str, Any]:
    """Events: `begun` (chunks, done, parse_special, tokens), `chunk` (done, seconds). Ends with `chunks`, `tokens`.

    `partial` holds the sums of all chunks that were reported; with the same text, model and settings a later call goes
    on there.
    `model` identifies the model's file.
    """
    if not engine.has_vocab:
        raise Refused("the model has no vocabulary to read texts with")
    tokens, n_chunks, parsed = chunked_tokens(engine, reply, Path(corpus), parse_special, context, chunks)
    collector = Collector(SQUARES, engine.life, with_output)
    identity = _identity(tokens, context, with_output, model)
    begun = _resume(Path(partial), identity, collector)
    reply("begun", chunks=n_chunks, done=begun, parse_special=parsed, tokens=len(tokens))
    together = open_for_windows(engine, context, collector.callback)
    for first in range(begun, n_chunks, together):
        started = time.perf_counter()
        done = min(first + together, n_chunks)
        windows = [tokens[number * context : (number + 1) * context] for number in range(first, done)]
        # All tokens have outputs: without them the last layer's weights would see only the last token.
        for _ in compute_windows(engine, windows):
            collector.end_step()
            if collector.problem:
                break
        collector.finish()
        if collector.problem:
            raise Refused(collector.problem)
        state = _imatrix(collector, Path(corpus), done, context, {_IDENTITY: identity})
        write_imatrix(Path(partial), state, durable=False)
        reply("chunk", done=done, seconds=time.perf_counter() - started)
    if not collector.totals:
        raise Refused("the model multiplies nothing that an importance matrix could weigh")
    write_imatrix(Path(output), _imatrix(collector, Path(corpus), n_chunks, context))
    Path(partial).unlink(missing_ok=True)
    return {"chunks": n_chunks, "tokens": n_chunks * context}


def _imatrix(
    collector: Collector, corpus: Path, chunks: int, context: int, extra: Mapping[str, str] | None = None
) -> Imatrix:
    entries = {
        name: Entry(total.sums.reshape(len(total.counts), -1), total.counts) for name, total in collector.totals.items()
    }
    # The bare name: a private path has no place in files that are given away.
    return Imatrix(entries, (corpus.name,), chunks, context, extra or {})


def _identity(tokens: list[int], context: int, with_output: bool, model: str) -> str:
    digest = hashlib.sha256(np.asarray(tokens, np.int32).tobytes())
    digest.update(f"{context} {with_output} {model}".encode())
    return digest.hexdigest()


def _resume(partial: Path, identity: str, collector: Collector) -> int:
    """Chunks that an earlier run has finished; its sums go into the collector."""
    try:
        found = read_imatrix(partial)
    except QuantdeckError:
        return 0
    if found.extra.get(_IDENTITY) != identity:
        return 0
    for name, entry in found.entries.items():
        collector.totals[name] = Totals(entry.sums.copy(), entry.counts.copy())
    return found.chunk_count
