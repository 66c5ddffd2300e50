"""The only place that touches llama.cpp, always in a child process.

What is measured over whole texts, and needs numpy, is imported by name: `llama.calibrate`, `llama.evaluate`.
"""

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
from .host import Child
from .llama import Llama
from .smoke import SmokeResult, SmokeVerdict, smoke_test, verdict
from .troubles import Cancelled, LlamaCrashed, LlamaFailed, LoadCancelled
from .verify import ready_child, verify

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
