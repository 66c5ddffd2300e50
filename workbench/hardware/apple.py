"""Graphics of a Mac, as the system's own tools tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .hardware import Gpu

_UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def apple_gpus(run: Callable[[list[str]], str], memory_total: int, memory_free: int, notes: list[str]) -> list[Gpu]:
    """All graphics processors of `system_profiler`; on Apple Silicon memory is the RAM, up to what the GPU may pin."""
    try:
        answer = json.loads(run(["/usr/sbin/system_profiler", "-json", "SPDisplaysDataType"]))
        entries = [entry for entry in answer["SPDisplaysDataType"] if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"The graphics processor is unknown because system_profiler failed: {error}.")
        return []
    return [_gpu(entry, run, memory_total, memory_free, notes) for entry in entries]


def _gpu(
    entry: dict[str, Any], run: Callable[[list[str]], str], memory_total: int, memory_free: int, notes: list[str]
) -> Gpu:
    name = str(entry.get("sppci_model") or entry.get("_name") or "graphics")
    vendor = next((v for v in ("Apple", "AMD", "Intel", "NVIDIA") if v.lower() in f"{entry} {name}".lower()), "")
    own = _bytes(entry.get("spdisplays_vram"))
    unified = vendor == "Apple"
    total = _gpu_share(run, memory_total, notes) if unified else own
    return Gpu(
        name=name,
        vendor=vendor,
        backend="Metal",
        memory_total=total,
        memory_free=min(total, memory_free) if unified and total is not None else None,
        unified=unified or own is None,
        integrated=unified or own is None,
        driver=str(entry.get("spdisplays_mtlgpufamilysupport", "")).replace("spdisplays_", ""),
        compute_capability="",
        address=str(entry.get("spdisplays_device-id", "")),
    )


def _gpu_share(run: Callable[[list[str]], str], memory_total: int, notes: list[str]) -> int:
    """How much of the RAM the GPU may use: the system's setting, or else about three quarters."""
    try:
        limit = int(run(["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"])) << 20
    except (OSError, ValueError):
        limit = 0
    if limit > 0:
        return min(limit, memory_total)
    notes.append("macOS lets the GPU use about three quarters of the memory; that part is an estimate.")
    return memory_total * 3 // 4


def _bytes(text: Any) -> int | None:
    """`8 GB` in bytes."""
    words = str(text).split()
    if len(words) == 2 and words[0].isdigit() and words[1] in _UNITS:
        return int(words[0]) * _UNITS[words[1]]
    return None
