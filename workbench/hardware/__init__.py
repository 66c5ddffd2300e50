"""What this machine is, and what of it may be used."""

from .hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Memory

__all__ = ["Bandwidth", "Cpu", "Disk", "Gpu", "Hardware", "Memory"]
