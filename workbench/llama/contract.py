"""What travels between the program and a loaded model: settings in, facts and events out. All plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]
StopReason = Literal["stop", "length", "cancelled", "context full"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


def default_threads() -> int:
    """Cores this process may use, less one that the rest of the machine keeps; at least 1.

    With every core busy llama.cpp's spinning threads wait for each other and lose most of their speed.
    """
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:
        usable = os.cpu_count() or 1
    return max(1, usable - 1)


@dataclass(frozen=True)
class LoadSettings:
    """How to load a model.

    `context` in tokens, 0 for what the model was trained with, up to 4096; `gpu_layers` -1 for all; `batch` tokens a
    prefill step; `kv_type` names a ggml type (f16, q8_0, q4_0 ...), anything but a 16 or 32-bit one needs flash
    attention. `threads` compute single tokens, None stands for `default_threads()`; `prompt_threads` compute many at
    once, None for as many. `repack` lets llama.cpp arrange weights for the processor's widest instructions, which takes
    a second copy of them and a while.
    """

    context: int = 0
    gpu_layers: int = -1
    threads: int | None = None
    prompt_threads: int | None = None
    batch: int = 512
    kv_type: str = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    memory_map: bool = True
    repack: bool = True


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 takes the likeliest one; `top_k` 0, `top_p` 1, `min_p` 0 and
    `repeat_penalty` 1 are off; `seed` None draws a new one each time.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Buffer:
    """Memory that llama.cpp took, as its log reports it. `kind`: weights, kv_cache, state, compute, output."""

    kind: str
    device: str
    n_bytes: int


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is. Texts are harmless for a terminal.

    `context` is the size in use (llama.cpp rounds it up to 256), `n_ctx_train` what the model was trained with.
    `why_not` says in a sentence why `can_chat` is False; `template_notice` why the model's own chat template is not
    used. `notices` are things to know (no GPU in this build, context beyond training); `alarms` are pairs of a line of
    the log that alarms people for no reason and what it means.
    """

    name: str
    architecture: str
    description: str
    n_params: int
    n_bytes: int
    n_ctx_train: int
    context: int
    n_layers: int
    vocabulary_size: int
    threads: int
    prompt_threads: int
    can_chat: bool
    why_not: str
    has_template: bool
    template_notice: str
    buffers: tuple[Buffer, ...]
    notices: tuple[str, ...]
    alarms: tuple[tuple[str, str], ...]
    load_seconds: float

    def bytes_of(self, kind: str) -> int:
        """Bytes of all buffers of one kind, over all devices."""
        return sum(buffer.n_bytes for buffer in self.buffers if buffer.kind == kind)


@dataclass(frozen=True)
class TextPiece:
    """The next piece of an answer, harmless for a terminal."""

    text: str


@dataclass(frozen=True)
class ChatDone:
    """The end of an answer.

    `prompt_tokens` counts the whole prompt, `reused_tokens` those of it that were still in the KV cache;
    `prompt_tokens_per_second` is over those that were not. `tokens_per_second` leaves out the first token, whose wait
    is `seconds_to_first_token`. `notice` says what was done differently from what was asked, if anything was.
    """

    reason: StopReason
    prompt_tokens: int
    generated_tokens: int
    reused_tokens: int
    seconds_to_first_token: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    context_used: int
    context_size: int
    notice: str = ""


ChatEvent = TextPiece | ChatDone


@dataclass(frozen=True)
class Verification:
    """The outcome of loading a file and computing with it. `problem` is a sentence if `ok` is False.

    `tokens` counts the positions whose results were checked to be finite; `text` is what was generated, if anything.
    """

    ok: bool
    tokens: int
    text: str
    seconds: float
    problem: str = ""
