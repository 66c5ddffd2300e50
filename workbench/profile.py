"""The profile: one TOML file that holds what was found out about the machine and what the user chose.

Reading never fails: whatever is wrong becomes a message. Writing touches only what changed, so comments, order and
unknown keys stay; a file that cannot be understood is set aside, never overwritten.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .files import locked, write_atomically
from .hardware import Bandwidth, Hardware
from .tables import Wrong, from_table, to_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = 1
# Migration n turns a table of schema n into one of schema n + 1, in place; the first schema is 1.
MIGRATIONS: Sequence[Callable[[MutableMapping[str, Any]], None]] = ()

_MOST_RECENT = 20
_LARGEST_FILE = 4 << 20
_LOCK_SECONDS = 5.0

Answer = str | bool | int | float
Change = Callable[["Profile"], "Profile"]


@dataclass(frozen=True)
class ChosenPaths:
    """Folders that the user chose; "" is our own folder."""

    output: str = ""
    models: tuple[str, ...] = ()
    last_opened: str = ""


@dataclass(frozen=True)
class ChatSettings:
    """How to chat; the names and meanings of llama.cpp's samplers.

    `seed` None draws one each time. `context` in tokens, 0 for the model's own as far as it fits. `repeat_penalty` 1
    is none, `top_k` 0 and `top_p` 1 are off. `threads` 0 lets us choose.
    """

    system_prompt: str = ""
    temperature: float = field(default=0.8, metadata={"least": 0, "most": 10})
    top_p: float = field(default=0.95, metadata={"least": 0, "most": 1})
    top_k: int = field(default=40, metadata={"least": 0, "most": 1_000_000})
    min_p: float = field(default=0.05, metadata={"least": 0, "most": 1})
    repeat_penalty: float = field(default=1.0, metadata={"least": 0.01, "most": 10})
    seed: int | None = field(default=None, metadata={"least": 0, "most": 2**32 - 2})
    max_tokens: int = field(default=1024, metadata={"least": 1, "most": 10_000_000})
    context: int = field(default=0, metadata={"least": 0, "most": 100_000_000})
    threads: int = field(default=0, metadata={"least": 0, "most": 4096})


@dataclass(frozen=True)
class Profile:
    """Everything that is remembered between two starts.

    `wizard` holds answers by question, `keys` key names by the id of a binding, `corrections` what was learned on this
    machine by name (efficiencies, and bytes of the program itself), `recent_models` paths, the latest first.
    """

    theme: str = ""
    recent_models: tuple[str, ...] = ()
    paths: ChosenPaths = ChosenPaths()
    chat: ChatSettings = ChatSettings()
    wizard: Mapping[str, Answer] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    corrections: Mapping[str, float] = field(default_factory=dict)
    bandwidth: Bandwidth | None = None
    hardware: Hardware | None = None

    def with_recent(self, model: str) -> Profile:
        """The same with `model` as the latest one; only the last 20 are remembered."""
        others = tuple(path for path in self.recent_models if path != model)
        return replace(self, recent_models=(model, *others)[:_MOST_RECENT])


@dataclass(frozen=True)
class ProfileResult:
    """A profile, and sentences about what was wrong on the way. `saved` is False if something is not on disk."""

    profile: Profile
    messages: tuple[str, ...]
    saved: bool


@dataclass(frozen=True)
class _File:
    """What was found on disk: the text it was read from, None if there is none, and whether we may replace it."""

    profile: Profile
    text: str | None
    messages: tuple[str, ...]
    replaceable: bool


class ProfileStore:
    """The profile at `path`. Several programs may hold stores on one file; a store is for one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Top-level fields that could not be written; they hold until the program ends, or a later write succeeds.
        self._unsaved: dict[str, Any] = {}

    def read(self) -> ProfileResult:
        """The profile as it is now; defaults for whatever is missing or wrong. A broken file is set aside."""
        file = self._read(set_aside=False)
        if not file.replaceable:
            file = self._under_lock(lambda: self._read(set_aside=True)) or file
        return ProfileResult(replace(file.profile, **self._unsaved), file.messages, not self._unsaved)

    def update(self, change: Change) -> ProfileResult:
        """Read again, apply `change` and write, while no other program can; never raises for a disk that refuses.

        If nothing can be written, the changed profile is returned all the same, with a message, and is kept until this
        store is gone. Values that look like secrets are not taken over.
        """
        try:
            with self._lock():
                return self._update(self._read(set_aside=True), change)
        except OSError as error:
            reason = "another program holds its lock" if isinstance(error, TimeoutError) else _reason(error)
            return self._keep(self._read(set_aside=False), change, f"{self.path.name} cannot be saved: {reason}.")

    def _update(self, file: _File, change: Change) -> ProfileResult:
        old, new, refused = self._changed(file, change)
        messages = (*file.messages, *refused)
        if old == new and not (self._unsaved and file.replaceable):
            return ProfileResult(new, messages, not self._unsaved)
        if not file.replaceable:
            return self._keep(file, change, f"{self.path.name} is left as it is, so nothing is saved.")
        text = merged(file.text or "", file.profile, new)
        if text is None:
            return self._keep(file, change, f"{self.path.name} is laid out in a way that cannot be changed safely.")
        write_atomically(self.path, text.encode())
        self._unsaved.clear()
        return ProfileResult(new, messages, saved=True)

    def _changed(self, file: _File, change: Change) -> tuple[Profile, Profile, list[str]]:
        """The profile before and after the change, and a sentence for each field that keeps its old value."""
        old = replace(file.profile, **self._unsaved)
        new, refused = change(old), []
        for name in (each.name for each in fields(Profile)):
            before, after = getattr(old, name), getattr(new, name)
            reason = _refusal(name, after) if before != after else None
            if reason:
                new = replace(new, **{name: before})
                refused.append(f"{name} was not changed because {reason}.")
        return old, new, refused

    def _keep(self, file: _File, change: Change, message: str) -> ProfileResult:
        """Go on without saving: hold the changed fields in memory."""
        old, new, refused = self._changed(file, change)
        names = [each.name for each in fields(Profile) if getattr(old, each.name) != getattr(new, each.name)]
        self._unsaved |= {name: getattr(new, name) for name in names}
        return ProfileResult(new, (*file.messages, *refused, message), saved=False)

    def _read(self, *, set_aside: bool) -> _File:
        try:
            text = _text(self.path)
            if text is None:
                return _File(Profile(), None, (), replaceable=True)
            profile, messages, schema = parse(text)
        except (OSError, ValueError, RecursionError) as error:
            return self._broken(_reason(error), set_aside=set_aside)
        if schema > SCHEMA:
            newer = f"it was written by a newer Quantdeck (schema {schema}, this one knows {SCHEMA}) and is only read"
            return _File(profile, text, self._named(newer, *messages), replaceable=False)
        return _File(profile, text, self._named(*messages), replaceable=True)

    def _broken(self, reason: str, *, set_aside: bool) -> _File:
        """Defaults, and the file moved out of the way under a name that was free."""
        if not set_aside:
            return _File(Profile(), None, self._named(f"it cannot be read ({reason}); going on with defaults"), False)
        stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        aside = self.path.with_name(f"{self.path.name}.broken-{stamp}")
        number = 1
        while os.path.lexists(aside):
            number += 1
            aside = self.path.with_name(f"{self.path.name}.broken-{stamp}-{number}")
        try:
            self.path.rename(aside)
        except OSError as error:
            stuck = f"it cannot be read ({reason}) nor set aside ({_reason(error)}); going on with defaults"
            return _File(Profile(), None, self._named(stuck), replaceable=False)
        message = f"it could not be read ({reason}) and is now {aside.name}; going on with defaults"
        return _File(Profile(), None, self._named(message), replaceable=True)

    def _named(self, *messages: str) -> tuple[str, ...]:
        return tuple(f"{self.path.name}: {message}." for message in messages)

    def _under_lock(self, read: Callable[[], _File]) -> _File | None:
        try:
            with self._lock():
                return read()
        except OSError:
            return None

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self.path.with_name(f".{self.path.name}.lock"), _LOCK_SECONDS)


