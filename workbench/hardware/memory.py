"""RAM: what there is, what bounds us, and what may be used now."""

from __future__ import annotations

import psutil

from .cgroups import memory_groups
from .hardware import Memory
from .tree import Tree, number


def linux_memory(tree: Tree, notes: list[str]) -> Memory:
    """From /proc/meminfo and the control groups; what cannot be read counts as 0 and is noted."""
    table = tree.table("/proc/meminfo", ":")
    total = _kib(table, "MemTotal")
    available = _kib(table, "MemAvailable")
    if available is None and total is not None:
        # Kernels before 3.14: what is free, or given up when somebody asks.
        available = sum(_kib(table, key) or 0 for key in ("MemFree", "Buffers", "Cached"))
    if total is None:
        notes.append("The size of the memory is unknown because /proc/meminfo cannot be read.")
    groups = memory_groups(tree)
    if total is not None:
        groups = [group for group in groups if group.limit < total]
    tightest = min(groups, key=lambda group: group.limit, default=None)
    usable = min([group.left for group in groups] + ([available] if available is not None else []), default=0)
    return Memory(
        total=total or 0,
        available=available or 0,
        limit=tightest.limit if tightest else None,
        limit_source=tightest.name if tightest else "",
        usable=usable,
        swap_total=_kib(table, "SwapTotal") or 0,
        swap_free=_kib(table, "SwapFree") or 0,
    )


def other_memory(notes: list[str]) -> Memory:
    """From psutil, on systems without /proc."""
    try:
        ram = psutil.virtual_memory()
    except (OSError, psutil.Error, RuntimeError) as error:
        notes.append(f"The size of the memory is unknown: {error}.")
        return Memory(0, 0, None, "", 0, 0, 0)
    try:
        swap_total, swap_free = psutil.swap_memory()[0], psutil.swap_memory()[2]
    except (OSError, psutil.Error, RuntimeError):
        swap_total, swap_free = 0, 0
    return Memory(ram.total, ram.available, None, "", ram.available, swap_total, swap_free)


def _kib(table: dict[str, str], key: str) -> int | None:
    """A line like `MemTotal:  24684368 kB` in bytes."""
    words = table.get(key, "").split()
    kib = number(words[0]) if words else None
    return kib * 1024 if kib is not None and kib >= 0 else None
