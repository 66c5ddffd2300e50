"""Try a model out: load it, read a prompt, generate, and tell how fast that was and how much memory it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..text import printable
from .contract import LoadSettings
from .host import Child, Patience
from .llama import Watch, start
from .troubles import Cancelled
from .wire import Line


@dataclass(frozen=True)
class Trial:
    """Speeds in tokens a second, with half of `context` filled; `peak_memory` in bytes, 0 where it is not known.

    It is all that the child had resident: model, cache and buffers, and the program itself.
    """

    context: int
    threads: int
    prompt_threads: int
    load_seconds: float
    prompt_tokens_per_second: float
    tokens_per_second: float
    peak_memory: int


def try_out(
    model: Path,
    settings: LoadSettings,
    log_folder: Path,
    on_progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience | None = None,
    child: Child | None = None,
) -> Trial:
    """Measure `model` in a child of its own, or in `child`, which has no model yet and keeps this one; blocks.

    `on_progress` hears the share of the prompt that was read.
    Raises `Cancelled`, `LlamaFailed`.
    """
    running, facts = start(model, settings, log_folder, None, cancelled, patience, "trial", child)
    line: Line = {}
    try:
        with Watch(cancelled, running):
            for line in running.request(
                f"{printable(model.name)} could not be tried out", "trial", context=settings.context
            ):
                if line["event"] == "prompt" and on_progress is not None:
                    on_progress(line["done"] / line["total"])
    finally:
        if running is not child:
            running.close()
    if line.get("cancelled"):
        raise Cancelled(f"Measuring {printable(model.name)} was stopped.")
    return Trial(
        context=settings.context,
        threads=int(facts["threads"]),
        prompt_threads=int(facts["prompt_threads"]),
        load_seconds=facts["load_seconds"],
        prompt_tokens_per_second=line["prompt_tokens_per_second"],
        tokens_per_second=line["tokens_per_second"],
        peak_memory=line["peak_memory"],
    )