def parse(
    text: str, migrations: Sequence[Callable[[MutableMapping[str, Any]], None]] = MIGRATIONS
) -> tuple[Profile, list[str], int]:
    """(profile, what was wrong, schema of the file) from TOML; ValueError if it is no TOML at all."""
    table, problems = tomllib.loads(text), list[str]()
    schema = _migrate(table, migrations, problems)
    known = {key: value for key, value in table.items() if key != "schema"}
    try:
        profile = from_table(Profile, known, problems)
    except Wrong as wrong:
        raise ValueError(str(wrong)) from None
    return replace(profile, recent_models=profile.recent_models[:_MOST_RECENT]), problems, schema


def merged(
    text: str,
    old: Profile,
    new: Profile,
    migrations: Sequence[Callable[[MutableMapping[str, Any]], None]] = MIGRATIONS,
) -> str | None:
    """`text` with only those values changed in which `new` differs from `old`; None if that cannot be done exactly."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if "schema" not in document:
            document["schema"] = len(migrations) + 1
        _migrate(document, migrations, [])
        _merge(document, to_table(old), to_table(new), tomlkit.table)
        result = tomlkit.dumps(document)
        return result if parse(result, migrations)[0] == new else None
    except (TOMLKitError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _merge(
    target: MutableMapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], make: Callable[[], Any]
) -> None:
    for key in [key for key in old if key not in new]:
        target.pop(key, None)
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        if isinstance(value, Mapping):
            if not isinstance(target.get(key), MutableMapping):
                target[key] = make()
            _merge(target[key], old.get(key, {}), value, make)
        else:
            target[key] = value


def _migrate(
    table: MutableMapping[str, Any],
    migrations: Sequence[Callable[[MutableMapping[str, Any]], None]],
    problems: list[str],
) -> int:
    """Bring `table` up to the current schema; a table that names none was written by hand for the current one."""
    current = len(migrations) + 1
    schema = table.get("schema", current)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        problems.append(f"schema must be a whole number from 1 to {current}; taken as {current}")
        return current
    for migration in migrations[int(schema) - 1 :]:
        migration(table)
    if schema < current:
        table["schema"] = current
    return max(int(schema), current)


def _text(path: Path) -> str | None:
    """The file's text, None if there is no file; ValueError for what is no ordinary text file of sensible size."""
    try:
        # A pipe or a device could keep us waiting for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no file")
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return None
    if len(content) > _LARGEST_FILE:
        raise ValueError("it is larger than 4 MiB")
    return content.decode("utf-8-sig")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


