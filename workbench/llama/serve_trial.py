"""Service `trial`: how fast a loaded model computes, and what it takes while it does. Child process only."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

from .engine import ContextOptions, Engine, Refused
from .peak_memory import peak_memory
from .wire import Reply

_GENERATED = 32
_SECONDS = 0.5
_STRIDE = 7919  # a prime: the tokens of the prompt wander through the whole vocabulary


def trial(engine: Engine, reply: Reply, context: int) -> dict[str, Any]:
    """Read a prompt that fills half of `context`, then go on one token at a time, 32 of them; small models, whose
    tokens are over before a disturbance is, go back and do it again until half a second has passed.

    Events: `prompt` with the tokens read so far. Ends with tokens a second (of single tokens the median, since other
    programs disturb single ones) and the most memory that was resident, in bytes.
    """
    batch = min(context, 512)
    engine.open(ContextOptions(context, batch, batch))
    if not engine.has_vocab or not engine.memory or engine.is_encoder_decoder:
        raise Refused("only models that write text word by word can be tried out")
    length = max(1, min(context - _GENERATED, context // 2))
    tokens = [i * _STRIDE % engine.n_vocab for i in range(length)]
    # The first computation touches all memory that a full micro-batch needs; it is no measure of speed.
    engine.feed([i * _STRIDE % engine.n_vocab for i in range(batch)])
    engine.forget()
    began = time.perf_counter()
    for end in range(0, length, batch):
        engine.feed(tokens[: end + batch])
        reply("prompt", done=min(length, end + batch), total=length)
    prompt_seconds = time.perf_counter() - began
    seconds = _of_single_tokens(engine, tokens, min(_GENERATED, context - length))
    while sum(seconds) < _SECONDS and engine.feed(tokens):
        seconds += _of_single_tokens(engine, tokens, min(_GENERATED, context - length))
    return {
        "prompt_tokens_per_second": length / prompt_seconds,
        "tokens_per_second": 1 / statistics.median(seconds),
        "peak_memory": peak_memory(),
    }


def _of_single_tokens(engine: Engine, tokens: list[int], count: int) -> list[float]:
    seconds = []
    gc.disable()
    for i in range(count):
        started = time.perf_counter()
        engine.append(tokens[i % len(tokens)])
        engine.logits()
        seconds.append(time.perf_counter() - started)
    gc.enable()
    return seconds
