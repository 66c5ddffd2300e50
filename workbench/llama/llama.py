"""A model loaded in a child process: load, chat, cancel, close."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import BadArgument, ModelNotFound
from ..text import printable
from .contract import Buffer, ChatDone, ChatEvent, LoadSettings, Message, ModelInfo, Sampling, TextPiece
from .host import Child, Patience
from .troubles import LlamaFailed, LoadCancelled
from .wire import Line

_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_LARGEST_CONTEXT = 1 << 24
_GRACE = 0.5  # seconds: weights are dropped at once, but making a large context cannot be interrupted


class Llama:
    """A loaded model. Use as a context manager; `cancel` and `close` work from any thread, the rest one at a time.

    Every method raises `LlamaFailed` (a `QuantdeckError`) with one sentence when llama.cpp refuses, hangs or dies.
    """

    def __init__(self, path: Path, child: Child, info: ModelInfo) -> None:
        self.path = path
        self.info = info
        self._child = child

    @classmethod
    def load(
        cls,
        path: Path,
        settings: LoadSettings,
        log_folder: Path,
        on_progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        patience: Patience | None = None,
        child: Child | None = None,
    ) -> Llama:
        """Load the model at `path` in a child of its own, or in `child`, which has none yet; blocks.

        `on_progress` hears fractions from 0 to 1; `cancelled` is asked 20 times a second; True ends in `LoadCancelled`.
        """
        child, facts = start(path, settings, log_folder, on_progress, cancelled, patience, "chat", child)
        return cls(path, child, model_info(facts))

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> Path:
        """What llama.cpp said."""
        return self._child.log

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """False once the child has ended, for whatever reason."""
        return self._child.alive

    def chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, max_tokens: int = 0
    ) -> Iterator[ChatEvent]:
        """The assistant's next turn: `TextPiece`s, then one `ChatDone`. `max_tokens` 0 goes on until the model stops.

        What the conversation shares with the last one stays in the KV cache. Dropping the iterator stops the answer.
        """
        if not self.info.can_chat:
            raise BadArgument(self.info.why_not)
        if not messages:
            raise BadArgument("There is no message to answer.")
        check_sampling(sampling)
        turns = [{"role": m["role"], "content": m["content"]} for m in messages]
        return self._stream("chat", messages=turns, sampling=asdict(sampling or Sampling()), max_tokens=max_tokens)

    def complete(self, prompt: str, sampling: Sampling | None = None, max_tokens: int = 0) -> Iterator[ChatEvent]:
        """Go on from raw text, without a template; events as in `chat`."""
        check_sampling(sampling)
        return self._stream("complete", prompt=prompt, sampling=asdict(sampling or Sampling()), max_tokens=max_tokens)

    def tokenize(self, text: str, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`; `add_special` adds BOS and EOS where wanted, `parse_special` reads markers."""
        done = last(
            self._child.request(
                f"{self.path.name} cannot tokenize this text",
                "tokenize",
                text=text,
                add_special=add_special,
                parse_special=parse_special,
            )
        )
        return [int(token) for token in done["tokens"]]

    def cancel(self) -> None:
        """Stop the running answer at the next token, or within its prompt. Harmless when nothing runs."""
        self._child.cancel()

    def close(self) -> None:
        """End the child and free its memory. Harmless when called twice."""
        self._child.close()

    def _stream(self, do: str, **arguments: Any) -> Iterator[ChatEvent]:
        for line in self._child.request(f"{self.path.name} stopped answering", do, **arguments):
            if line["event"] == "text":
                yield TextPiece(printable(str(line["text"])))
            elif line["event"] == "done":
                fields = {key: value for key, value in line.items() if key not in ("id", "event")}
                yield ChatDone(**{**fields, "notice": printable(fields["notice"])})


