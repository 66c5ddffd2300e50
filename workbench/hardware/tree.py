"""Reading /proc and /sys below a root, so that recorded trees can stand in for a machine."""

from __future__ import annotations

from pathlib import Path


class Tree:
    """Files below `root`, read without ever failing: what is missing, denied or broken reads as None."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the absolute `name` lies in this tree."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """The file's text without surrounding blanks; NUL bytes (device trees end names with one) count as blanks."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
        except (OSError, ValueError):
            return None

    def integer(self, name: str) -> int | None:
        """The file's content as a number, decimal or with 0x."""
        return number(self.text(name))

    def exists(self, name: str) -> bool:
        """True if there is something under this name that we may see."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def children(self, name: str) -> list[str]:
        """The names in a folder, sorted; none if it cannot be listed."""
        try:
            return sorted(entry.name for entry in self.path(name).iterdir())
        except OSError:
            return []

    def table(self, name: str, separator: str | None = None) -> dict[str, str]:
        """Lines `key<separator>value` as a dictionary; the first of equal keys counts."""
        result: dict[str, str] = {}
        for line in (self.text(name) or "").splitlines():
            key, *rest = line.split(separator, 1)
            if rest:
                result.setdefault(key.strip(), rest[0].strip())
        return result


def number(text: str | None) -> int | None:
    """A number as the kernel writes it, at most 64 bits wide; None for anything else ("max")."""
    try:
        value = int((text or "")[:32], 0)
    except ValueError:
        return None
    return value if abs(value) < 1 << 64 else None


def cpu_list(text: str) -> set[int]:
    """The kernel's lists of processors: "0-3,8" is {0, 1, 2, 3, 8}; what is no list is empty."""
    found: set[int] = set()
    try:
        for part in filter(None, text.strip().split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), min(int(last or first), int(first) + 8191) + 1))
    except ValueError:
        return set()
    return found
