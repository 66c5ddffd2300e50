"""Folders of work that goes on by itself: one each, with a journal and the lock of the process in charge."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .locks import is_held


@dataclass(frozen=True)
class WorkFolder:
    """The files that a quantization and a download have in common."""

    path: Path

    @property
    def id(self) -> str:
        """What users call it."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """What happened."""
        return self.path / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the process in charge as long as it lives."""
        return self.path / "lock"

    @property
    def is_alive(self) -> bool:
        """True if a process is in charge."""
        return is_held(self.lock)


def ids_in(root: Path) -> list[str]:
    """The ids of all folders, oldest first; none if there is no root."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def make_folder(root: Path, word: str = "") -> Path:
    """A new folder, named by the minute, a word and four random digits; OSError where none can be made."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        moment = datetime.datetime.now().strftime("%Y%m%d-%H%M")
        folder = root / "-".join(filter(None, (moment, word, secrets.token_hex(2))))
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