def start(
    path: Path,
    settings: LoadSettings,
    log_folder: Path,
    on_progress: Callable[[float], None] | None,
    cancelled: Callable[[], bool] | None,
    patience: Patience | None,
    service: str,
    child: Child | None = None,
) -> tuple[Child, Line]:
    """A child with the model loaded, and the facts it reports; `child` is one without a model that is there already.

    `service` is what it will be asked for; a context is made for chats alone, the others make their own.
    The child is gone again if anything is raised.
    """
    check(path, settings)
    what = f"{printable(path.name)} could not be loaded"
    child = child or Child(log_folder, patience, service, settings.threads)
    watch = Watch(cancelled, child)
    try:
        done: Line = {}
        with watch:
            request = child.request(
                what, "load", path=str(path.absolute()), settings=asdict(settings), with_context=service == "chat"
            )
            for line in request:
                if line["event"] == "progress" and on_progress is not None:
                    on_progress(float(line["fraction"]))
                done = line
    except BaseException as error:
        child.close()
        if watch.heard and isinstance(error, LlamaFailed):
            raise LoadCancelled(f"Loading {printable(path.name)} was stopped.") from None
        raise
    if done.get("cancelled"):
        child.close()
        raise LoadCancelled(f"Loading {printable(path.name)} was stopped.")
    return child, done


def check(path: Path, settings: LoadSettings) -> None:
    """Refuse in words what would only fail inside llama.cpp."""
    if not path.exists():
        raise ModelNotFound(f"There is no file {path}; check the name.")
    if path.is_dir():
        raise BadArgument(f"{path} is a folder; name the GGUF file in it.")
    if settings.kv_type not in _KV_TYPES:
        raise BadArgument(f"{settings.kv_type} is no KV cache type; choose one of {', '.join(_KV_TYPES)}.")
    if not 0 <= settings.context <= _LARGEST_CONTEXT:
        raise BadArgument(f"A context of {settings.context} tokens is not possible; choose 0 to {_LARGEST_CONTEXT}.")
    if settings.threads is not None and not 1 <= settings.threads <= 512:
        raise BadArgument(f"{settings.threads} threads are not possible; choose 1 to 512.")


def check_sampling(sampling: Sampling | None) -> None:
    """Refuse sampling settings that llama.cpp would stop itself over, or that mean nothing."""
    if sampling is None:
        return
    numbers = (sampling.temperature, sampling.top_p, sampling.min_p, sampling.repeat_penalty)
    if not all(math.isfinite(number) for number in numbers):
        raise BadArgument("Sampling settings must be finite numbers.")
    if sampling.temperature < 0 or sampling.top_k < 0 or sampling.repeat_penalty <= 0:
        raise BadArgument("Temperature and top-k must be at least 0, and the repeat penalty more than 0.")
    if not (0 <= sampling.top_p <= 1 and 0 <= sampling.min_p <= 1):
        raise BadArgument("Top-p and min-p must be between 0 and 1.")


def last(lines: Iterator[Line]) -> Line:
    """The closing line of a request, earlier ones dropped."""
    line: Line = {}
    for line in lines:  # noqa: B007
        pass
    return line


def model_info(facts: Line) -> ModelInfo:
    """`ModelInfo` from the child's report, its texts made harmless."""
    fields = {key: value for key, value in facts.items() if key not in ("id", "event")}
    for key in ("name", "architecture", "description", "why_not", "template_notice"):
        fields[key] = printable(fields[key])
    fields["buffers"] = tuple(Buffer(b["kind"], printable(b["device"]), b["n_bytes"]) for b in fields["buffers"])
    fields["notices"] = tuple(printable(notice) for notice in fields["notices"])
    fields["alarms"] = tuple((printable(line), means) for line, means in fields["alarms"])
    return ModelInfo(**fields)


class Watch:
    """Asks `cancelled` while a model loads, and passes the wish on; ends the child if llama.cpp does not hear it."""

    def __init__(self, cancelled: Callable[[], bool] | None, child: Child) -> None:
        self._cancelled = cancelled
        self._child = child
        self._over = threading.Event()
        self.heard = False

    def __enter__(self) -> None:
        if self._cancelled is not None:
            threading.Thread(target=self._ask, name="llama-load-watch", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _ask(self) -> None:
        assert self._cancelled is not None
        while not self._over.wait(0.05):
            if self._cancelled():
                self.heard = True
                self._child.cancel()
                if not self._over.wait(_GRACE):
                    self._child.close()
                return
