"""Giving the verified files of a job their final names.

Several renames are not one step, so they go in an order that may be cut off anywhere: an older model of the same name
loses its first file, then the new files get their names, and the first one, which everybody opens, is the last. While
it is missing nothing looks like a finished model. A later run finishes that, or takes it back if a file was damaged
meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..files import sha256, sync_folder
from .plan import Plan
from .spec import JobSpec


@dataclass(frozen=True)
class _File:
    """One file of a job that was verified."""

    partial: Path
    output: Path
    n_bytes: int
    sha256: str

    def lies_at(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == self.n_bytes and sha256(path) == self.sha256


class Publication:
    """The files of a job on their way to their final names. `hashes` are theirs, none if they are not verified yet."""

    def __init__(self, spec: JobSpec, plan: Plan, hashes: Sequence[str]) -> None:
        self.spec = spec
        sizes = [file.n_bytes for file in plan.files]
        rows = zip(spec.partials, spec.outputs, sizes, hashes, strict=True) if hashes else ()
        self.files = [_File(*row) for row in rows]

    @property
    def waiting(self) -> tuple[Path, ...]:
        """Final names that files still wait for."""
        pairs = zip(self.spec.partials, self.spec.outputs, strict=True)
        return tuple(output for partial, output in pairs if partial.exists())

    @cached_property
    def renamed(self) -> list[_File]:
        """The files that an earlier run gave their names, by their hashes, so that nobody else's is taken for ours."""
        return [file for file in self.files if not file.partial.exists() and file.lies_at(file.output)]

    @property
    def is_whole(self) -> bool:
        """True if every file is there as it was verified, under the one name or the other."""
        return all(file in self.renamed or file.lies_at(file.partial) for file in self.files)

    def finish(self) -> None:
        """Give the files that wait their names; OSError if the system refuses one."""
        waiting, outputs = self.waiting, self.spec.outputs
        if len(outputs) > 1 and outputs[0] in waiting:
            outputs[0].unlink(missing_ok=True)
            sync_folder(outputs[0].parent)
        for partial, output in reversed(list(zip(self.spec.partials, outputs, strict=True))):
            if output in waiting:
                if output == outputs[0]:
                    sync_folder(output.parent)
                partial.replace(output)
        sync_folder(outputs[0].parent)

    def take_back(self) -> None:
        """Make partial files of those that have their names already, unless all have them; OSError as `finish`."""
        if len(self.renamed) < len(self.files):
            for file in self.renamed:
                file.output.replace(file.partial)