# Tokens of services that people use beside us, keys of clouds, and addresses with a password in them.
_SECRET = re.compile(
    r"\b(hf|ghp|gho|ghs|ghu|npm)_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}|\b(glpat|pypi|xox[abpr])-[\w-]{20,}"
    r"|\bsk-(?=[\w-]*\d)[\w-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{10,}\.[\w-]{10,}|(?i:\bbearer\s+[\w.~+/-]{16,})"
    r"|://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SECRET_KEY = re.compile(r"(?i)(^|[_.-])(token|password|passwd|secret|api_?key|apikey|credentials?)s?($|[_.-])")


def _refusal(name: str, value: Any) -> str | None:
    """Why this value must not be written, if so."""
    for key, text in _strings(name, value if isinstance(value, Mapping) else to_table(Profile(**{name: value}))):
        if _SECRET.search(text) or _SECRET.search(key) or (len(text) >= 8 and _SECRET_KEY.search(key)):
            return "it looks like a secret, and secrets are never stored here"
        try:
            (key + text).encode()
        except UnicodeEncodeError:
            return "it holds characters that are not valid text"
    return None


def _strings(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """All (key, text) pairs in nested tables and lists."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(str(name), item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(key, item)
    else:
        yield key, value if isinstance(value, str) else ""
