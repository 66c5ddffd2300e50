"""The only place that touches llama.cpp, always in a child process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .contract import (
        Buffer,
        ChatDone,
        ChatEvent,
        LoadSettings,
        Message,
        ModelInfo,
        Sampling,
        TextPiece,
        Verification,
        default_threads,
    )
    from .host import Child, ready_child
    from .llama import Llama
    from .smoke import SmokeResult, SmokeVerdict, smoke_test, verdict
    from .troubles import Cancelled, LlamaCrashed, LlamaFailed, LoadCancelled
    from .verification import verify

# The child comes through here too, and must start at once.
__getattr__ = lazy(
    __name__,
    {
        "contract": "Buffer ChatDone ChatEvent LoadSettings Message ModelInfo Sampling TextPiece Verification"
        " default_threads",
        "host": "Child ready_child",
        "llama": "Llama",
        "smoke": "SmokeResult SmokeVerdict smoke_test verdict",
        "troubles": "Cancelled LlamaCrashed LlamaFailed LoadCancelled",
        "verification": "verify",
    },
)

__all__ = [
    "Buffer",
    "Cancelled",
    "ChatDone",
    "ChatEvent",
    "Child",
    "Llama",
    "LlamaCrashed",
    "LlamaFailed",
    "LoadCancelled",
    "LoadSettings",
    "Message",
    "ModelInfo",
    "Sampling",
    "SmokeResult",
    "SmokeVerdict",
    "TextPiece",
    "Verification",
    "default_threads",
    "ready_child",
    "smoke_test",
    "verdict",
    "verify",
]
