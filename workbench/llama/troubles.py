"""What went wrong in llama.cpp, in one sentence: its log and its exit, translated by `troubles.toml`."""

from __future__ import annotations

import re
import signal as signals
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from ..errors import BadArgument, NotEnoughMemory, QuantdeckError, ValidationFailed
from ..text import printable

_LONGEST_REASON = 300


class LlamaFailed(QuantdeckError):
    """llama.cpp refused, or could not do, what was asked. `log` is what it said, if it got that far."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence if log is None else f"{sentence} (log: {log})")
        self.log = log


class LlamaCrashed(LlamaFailed):
    """The child process died or had to be ended; another model can be loaded at once."""


class Cancelled(LlamaFailed):
    """The user stopped it."""


class LoadCancelled(Cancelled):
    """The user stopped the loading."""


class NoMemory(LlamaCrashed, NotEnoughMemory):
    """llama.cpp ran out of memory."""


class BadModel(LlamaCrashed, ValidationFailed):
    """llama.cpp shows that the model file is damaged, hostile or of the wrong kind."""


class SenselessRequest(LlamaFailed, BadArgument):
    """What was asked for makes no sense with this model and this text."""


class DiskFull(LlamaFailed):
    """A disk had no room for what was computed."""


_IN_OUR_WORDS: Mapping[str, type[LlamaFailed]] = MappingProxyType(
    {"told": LlamaFailed, "argument": SenselessRequest, "space": DiskFull}
)


@dataclass(frozen=True)
class Trouble:
    """A known trouble: what it means and what to do, both parts of a sentence."""

    kind: str
    means: str
    do: str

    def failure(self, what: str, log: Path | None) -> LlamaFailed:
        """The error to raise; `what` begins the sentence ("x.gguf could not be loaded")."""
        kinds: dict[str, type[LlamaFailed]] = {"memory": NoMemory, "file": BadModel}
        return kinds.get(self.kind, LlamaCrashed)(f"{what}: {self.means}; {self.do}", log)


@dataclass(frozen=True)
class _Table:
    troubles: tuple[tuple[re.Pattern[str], Trouble], ...]
    signals: dict[str, Trouble]
    harmless: tuple[tuple[re.Pattern[str], str], ...]


@lru_cache(maxsize=1)
def _table() -> _Table:
    from importlib.resources import files

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    data = tomllib.loads(files(__package__).joinpath("troubles.toml").read_text("utf-8"))
    return _Table(
        troubles=tuple((re.compile(t["pattern"]), Trouble(t["kind"], t["means"], t["do"])) for t in data["trouble"]),
        signals={s["name"]: Trouble(s["kind"], s["means"], s["do"]) for s in data["signal"]},
        harmless=tuple((re.compile(h["pattern"]), h["means"]) for h in data["harmless"]),
    )


def known_trouble(log_text: str) -> Trouble | None:
    """The first known trouble in a log."""
    for pattern, trouble in _table().troubles:
        if found := pattern.search(log_text):
            words = [printable(group) for group in found.groups() if group is not None]
            words += ["what it needs"] * 2
            return Trouble(trouble.kind, trouble.means.format(*words), trouble.do.format(*words))
    return None


def harmless_lines(log_text: str) -> tuple[tuple[str, str], ...]:
    """Lines that look alarming and are not, each kind once, with what they mean."""
    found: dict[str, str] = {}
    for line in log_text.splitlines():
        for pattern, means in _table().harmless:
            if means not in found.values() and pattern.search(line):
                found[printable(line.strip())] = means
    return tuple(found.items())


def explain_failure(what: str, reason: str, kind: str, log: Path) -> LlamaFailed:
    """The child said no and lives. Our own words (`wire.FailureKind`) say all; llama.cpp's are translated if known."""
    words = printable(reason.strip().split("\n")[0])
    if known := _IN_OUR_WORDS.get(kind):
        return known(f"{what}: {words[:_LONGEST_REASON]}")
    if trouble := known_trouble(reason):
        return trouble.failure(what, log)
    # The first line is the most telling one; llama.cpp begins it with the name of a function.
    without_function = re.sub(r"^\w+: (?=\S)", "", words)
    return LlamaFailed(f"{what}: {without_function[:_LONGEST_REASON]}", log)


def explain_death(what: str, return_code: int | None, log: Path, log_text: str) -> LlamaFailed:
    """The child is gone: the log's own reason first, then the signal, then the bare code."""
    name = _signal_name(return_code)
    told = known_trouble(log_text) if name != "SIGKILL" else None
    if trouble := told or _table().signals.get(name):
        return trouble.failure(what, log)
    how = f"on {name}" if name else f"with exit code {return_code}"
    return LlamaCrashed(f"{what}: llama.cpp's process ended {how}; load the model again", log)


def _signal_name(return_code: int | None) -> str:
    if return_code is None or return_code >= 0:
        return ""
    try:
        return signals.Signals(-return_code).name
    except ValueError:
        return f"signal {-return_code}"
