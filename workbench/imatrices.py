"""Importance matrices that are at hand for a model: made here, or lying beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import QuantdeckError
from .files import sha256
from .imatrix import ImatrixFile
from .library import Entry
from .model import Model
from .text import printable

_SUFFIXES = (".gguf", ".dat", ".imatrix")
_MOST_LOOKED_AT = 200


@dataclass(frozen=True)
class Found:
    """An importance matrix that fits a model, made on `text`; it covers `covered` weights."""

    path: Path
    text: str
    chunks: int
    covered: int

    @property
    def words(self) -> str:
        """In a line."""
        on = f", from {printable(Path(self.text).name)}" if self.text else ""
        return f"{printable(self.path.name)} ({self.chunks} chunks{on})"


def home_of(folder: Path, model: Path, corpus: Path) -> Path:
    """Where the importance matrix of a model on a text goes in `folder`: a name made of both.

    The first digits of the text's hash tell apart texts of one name.
    """
    return folder / f"{model.stem}-{corpus.stem}-{sha256(corpus)[:8]}.imatrix.gguf"


def find(model: Model, folder: Path, entries: Iterable[Entry] = ()) -> tuple[Found, ...]:
    """Matrices in `folder`, beside the model, and used by library entries, that cover weights of `model`; no error.

    Those made here for this model come first, then the others by name.
    """
    beside = [p for p in _listed(model.path.parent) if "imatrix" in p.name.lower() or p.suffix != ".gguf"]
    used = [Path(entry.imatrix) for entry in entries if entry.imatrix and Path(entry.source) == model.path]
    own = sorted(_listed(folder), key=lambda p: (not p.name.startswith(model.path.stem), p.name))
    candidates = dict.fromkeys([*own, *used, *beside])
    found = (_look(path, model) for path in list(candidates)[:_MOST_LOOKED_AT])
    return tuple(each for each in found if each)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and not p.name.startswith("."))
    except OSError:
        return []


def _look(path: Path, model: Model) -> Found | None:
    """A matrix whose names and row lengths are the model's, None for everything else."""
    try:
        file = ImatrixFile(path)
        shared = sorted(file.names & model.by_name.keys())
        if not shared or file.weights_for(model.by_name[shared[0]]) is None:
            return None
    except (QuantdeckError, OSError):
        return None
    return Found(path, file.datasets[0] if file.datasets else "", file.chunk_count, len(shared))
