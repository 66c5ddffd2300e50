"""A model and a context of llama.cpp through its low-level API. Child process only: a fault in here ends the process.

llama-cpp-python's `Llama` class is not used: it stalls on broken UTF-8, swallows callbacks and redirects descriptors.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from .binding import lib
from .contract import LoadSettings, default_threads
from .conversation import Conversation
from .wire import FailureKind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KV_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
}
_FLASH = {"auto": -1, "off": 0, "on": 1}
_LEVEL_ERROR, _LEVEL_DEBUG, _LEVEL_CONTINUED = 4, 1, 5  # of ggml.h: 0 none, 1 debug, 2 info, 3 warn, 4 error, 5 cont
_LONGEST_LOG = 8 << 20
_ABORTED, _NO_SLOT = 2, 1
_NO_ABORT = lib.ggml_abort_callback()


class Refused(Exception):
    """What was asked is not done; the text is the reason, in our words unless `kind` says otherwise."""

    def __init__(self, reason: str, kind: FailureKind = "told") -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind


class Stopped(Exception):
    """The user cancelled."""


class ContextFull(Exception):
    """There is no room for another token."""


class Life:
    """Signs of life and the wish to stop, shared between the working thread and the one that listens."""

    def __init__(self) -> None:
        self.signs = 0
        self.cancelled = False

    def sign(self) -> None:
        """The work has moved on."""
        self.signs += 1

    def check(self) -> None:
        """The work has moved on, unless the user wants it to stop: then `Stopped`."""
        self.signs += 1
        if self.cancelled:
            raise Stopped


class Log:
    """llama.cpp's log: written to a stream up to a limit, with the errors of a request and the lines of a load kept."""

    def __init__(self, stream: TextIO) -> None:
        self.errors: list[str] = []
        self.kept: list[str] | None = None
        self._stream = stream
        self._written = 0
        self._level = 0
        self._lock = threading.Lock()
        # Kept alive for good: llama.cpp calls it until the process ends.
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def reason(self, otherwise: str) -> str:
        """llama.cpp's errors since `forget`, the first one (the most telling) first; `otherwise` if there are none."""
        return "\n".join(self.errors) or otherwise

    def forget(self) -> None:
        """A new request begins: earlier errors do not concern it."""
        self.errors = []

    def _take(self, level: int, raw: bytes | None, _data: int | None) -> None:
        text = (raw or b"").decode("utf-8", "replace")
        with self._lock:
            if level != _LEVEL_CONTINUED:
                self._level = level
            if self._level == _LEVEL_DEBUG:
                return
            if level == _LEVEL_ERROR and len(self.errors) < 100:
                self.errors.append(text.strip())
            if self.kept is not None and len(self.kept) < 20_000:
                self.kept.append(text)
            self._write(text)

    def _write(self, text: str) -> None:
        if self._written > _LONGEST_LOG:
            return
        self._written += len(text)
        if self._written > _LONGEST_LOG:
            text = "\n(the log is cut off here: it has reached 8 MiB)\n"
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._written = _LONGEST_LOG + 1


