"""Machines as `Hardware`, made up: so much memory, these cards."""

from __future__ import annotations

from quantdeck.workbench.hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Memory

GIB = 1 << 30
MODERN = ("SSE3", "AVX", "AVX2", "FMA")
OLD = ("SSE3", "AVX")
DDR5 = Bandwidth(40e9, 8, "2026-11-21T09:00:00+00:00")


def machine(ram: float, *cards: Gpu, features: tuple[str, ...] = MODERN, gpu_offload: bool | None = None) -> Hardware:
    """A machine with `ram` GiB that may be used."""
    memory = Memory(int(ram * GIB), int(ram * GIB), None, "", int(ram * GIB), 0, 0)
    cpu = Cpu("made up", "x86_64", 8, 16, 16.0, "", features, "llama.cpp")
    disk = Disk("/", 1 << 40, 1 << 40, "ext4")
    return Hardware("Linux", "", cpu, memory, disk, cards, gpu_offload, "2026-11-21T09:00:00+00:00", ())


def nvidia(vram: float, name: str, capability: str = "8.6") -> Gpu:
    """A card with `vram` GiB, all of it free."""
    size = int(vram * GIB)
    return Gpu(name, "NVIDIA", "CUDA", size, size, False, False, "570.1", capability, "0000:01:00.0")


def amd(vram: float, name: str) -> Gpu:
    """A card of AMD's with `vram` GiB."""
    size = int(vram * GIB)
    return Gpu(name, "AMD", "ROCm", size, size, False, False, "", "", "0000:03:00.0")


def integrated() -> Gpu:
    """Graphics in the processor, which borrow RAM."""
    return Gpu("UHD 770", "Intel", "Vulkan", 2 * GIB, 2 * GIB, True, True, "", "", "0000:00:02.0")


def mac(ram: float, name: str) -> Hardware:
    """Apple Silicon with `ram` GiB, nine tenths of it free; the GPU may pin three quarters."""
    share = int(ram * 0.75 * GIB)
    gpu = Gpu(name, "Apple", "Metal", share, share, True, True, "", "", "apple")
    return machine(ram * 0.9, gpu, features=("NEON", "DOTPROD"))
