"""The machine as advice needs it: what may be used of its memory, and how fast that memory is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..hardware import Bandwidth, Gpu, Hardware, Kernels
from ..text import size
from .data import bandwidths
from .fit import Budget

GIB = 1 << 30
_FAST_SIMD = ("AVX2", "AVX512", "DOTPROD", "MATMUL_INT8", "SVE")
_FP8_CAPABILITY = (8, 9)
_APPLE_GPU_SHARE = 0.75  # what macOS lets the GPU pin, unless told otherwise


@dataclass(frozen=True)
class Rate:
    """Bytes a second from memory. `source`: "measured", "published" (by the card's name), or "assumed".

    `kernels` say more of a processor, where they were measured.
    """

    bytes_per_second: float
    source: str
    kernels: Kernels | None = None


@dataclass(frozen=True)
class Machine:
    """`kind` is "nvidia", "apple", "other_gpu" or "cpu"; `card` is None where no graphics processor can be used.

    `threads` are the most that this program computes with.
    """

    kind: str
    budget: Budget
    fast_simd: bool
    fp8: bool
    processor: Rate
    card: Rate | None
    notes: tuple[str, ...] = ()
    threads: int = 1


@dataclass(frozen=True)
class OtherMachine:
    """Another machine as somebody describes it: `kind` as in the wizard's question, all its RAM and VRAM in bytes."""

    kind: str
    ram: int
    vram: int = 0


def this_machine(hardware: Hardware, measured: Bandwidth | None = None) -> Machine:
    """The machine that was looked at. Cards that the installed llama.cpp cannot use do not count; a note says so."""
    cards, notes = _usable_cards(hardware)
    unified = bool(cards) and all(gpu.unified for gpu in cards)
    vram = sum(_free(gpu) for gpu in cards)
    features = " ".join(hardware.cpu.features).upper()
    assumed = bandwidths().assumed
    processor = Rate(assumed["processor"], "assumed")
    if measured:
        processor = Rate(measured.bytes_per_second, "measured", measured.kernels)
    return Machine(
        kind=_kind(cards),
        budget=Budget(hardware.memory.usable, vram, len(cards), unified),
        fast_simd=any(name in features for name in _FAST_SIMD) or unified,
        fp8=bool(cards) and all(_capability(gpu) >= _FP8_CAPABILITY for gpu in cards),
        processor=processor,
        card=_card_rate(cards),
        notes=tuple(notes),
        threads=max(1, hardware.cpu.whole_cores - 1),
    )


def other_machine(other: OtherMachine) -> Machine:
    """A machine that was described. A tenth of its RAM is left to its system, or 1.5 GiB if that is more,
    but never more than a fifth."""
    ram = other.ram - max(min(3 * GIB // 2, other.ram // 5), other.ram // 10)
    assumed = bandwidths().assumed
    notes = (f"The machine is described, not measured: {size(other.ram - ram)} of its RAM are left to its system.",)
    if other.kind == "apple":
        rate = Rate(assumed["apple"], "assumed")
        budget = Budget(ram, int(other.ram * _APPLE_GPU_SHARE), 1, unified=True)
        return Machine("apple", budget, True, False, rate, rate, notes)
    old = other.kind == "old"
    processor = Rate(assumed["old_processor" if old else "another_processor"], "assumed")
    card = Rate(assumed["card"], "assumed") if other.vram else None
    kind = (other.kind if other.kind in {"nvidia", "other_gpu"} else "nvidia") if other.vram else "cpu"
    return Machine(kind, Budget(ram, other.vram, 1 if other.vram else 0), not old, False, processor, card, notes)


def _usable_cards(hardware: Hardware) -> tuple[list[Gpu], list[str]]:
    cards = [gpu for gpu in hardware.gpus if gpu.unified and gpu.vendor == "Apple"]
    cards = cards or [gpu for gpu in hardware.gpus if not gpu.unified and not gpu.integrated and _free(gpu)]
    if cards and hardware.gpu_offload is False:
        return [], [
            "The graphics card is not counted, because the installed llama.cpp was built without support for it."
        ]
    return cards, []


def _free(gpu: Gpu) -> int:
    return (gpu.memory_total if gpu.memory_free is None else gpu.memory_free) or 0


def _kind(cards: Sequence[Gpu]) -> str:
    if not cards:
        return "cpu"
    vendors = {gpu.vendor for gpu in cards}
    return "nvidia" if vendors == {"NVIDIA"} else "apple" if vendors == {"Apple"} else "other_gpu"


def _capability(gpu: Gpu) -> tuple[int, ...]:
    parts = gpu.compute_capability.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _card_rate(cards: Sequence[Gpu]) -> Rate | None:
    """Layers on several cards are computed one card after the other, so the slowest card's rate is taken for all."""
    if not cards:
        return None
    known = [rate for rate in (bandwidths().of_card(gpu.name) for gpu in cards) if rate]
    return Rate(min(known), "published") if len(known) == len(cards) else Rate(bandwidths().assumed["card"], "assumed")