@dataclass(frozen=True)
class ContextOptions:
    """What a context is for: sizes in tokens, `embeddings` instead of logits, a callback on each node of the graph.

    `n_seq` texts share `n_ctx` evenly.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq: int = 1
    embeddings: bool = False
    cb_eval: Any = None


class Engine:
    """One loaded model and, once `open` was called, one context with a record of the tokens in its KV cache."""

    def __init__(self, log: Log, life: Life) -> None:
        self.log = log
        self.life = life
        self.model: Any = None
        self.vocab: Any = None
        self.ctx: Any = None
        self.memory: Any = None
        self.settings = LoadSettings()
        self.cached: list[int] = []
        self.conversation = Conversation()
        # Kept alive as long as llama.cpp may call them.
        self._ask_abort = lib.ggml_abort_callback(self._abort)
        self._cb_eval: Any = None
        self._abortable = False

    # -- loading ---------------------------------------------------------------------------------------------------

    def load(self, path: str, settings: LoadSettings, progress: Callable[[float], None]) -> None:
        """Load the weights. `Stopped` on cancel, `Refused` with llama.cpp's errors."""
        self.settings = settings
        params = lib.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        params.use_extra_bufts = settings.repack
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if settings.memory_map else lib.LLAMA_LOAD_MODE_NONE

        def on_progress(fraction: float, _data: int | None) -> bool:
            self.life.sign()
            progress(fraction)
            return not self.life.cancelled

        callback = lib.llama_progress_callback(on_progress)
        params.progress_callback = callback
        self.model = lib.llama_model_load_from_file(path.encode("utf-8", "surrogateescape"), params)
        if not self.model:
            self.model = None
            if self.life.cancelled:
                raise Stopped
            raise Refused(self.log.reason("llama.cpp gives no reason"), "engine")
        self.vocab = lib.llama_model_get_vocab(self.model)

    def open(self, options: ContextOptions) -> None:
        """Make the context; an earlier one is freed first."""
        self.close_context()
        settings = self.settings
        params = lib.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_batch = options.n_batch
        params.n_ubatch = options.n_ubatch
        params.n_seq_max = options.n_seq
        params.n_threads, params.n_threads_batch = self.threads, self.prompt_threads
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.flash_attn_type = _FLASH[settings.flash_attention]
        params.embeddings = options.embeddings
        params.swa_full = False
        params.no_perf = True
        self._abortable = False
        self._cb_eval = options.cb_eval
        if options.cb_eval is not None:
            params.cb_eval = options.cb_eval
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            self.ctx = None
            raise Refused(self.log.reason("the context could not be made"), "engine")
        self.memory = lib.llama_get_memory(self.ctx)
        self.cached = []

    def _allow_abort(self, wanted: bool) -> None:
        """Let prompts be stopped half-way; asked at every node of the graph, which would slow down single tokens."""
        if wanted != self._abortable:
            self._abortable = wanted
            lib.llama_set_abort_callback(self.ctx, self._ask_abort if wanted else _NO_ABORT, None)

    def _abort(self, _data: int | None) -> bool:
        self.life.sign()
        return self.life.cancelled

    def close_context(self) -> None:
        """Free the context, if there is one."""
        if self.ctx is not None:
            lib.llama_free(self.ctx)
            self.ctx = self.memory = None
            self.cached = []

    @property
    def threads(self) -> int:
        """Threads that compute single tokens."""
        return self.settings.threads or default_threads()

    @property
    def prompt_threads(self) -> int:
        """Threads that compute many tokens at once."""
        return self.settings.prompt_threads or self.threads

    # -- facts -----------------------------------------------------------------------------------------------------

    def metadata(self, key: str) -> str:
        """A metadata value as text, empty if there is none."""
        buffer = ctypes.create_string_buffer(4096)
        length = lib.llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    @property
    def description(self) -> str:
        """Such as "llama 8B Q4_K - Medium"."""
        buffer = ctypes.create_string_buffer(512)
        lib.llama_model_desc(self.model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return int(lib.llama_vocab_n_tokens(self.vocab))

    @property
    def n_ctx(self) -> int:
        """Size of the context in tokens."""
        return int(lib.llama_n_ctx(self.ctx))

    @property
    def has_vocab(self) -> bool:
        """False for models that take token ids from elsewhere."""
        return bool(lib.llama_vocab_type(self.vocab) != lib.LLAMA_VOCAB_TYPE_NONE)

    @property
    def is_encoder_decoder(self) -> bool:
        """True for the T5 family."""
        return bool(lib.llama_model_has_encoder(self.model) and lib.llama_model_has_decoder(self.model))

    # -- tokens ----------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; `add_special` adds BOS and EOS where wanted, `parse_special` reads markers."""
        if not self.has_vocab:
            raise Refused("the model has no vocabulary")
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        for _ in range(2):
            ids = (lib.llama_token * room)()
            n = lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, parse_special)
            if n >= 0:
                return list(ids[:n])
            room = -n
        raise Refused("the text could not be tokenized", "engine")

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token; control tokens are empty unless `special`."""
        room = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n
        return b""

    def marker(self, token: int) -> str:
        """The text of a special token, empty for none."""
        if token < 0 or not self.has_vocab:
            return ""
        return self.piece(token, special=True).decode("utf-8", "replace")

    @property
    def bos(self) -> int:
        """The token that begins a text, -1 for none."""
        return int(lib.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        """The token that ends a text, -1 for none."""
        return int(lib.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """True if texts of this vocabulary begin with BOS."""
        return bool(lib.llama_vocab_get_add_bos(self.vocab)) and self.bos >= 0

    def ends_answer(self, token: int) -> bool:
        """True for tokens that end a generation."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    # -- computing -------------------------------------------------------------------------------------------------

    def feed(self, tokens: Sequence[int]) -> int:
        """Bring the KV cache to exactly `tokens`, reusing the longest common beginning, and compute the last logits.

        Returns how many were reused. `ContextFull` if they do not fit, `Stopped` on cancel: what is finished stays.
        """
        if len(tokens) > self.n_ctx:
            raise ContextFull
        reused = self._rewind(tokens)
        step = int(lib.llama_n_batch(self.ctx))
        for first in range(reused, len(tokens), step):
            self._decode(tokens[first : first + step])
        return reused

    def append(self, token: int) -> None:
        """One more token into the context; its logits are next."""
        if len(self.cached) >= self.n_ctx:
            raise ContextFull
        self._decode([token])

    def _rewind(self, tokens: Sequence[int]) -> int:
        """Cut the cache back to what it shares with `tokens`, less the last one, whose logits are wanted again."""
        shared = 0
        for ours, theirs in zip(self.cached, tokens[:-1], strict=False):
            if ours != theirs:
                break
            shared += 1
        if shared == len(self.cached):
            return shared
        if not self._window_reaches(shared) or not lib.llama_memory_seq_rm(self.memory, 0, shared, -1):
            # Recurrent states cannot be cut, sliding windows have forgotten: begin again.
            self.forget()
            return 0
        del self.cached[shared:]
        return shared

    def _window_reaches(self, position: int) -> bool:
        window = int(lib.llama_model_n_swa(self.model))
        return window <= 0 or lib.llama_memory_seq_pos_min(self.memory, 0) <= max(0, position - window)

    def forget(self) -> None:
        """Empty the context."""
        if self.memory:
            lib.llama_memory_clear(self.memory, True)
        self.cached = []

    def _decode(self, tokens: Sequence[int]) -> None:
        self.life.check()
        self._allow_abort(len(tokens) > 1)
        ids = (lib.llama_token * len(tokens))(*tokens)
        code = lib.llama_decode(self.ctx, lib.llama_batch_get_one(ids, len(tokens)))
        if code == 0:
            self.cached.extend(tokens)
            return
        finished = int(lib.llama_memory_seq_pos_max(self.memory, 0)) + 1 - len(self.cached)
        self.cached.extend(tokens[: max(0, finished)])
        if code == _ABORTED:
            raise Stopped
        if code == _NO_SLOT:
            raise ContextFull
        raise Refused(self.log.reason(f"llama_decode failed with code {code}"), "engine")

    def with_bos(self, tokens: list[int]) -> list[int]:
        """The tokens of a window, the first replaced by BOS where the vocabulary wants one, as llama.cpp's tools do."""
        return [self.bos, *tokens[1:]] if self.adds_bos else tokens

    def compute_at(self, position: int, texts: Sequence[Sequence[int]], first_output: int = 0) -> None:
        """Compute tokens of several texts from `position` on, with outputs from position `first_output` on.

        What is in the cache afterwards is not recorded: `forget` before anything else. `Stopped` on cancel.
        """
        n_tokens = sum(map(len, texts))
        batch = lib.llama_batch_init(n_tokens, 0, 1)
        try:
            places = ((text, i) for text, tokens in enumerate(texts) for i in range(len(tokens)))
            for slot, (text, i) in enumerate(places):
                batch.token[slot] = texts[text][i]
                batch.pos[slot] = position + i
                batch.n_seq_id[slot] = 1
                batch.seq_id[slot][0] = text
                batch.logits[slot] = position + i >= first_output
            batch.n_tokens = n_tokens
            self.life.check()
            # A callback on the nodes can stop the graph itself; asking a second time at each costs a twentieth.
            self._allow_abort(self._cb_eval is None)
            code = lib.llama_decode(self.ctx, batch)
        finally:
            lib.llama_batch_free(batch)
        if code == _ABORTED or self.life.cancelled:  # a callback that stops the graph leaves no code
            raise Stopped
        if code != 0:
            raise Refused(self.log.reason(f"llama_decode failed with code {code}"), "engine")

    def logits(self, index: int = -1) -> npt.NDArray[np.float32]:
        """Logits (n_vocab,) of an output of the last batch, a view that the next batch overwrites."""
        return _floats(lib.llama_get_logits_ith(self.ctx, index), (self.n_vocab,))

    def all_logits(self, n: int) -> npt.NDArray[np.float32]:
        """Logits (n, n_vocab) of all `n` outputs of the last batch, a view that the next batch overwrites."""
        return _floats(lib.llama_get_logits(self.ctx), (n, self.n_vocab))

    def check_logits(self) -> None:
        """`Refused` if the last logits hold NaN, or no finite value to choose from."""
        highest = float(self.logits().max())
        if not math.isfinite(highest):
            raise Refused(
                "it computes values that are not numbers (NaN), so its weights are damaged or were quantized badly"
            )


def _floats(address: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    # Imported while the model loads, by the service that comes next; see `child`.
    import numpy as np

    return np.ctypeslib.as_array(address, shape)


def stderr_stream() -> TextIO:
    """fd 2 as UTF-8 text that never fails on a character."""
    return open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def now() -> float:
    """Seconds on a clock that only goes forward."""
    return time.perf_counter()
