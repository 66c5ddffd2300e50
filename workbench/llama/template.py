"""Chat templates: code from untrusted files, rendered in a sandbox with limits on time, memory and output.

Child process only. What these cannot stop (one endless operation in Python's C code) the parent's patience ends.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .conversation import TIME_LIMIT, TemplateFailed

T = TypeVar("T")

LONGEST_TEMPLATE = 1 << 20
LONGEST_OUTPUT = 8 << 20
MEMORY_LIMIT = 256 << 20
_LARGEST_NUMBER = 1 << 64


class _Generation(Extension):
    """`{% generation %}` marks what training learns from; rendering passes its content through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(left) > 1 << 20 or abs(right) > 64):
            raise SecurityError("a power that large is not computed")
        if operator == "*" and isinstance(left, int) and isinstance(right, int):
            if max(abs(left), abs(right)) > _LARGEST_NUMBER:
                raise SecurityError("numbers that large are not multiplied")
        elif (
            operator == "*" and len(left if hasattr(left, "__len__") else right) * _factor(left, right) > LONGEST_OUTPUT
        ):
            raise SecurityError("a text or list that long is not made")
        return super().call_binop(context, operator, left, right)


def _factor(left: Any, right: Any) -> int:
    return max((abs(value) for value in (left, right) if isinstance(value, int)), default=0)


class ChatTemplate:
    """A compiled template with the special tokens that templates ask for."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise TemplateFailed("is longer than 1 MiB")
        self._globals = {"bos_token": bos_token, "eos_token": eos_token}
        self._template = _limited(lambda: _environment().from_string(source))

    def render(self, messages: Sequence[Mapping[str, Any]], answer: bool = True) -> str:
        """The conversation as text, ready for the assistant to go on if `answer`.

        A system turn that the template refuses or drops is folded into the first user turn.
        """
        try:
            text = self._render(messages, answer)
        except TemplateFailed:
            if not _has_system(messages):
                raise
            return self._render(fold_system(messages), answer)
        if _has_system(messages) and messages[0]["content"].strip() not in text:
            with contextlib.suppress(TemplateFailed):
                return self._render(fold_system(messages), answer)
        return text

    def _render(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
        variables = {"messages": [dict(m) for m in messages], "add_generation_prompt": answer, **self._globals}
        return _limited(lambda: self._write(variables))

    def _write(self, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            length += len(piece)
            if length > LONGEST_OUTPUT:
                raise TemplateFailed("writes without end")
            pieces.append(piece)
        return "".join(pieces)


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Conversation without a system turn: its text goes before the first user turn's."""
    system, rest = messages[0]["content"], [dict(m) for m in messages[1:]]
    if rest and rest[0]["role"] == "user":
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
        return rest
    return [{"role": "user", "content": system}, *rest]


def _has_system(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[0]["role"] == "system" and bool(messages[0]["content"].strip())


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return time.strftime(layout[:200])


class _TooSlow(BaseException):
    pass


def _limited(action: Callable[[], T]) -> T:
    """Do it within time and memory limits where the system has them; every failure is a `TemplateFailed`."""
    try:
        with _time_limit(), _memory_limit():
            return _watched(action)
    except TemplateFailed:
        raise
    except _TooSlow:
        raise TemplateFailed(f"did not finish within {TIME_LIMIT:.0f} seconds") from None
    except MemoryError:
        raise TemplateFailed("takes more memory than is allowed") from None
    except RecursionError:
        raise TemplateFailed("is nested too deeply") from None
    except Exception as error:
        raise TemplateFailed(f"fails: {str(error)[:200] or type(error).__name__}") from None


def _watched(action: Callable[[], T]) -> T:
    """What is under this frame may be stopped by an alarm, nothing else."""
    return action()


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return

    def too_slow(_number: int, frame: FrameType | None) -> None:
        # Outside of the template's code an alarm would stop the clearing up, and leave limits standing.
        while frame is not None:
            if frame.f_code is _watched.__code__:
                raise _TooSlow
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, too_slow)
    # Repeated, since a template's own error handling could swallow the first one.
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = in_use + MEMORY_LIMIT
    for bound in (soft, hard):
        if bound != resource.RLIM_INFINITY:
            limit = min(limit, bound)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
