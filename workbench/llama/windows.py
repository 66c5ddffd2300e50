"""Windows of a text through a model, in the batches of llama.cpp's own tools. Child process only.

What a model computes depends on the company in a batch: attention over fewer than 64 tokens of a text rounds otherwise
than over more, and a step of fewer than 16 rows is not weighed. So windows are computed together as llama-imatrix and
llama-perplexity do it, wherever that makes a difference, and their figures come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .engine import ContextOptions, Engine

_STEP = 512  # tokens computed at once (--ubatch-size of the tools)
_BATCH = 2048  # tokens of which the tools fill whole windows (--batch-size)
_TILE = 64  # tokens of a text from which on the attention adds up in 32 bits (GGML_FA_TILE_Q)


def windows_at_once(context: int) -> int:
    """How many windows of `context` tokens to compute together: those of the tools, unless one by one is the same.

    One by one is better then: what an interruption costs is one window.
    """
    group = max(1, _BATCH // context)
    return 1 if context >= _STEP and _fewest(context, 1) >= _TILE and _fewest(context, group) >= _TILE else group


def _fewest(context: int, together: int) -> int:
    """Tokens of a window in the smallest of its steps."""
    step = _STEP // together
    return context % step or step


def open_for_windows(engine: Engine, context: int, cb_eval: Any = None) -> int:
    """Make a context for as many windows as belong together, and return their number."""
    together = windows_at_once(context)
    n_ctx = together * context
    engine.open(ContextOptions(n_ctx, min(n_ctx, _STEP), min(n_ctx, _STEP), n_seq=together, cb_eval=cb_eval))
    return together


def compute_windows(engine: Engine, windows: Sequence[list[int]], first_output: int = 0) -> Iterator[tuple[int, int]]:
    """Compute windows of one length together, each with a BOS where the vocabulary wants one.

    Yields after every step the positions [begin, end) that were computed of each window. The outputs are those of the
    first window from position `first_output` on, then those of the next.
    """
    engine.forget()
    context = len(windows[0])
    beginning = [engine.with_bos(window) for window in windows]
    step = max(1, _STEP // len(windows))
    for begin in range(0, context, step):
        end = min(begin + step, context)
        engine.compute_at(begin, [window[begin:end] for window in beginning], first_output)
        yield begin, end
