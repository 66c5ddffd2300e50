"""What this machine is, and what of it may be used."""

from typing import TYPE_CHECKING, Any

from .hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Memory

if TYPE_CHECKING:
    from .bandwidth import measure_bandwidth
    from .detection import detect

__all__ = ["Bandwidth", "Cpu", "Disk", "Gpu", "Hardware", "Memory", "detect", "measure_bandwidth"]


def __getattr__(name: str) -> Any:
    """The two verbs bring numpy and psutil with them; whoever reads a profile only needs the nouns."""
    if name == "detect":
        from .detection import detect

        return detect
    if name == "measure_bandwidth":
        from .bandwidth import measure_bandwidth

        return measure_bandwidth
    raise AttributeError(f"module {__name__} has no attribute {name}")
