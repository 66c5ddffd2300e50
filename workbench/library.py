"""The register of what was made: one JSON file for each model, named by the model's SHA-256."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import BadArgument, QuantdeckError
from .files import locked, write_atomically
from .tables import Wrong, from_table, to_table

SCHEMA = 1

_NAME = re.compile(r"[0-9a-f]{64}")
_LARGEST_FILE = 16 << 20
_LOCK_SECONDS = 10.0


class LibraryError(QuantdeckError):
    """The register cannot be read or written; the models themselves are not touched."""


@dataclass(frozen=True)
class Figure:
    """One measurement of a model: what kind ("perplexity", "kl_divergence" ...), its value, when, and how.

    `details` say what the value depends on: text, context, number of tokens, error bars.
    """

    kind: str
    value: float
    measured_at: str
    details: Mapping[str, str | bool | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class EntryFile:
    """One file of a model that is split."""

    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One model that we made.

    `path` is what is opened; where a model is split that is the first of its `files`, which are empty for one file.
    `sha256` is the hash of all files one after another, `n_bytes` the size of all. `source_fingerprint` tells whether
    the source is still the same; `ratio` is source bytes over own bytes; `seconds` is the work alone. `created_at` is
    ISO 8601. `recipe` is the request as plain data.
    `verification` is one sentence about what was checked, `verified` whether it went well; `notes` are sentences on
    what was made and on where llama.cpp computes otherwise than the original. `other_paths` are older
    places of the same bytes. `missing` and `changed` are found out when the register is read: a file is not there any
    more, or has another size.
    """

    sha256: str
    path: str
    source: str
    source_fingerprint: str
    architecture: str
    level: str
    n_bytes: int
    ratio: float
    bits_per_weight: float
    seconds: float
    created_at: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    imatrix: str = ""
    imatrix_sha256: str = ""
    verified: bool = False
    verification: str = ""
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    other_paths: tuple[str, ...] = ()
    files: tuple[EntryFile, ...] = ()
    missing: bool = field(default=False, metadata={"stored": False})
    changed: bool = field(default=False, metadata={"stored": False})

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name

    @property
    def all_files(self) -> tuple[EntryFile, ...]:
        """The model's files, also where it is a single one."""
        return self.files or (EntryFile(self.path, self.n_bytes, self.sha256),)


