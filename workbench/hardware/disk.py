"""Room on the disk where something will be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from .cgroups import unescape
from .hardware import Disk
from .tree import Tree


def disk(output: Path, tree: Tree, notes: list[str]) -> Disk:
    """The file system that holds `output`, or its nearest folder that exists already."""
    place = output.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        notes.append(f"The free space at {place} is unknown: {error.strerror}.")
        return Disk(str(output), 0, 0, "")
    return Disk(str(output), usage.total, usage.free, _file_system(tree, place))


def _file_system(tree: Tree, place: Path) -> str:
    """The type of the mount that lies deepest above `place` (the last one, if several lie at the same point)."""
    best, kind = -1, ""
    resolved = place.resolve()
    for line in (tree.text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = Path(unescape(fields[4]))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), types[0]
    return kind
