"""Service `calibrate`: run a corpus through the model and gather an importance matrix by chunks. Child process only."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import QuantdeckError
from ..imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from .collector import FEWEST_ROWS, SQUARES, Collector, Totals
from .engine import ContextOptions, Engine, Refused
from .text_input import chunked_tokens
from .wire import Reply

_UBATCH, _TOOL_BATCH = 512, 2048
_TILE = 64  # queries from which on llama.cpp's attention adds up in 32 bits (GGML_FA_TILE_Q)
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

    After every chunk `partial` holds all sums so far; with the same text, model and settings a later call goes on.
    `model` identifies the model's file.
    """
    if not engine.has_vocab:
        raise Refused("the model has no vocabulary to read texts with")
    tokens, n_chunks, parsed = chunked_tokens(engine, reply, Path(corpus), parse_special, context, chunks)
    collector = Collector(SQUARES, with_output)
    identity = _identity(tokens, context, with_output, model)
    begun = _resume(Path(partial), identity, collector)
    reply("begun", chunks=n_chunks, done=begun, parse_special=parsed, tokens=len(tokens))
    # All tokens have outputs: without them the last layer's weights would see only the last token.
    engine.open(ContextOptions(context, context, _even(context), cb_eval=collector.callback))
    group = max(1, _TOOL_BATCH // context)
    for number in range(begun, n_chunks):
        started = time.perf_counter()
        together = min(group, n_chunks - number // group * group)
        chunk = tokens[number * context : (number + 1) * context]
        _compute(engine, engine.with_bos(chunk), piece_ends(context, together))
        if collector.problem:
            raise Refused(collector.problem)
        state = _imatrix(collector, Path(corpus), number + 1, context, {_IDENTITY: identity})
        write_imatrix(Path(partial), state, durable=False)
        reply("chunk", done=number + 1, seconds=time.perf_counter() - started)
    if not collector.totals:
        raise Refused("the model multiplies nothing that an importance matrix could weigh")
    write_imatrix(Path(output), _imatrix(collector, Path(corpus), n_chunks, context))
    Path(partial).unlink(missing_ok=True)
    return {"chunks": n_chunks, "tokens": n_chunks * context}


def _compute(engine: Engine, chunk: list[int], ends: list[int]) -> None:
    engine.forget()
    for begin, end in itertools.pairwise([0, *ends]):
        engine.compute_at(begin, chunk[begin:end])


def piece_ends(context: int, together: int) -> list[int]:
    """Where to cut a chunk so that llama.cpp computes it as it does for its tool, with `together` chunks at once.

    The tool takes 512 // together tokens of each chunk at a time. Fewer than `_TILE` go another way through the
    attention, which rounds to 16 bits, so they must be fewer here too, but not so few that the collector passes over
    them. What the tool passes over at the end of a chunk is a piece of its own.
    """
    step = _UBATCH // together
    tail = ignored_tail(context, together)
    cut = context - tail
    if step < _TILE:
        n = -(-cut // (_TILE - 1))
        ends = [(i + 1) * cut // n for i in range(n)]
    else:
        rest = cut % step
        ends = [cut - max(rest, FEWEST_ROWS), cut] if 0 < rest < _TILE and cut > step else [cut]
    return [*ends, context] if tail else ends


def ignored_tail(context: int, group: int) -> int:
    """Tokens at the end of each of `group` chunks whose dense inputs llama.cpp's tool does not count.

    The tool computes several chunks at once in steps of 512 tokens, evenly from each, and passes over steps of fewer
    than 16 rows. We go chunk by chunk, and compute such a tail as a step of its own, so that it is passed over as well:
    the same file comes out.
    """
    step = _UBATCH // group
    tail = context % (_TOOL_BATCH if group == 1 else context + 1) % step
    return tail if tail * group < FEWEST_ROWS else 0


def _even(context: int) -> int:
    """Steps of at most 512 tokens of about the same size, so that none is very small."""
    return -(-context // -(-context // _UBATCH))


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
