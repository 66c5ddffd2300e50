"""What this machine is, and what of it may be used."""

from typing import TYPE_CHECKING

from ..lazy import lazy
from .hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Kernels, Memory

if TYPE_CHECKING:
    from .bandwidth import measure_bandwidth
    from .detection import detect

__all__ = ["Bandwidth", "Cpu", "Disk", "Gpu", "Hardware", "Kernels", "Memory", "detect", "measure_bandwidth"]

# The two verbs bring numpy and psutil with them; whoever reads a profile only needs the nouns.
__getattr__ = lazy(__name__, {"bandwidth": "measure_bandwidth", "detection": "detect"})