@dataclass(frozen=True)
class Listing:
    """All entries, the latest first, and one sentence for each file of the register that is damaged."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]


class Library:
    """The register in `folder`. Any number of programs may use it at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, entry: Entry) -> None:
        """Register a model; the same bytes again keep their figures, and remember their older places.

        LibraryError if it cannot be written.
        """
        with self._lock():
            before, raw = self._read_or_none(entry.sha256)
            if before:
                places = dict.fromkeys((before.path, *before.other_paths, *entry.other_paths))
                places.pop(entry.path, None)
                figures = dict.fromkeys(_frozen(figure) for figure in before.figures)
                new = [figure for figure in entry.figures if _frozen(figure) not in figures]
                entry = replace(entry, other_paths=tuple(places), figures=(*before.figures, *new))
            self._write(entry, raw)

    def entries(self) -> Listing:
        """Everything that is registered; a damaged file is reported and passed over. LibraryError for the folder."""
        entries, problems = [], list[str]()
        for file in self._files():
            try:
                entries.append(_marked(self._read(file, problems)[0]))
            except FileNotFoundError:
                continue  # somebody removed it just now
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"{file.name} in the library is damaged: {_reason(error)}.")
        entries.sort(key=lambda entry: (entry.created_at, entry.sha256), reverse=True)
        return Listing(tuple(entries), tuple(problems))

    def get(self, sha256: str) -> Entry | None:
        """The entry with this hash, None if there is none; LibraryError if it is damaged."""
        entry, _ = self._read_or_none(sha256)
        return _marked(entry) if entry else None

    def find(self, path: Path) -> Entry | None:
        """The latest entry whose model lies, or lay, at `path`."""
        wanted = os.path.realpath(path)
        places = ((entry, (entry.path, *entry.other_paths)) for entry in self.entries().entries)
        return next((entry for entry, known in places if wanted in map(os.path.realpath, known)), None)

    def add_figures(self, sha256: str, *figures: Figure) -> Entry:
        """Add measurements and give the new entry; BadArgument if there is no such model, LibraryError as above."""
        with self._lock():
            entry, raw = self._read_or_none(sha256)
            if entry is None:
                raise BadArgument(f"There is no model {sha256[:12]} in the library.")
            entry = replace(entry, figures=(*entry.figures, *figures))
            self._write(entry, raw)
        return _marked(entry)

    def remove(self, sha256: str) -> bool:
        """Forget a model, and leave its file alone; False if it was not registered."""
        with self._lock():
            try:
                self._file(sha256).unlink()
            except FileNotFoundError:
                return False
            return True

    def _file(self, sha256: str) -> Path:
        if not _NAME.fullmatch(sha256):
            raise BadArgument("A model of the library is named by the 64 hexadecimal digits of its SHA-256.")
        return self.folder / f"{sha256}.json"

    def _files(self) -> list[Path]:
        try:
            with os.scandir(self.folder) as found:
                return [Path(file) for file in found if _NAME.fullmatch(file.name.removesuffix(".json"))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LibraryError(f"The library {self.folder} cannot be read: {error.strerror}.") from None

    def _read_or_none(self, sha256: str) -> tuple[Entry | None, dict[str, Any]]:
        """The entry and everything that its file holds; (None, {}) without a file."""
        file = self._file(sha256)
        try:
            return self._read(file, [])
        except FileNotFoundError:
            return None, {}
        except (OSError, ValueError, RecursionError) as error:
            raise LibraryError(f"{file} is damaged ({_reason(error)}); move it away to go on.") from None

    @staticmethod
    def _read(file: Path, problems: list[str]) -> tuple[Entry, dict[str, Any]]:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
            raise ValueError("it is no file of ours")
        raw = json.loads(file.read_bytes())
        if not isinstance(raw, dict):
            raise Wrong("it holds no object")
        wrong: list[str] = []
        try:
            entry = from_table(Entry, {key: value for key, value in raw.items() if key != "schema"}, wrong)
        except Wrong as error:
            raise ValueError(f"it must be {error}") from None
        if entry.sha256 != file.stem:
            raise ValueError("its name is not the hash that it holds")
        problems.extend(f"{file.name} in the library: {sentence}." for sentence in wrong)
        return entry, raw

    def _write(self, entry: Entry, raw: dict[str, Any]) -> None:
        """Write the entry over `raw`, so that keys which only others know stay."""
        schema = raw.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise LibraryError(f"{entry.sha256[:12]} was registered by a newer Quantdeck; this one cannot change it.")
        try:
            content = json.dumps({**raw, "schema": SCHEMA, **to_table(entry)}, indent=1, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise BadArgument(f"This cannot be registered: {error}.") from None
        write_atomically(self._file(entry.sha256), content.encode())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with locked(self.folder / ".lock", _LOCK_SECONDS):
                yield
        except TimeoutError:
            raise LibraryError(f"The library {self.folder} is locked by another program; try again.") from None
        except OSError as error:
            raise LibraryError(f"The library {self.folder} cannot be written: {_reason(error)}.") from None


def _marked(entry: Entry) -> Entry:
    """The entry with what its file looks like now."""
    try:
        sizes = [Path(file.path).stat().st_size for file in entry.all_files]
    except (OSError, ValueError):
        return replace(entry, missing=True)
    return replace(entry, changed=sizes != [file.n_bytes for file in entry.all_files])


def _frozen(figure: Figure) -> tuple[Any, ...]:
    return figure.kind, figure.value, figure.measured_at, tuple(sorted(figure.details.items()))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
