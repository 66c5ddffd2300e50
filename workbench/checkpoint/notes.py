"""What a user should know of a conversion that goes on all the same: where llama.cpp computes something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import Config
from .family import Family
from .pre_tokenizer import kinds_of

_SLIDING = "sliding_attention"

_CHANGES = {
    "NFC": "text with letters and accents as separate characters",
    "NFKC": "wide letters, ligatures and the like",
    "Precompiled": "wide letters, ligatures and the like",
}
"""What each normalizer that llama.cpp does not apply would change."""


def ignored_window(family: Family, config: Config, context: int) -> int:
    """Tokens that the model's layers look back where llama.cpp lets them look at everything; 0 if it does the same.

    Args:
        family: what the checkpoint is.
        config: its config.json with the family's defaults.
        context: tokens that it was trained with; a window as long as that is none.
    """
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not family.window_ignored or type(window) is not int or not 0 < window < context:
        return 0
    if not config.flag("use_sliding_window", default=True):
        return 0
    if isinstance(kinds, list):
        return window if _SLIDING in kinds else 0
    return window if config.count("max_window_layers", default=0) < config.n_layers else 0


def notes_on(window: int, tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on an `ignored_window` and on what the tokenizer does to a text before it cuts it."""
    notes = []
    if window:
        notes.append(
            f"Beyond {window:,} tokens llama.cpp attends to everything, and the model was trained with a window of"
            f" {window:,}: keep the context at {window:,} tokens or less for the original's answers."
        )
    lost = [kind for kind in kinds_of(tokenizer.get("normalizer"), "normalizers") if kind in _CHANGES]
    if lost:
        notes.append(
            f"llama.cpp leaves out a step of the tokenizer ({lost[0]}): {_CHANGES[lost[0]]} may be cut into other"
            " tokens."
        )
    return tuple(notes)
