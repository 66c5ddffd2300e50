"""Recorded machines: one text file each, in which `=== /path` starts a file and `=== /path -> target` is a link."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "workbench" / "trees"
NAMES = sorted(path.stem for path in FOLDER.glob("*.tree"))


def unpack(name: str, root: Path) -> Path:
    """Write the recorded machine's /proc, /sys and what else it holds below `root`."""
    for section in (FOLDER / f"{name}.tree").read_text().split("=== ")[1:]:
        heading, _, content = section.partition("\n")
        path, arrow, target = heading.partition(" -> ")
        file = root / path.strip().lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            file.symlink_to(target.strip())
        else:
            file.write_text(content)
    return root
