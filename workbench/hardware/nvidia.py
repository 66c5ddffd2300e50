"""NVIDIA's cards, as their driver tells through NVML."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .hardware import Gpu

# pynvml, or an object with the same functions: everything it raises is an answer too.
Nvml = Any

_NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED


def load_nvml() -> Nvml:
    """NVIDIA's bindings, imported only now; ImportError if they are missing."""
    return importlib.import_module("pynvml")


def nvidia_gpus(load: Callable[[], Nvml], notes: list[str], expected: bool) -> list[Gpu]:
    """All cards, or MIG slices of them, that NVML shows; [] with a note where it fails.

    `expected` says that a card was seen elsewhere (PCI, device files), so that the missing driver is worth a note.
    """
    try:
        nvml = load()
        nvml.nvmlInit()
    except Exception as error:
        if expected:
            notes.append(
                f"There is an NVIDIA card, but its driver does not answer ({_why(error)}); its memory is unknown."
            )
        return []
    try:
        driver = _text(_ask(nvml.nvmlSystemGetDriverVersion))
        gpus: list[Gpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            gpus.extend(_card(nvml, index, driver, notes))
        return gpus
    except Exception as error:
        notes.append(f"The NVIDIA driver does not list its cards ({_why(error)}).")
        return []
    finally:
        _ask(nvml.nvmlShutdown)


def _card(nvml: Nvml, index: int, driver: str, notes: list[str]) -> Iterator[Gpu]:
    """The card itself, or the slices it is cut into: a cut card cannot be used as a whole."""
    try:
        card = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:
        notes.append(f"NVIDIA card {index} does not answer ({_why(error)}) and is left out.")
        return
    capability = _ask(nvml.nvmlDeviceGetCudaComputeCapability, card)
    whole = Gpu(
        name=_text(_ask(nvml.nvmlDeviceGetName, card)) or f"NVIDIA card {index}",
        vendor="NVIDIA",
        backend="CUDA",
        memory_total=None,
        memory_free=None,
        unified=False,
        integrated=False,
        driver=driver,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        address=_text(getattr(_ask(nvml.nvmlDeviceGetPciInfo, card), "busId", "")),
    )
    mode = _ask(nvml.nvmlDeviceGetMigMode, card)
    if not mode or mode[0] != 1:
        yield _with_memory(nvml, card, whole, notes)
        return
    slices = _slices(nvml, card)
    notes.append(
        f"{whole.name} is cut into MIG slices; a program can use one of them at a time."
        if slices
        else f"{whole.name} is in MIG mode without a slice for us, so it cannot be used."
    )
    for piece in slices:
        name = _text(_ask(nvml.nvmlDeviceGetName, piece)) or f"{whole.name} MIG slice"
        address = _text(_ask(nvml.nvmlDeviceGetUUID, piece))
        yield _with_memory(nvml, piece, replace(whole, name=name, address=address), notes)


def _with_memory(nvml: Nvml, handle: Any, gpu: Gpu, notes: list[str]) -> Gpu:
    """Total and free bytes; chips that share the machine's RAM answer "not supported"."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return replace(gpu, memory_total=int(memory.total), memory_free=int(memory.free))
    except Exception as error:
        if getattr(error, "value", None) == _NOT_SUPPORTED:
            notes.append(f"{gpu.name} has no memory of its own and shares the machine's RAM.")
            return replace(gpu, unified=True, integrated=True)
        notes.append(f"{gpu.name} does not tell its memory ({_why(error)}).")
        return gpu


def _slices(nvml: Nvml, card: Any) -> list[Any]:
    """Handles of the card's MIG slices; places without one answer "not found"."""
    places = range(_ask(nvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0)
    handles = (_ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, card, place) for place in places)
    return [handle for handle in handles if handle is not None]


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer, or None for any error: a broken card must not hide the others."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _text(value: Any) -> str:
    """Older bindings answer in bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _why(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")
