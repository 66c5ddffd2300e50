"""What this machine is, and what of it may be used."""

from .bandwidth import measure_bandwidth
from .detect import detect
from .hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Memory

__all__ = ["Bandwidth", "Cpu", "Disk", "Gpu", "Hardware", "Memory", "detect", "measure_bandwidth"]
