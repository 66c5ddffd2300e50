"""AMD's and Intel's graphics processors, as the Linux kernel shows them in /sys/class/drm."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .hardware import Gpu
from .tree import Tree

_VENDORS = {0x1002: "AMD", 0x8086: "Intel", 0x10DE: "NVIDIA"}
_PCI_NAMES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids", "/usr/share/pci.ids")
# In a line of `resource`: the window is memory that may be fetched ahead, which of a card only its RAM is.
_MEMORY_PREFETCHABLE = 0x2200


@dataclass(frozen=True)
class Device:
    """A PCI device with a graphics driver. `folder` is its place in /sys, `slot` its PCI address."""

    folder: str
    vendor: str
    vendor_id: int
    device_id: int
    driver: str
    slot: str


def devices(tree: Tree) -> list[Device]:
    """Every graphics device of a vendor that we know, once, in the order of the kernel's numbers."""
    cards = [name for name in tree.children("/sys/class/drm") if re.fullmatch(r"card\d+", name)]
    found: dict[str, Device] = {}
    for card in sorted(cards, key=lambda name: int(name[4:])):
        folder = f"/sys/class/drm/{card}/device"
        vendor_id, device_id = tree.integer(f"{folder}/vendor"), tree.integer(f"{folder}/device")
        event = tree.table(f"{folder}/uevent", "=")
        if vendor_id in _VENDORS:
            slot = event.get("PCI_SLOT_NAME", card)
            driver = event.get("DRIVER", "")
            found.setdefault(slot, Device(folder, _VENDORS[vendor_id], vendor_id, device_id or 0, driver, slot))
    return list(found.values())


def amd_gpu(tree: Tree, device: Device, notes: list[str]) -> Gpu:
    """A card's memory is what the driver calls VRAM; an integrated one may also use its share of the RAM (GTT)."""
    integrated = _amd_integrated(tree, device)
    vram, used = (tree.integer(f"{device.folder}/mem_info_vram_{what}") for what in ("total", "used"))
    total, free = vram, None if vram is None or used is None else max(0, vram - used)
    if integrated and total is not None and free is not None:
        share, share_used = (tree.integer(f"{device.folder}/mem_info_gtt_{what}") for what in ("total", "used"))
        total, free = total + (share or 0), free + max(0, (share or 0) - (share_used or 0))
    name = tree.text(f"{device.folder}/product_name") or _pci_name(tree, device)
    if vram is None:
        notes.append(f"The memory of {name} is unknown: its driver ({device.driver or 'none'}) does not tell it.")
    backend = "ROCm" if tree.exists("/dev/kfd") and not integrated else "Vulkan"
    return _gpu(device, name, backend, integrated, total, free)


def intel_gpu(tree: Tree, device: Device, notes: list[str]) -> Gpu:
    """Intel's integrated graphics is always device 02.0 of the first bus; everything else is a card."""
    integrated = device.slot.endswith("00:02.0")
    name = _pci_name(tree, device)
    total = None if integrated else _intel_memory(tree, device)
    if total is None and not integrated:
        notes.append(f"The memory of {name} is unknown: its driver ({device.driver or 'none'}) does not tell it.")
    elif not integrated:
        notes.append(f"How much memory of {name} is free is unknown: its driver tells only the total.")
    return _gpu(device, name, "Vulkan" if integrated else "SYCL", integrated, total)


def silent_gpu(tree: Tree, device: Device) -> Gpu:
    """An NVIDIA card whose driver does not answer: present, and nothing more is known."""
    return _gpu(device, _pci_name(tree, device), "CUDA" if device.driver == "nvidia" else "Vulkan")


def _gpu(
    device: Device,
    name: str,
    backend: str,
    integrated: bool = False,
    total: int | None = None,
    free: int | None = None,
) -> Gpu:
    """What sysfs shows, as a Gpu. Integrated graphics has the machine's memory; a card its own."""
    return Gpu(
        name=name,
        vendor=device.vendor,
        backend=backend,
        memory_total=total,
        memory_free=free,
        unified=integrated,
        integrated=integrated,
        driver=device.driver,
        compute_capability="",
        address=device.slot,
    )


def _amd_integrated(tree: Tree, device: Device) -> bool:
    """The kernel shows the northbridge's voltage, and no load of the memory, for integrated graphics only."""
    for sensor in tree.children(f"{device.folder}/hwmon"):
        labels = [
            name for name in tree.children(f"{device.folder}/hwmon/{sensor}") if re.fullmatch(r"in\d+_label", name)
        ]
        if any(tree.text(f"{device.folder}/hwmon/{sensor}/{label}") == "vddnb" for label in labels):
            return True
    return False


def _intel_memory(tree: Tree, device: Device) -> int | None:
    """What the driver says, or else the window through which the processor sees the card's whole memory."""
    tiles = [name for name in tree.children(device.folder) if re.fullmatch(r"tile\d+", name)]
    sizes = [tree.integer(f"{device.folder}/{tile}/physical_vram_size_bytes") for tile in tiles]
    known = sum(size for size in sizes if size)
    return known or tree.integer(f"{device.folder}/lmem_total_bytes") or _largest_window(tree, device)


def _largest_window(tree: Tree, device: Device) -> int | None:
    """Bytes of the largest prefetchable PCI window; None under 1 GiB, where it shows only a part of the memory."""
    largest = 0
    for line in (tree.text(f"{device.folder}/resource") or "").splitlines():
        try:
            first, last, flags = (int(word, 16) for word in line.split())
        except ValueError:
            continue
        if flags & _MEMORY_PREFETCHABLE == _MEMORY_PREFETCHABLE:
            largest = max(largest, last - first + 1)
    return largest if largest >= 1 << 30 else None


def _pci_name(tree: Tree, device: Device) -> str:
    """The device's name in the system's PCI list; the part in brackets is the one on the box."""
    for path in _PCI_NAMES:
        name = _lookup(tree.text(path) or "", device.vendor_id, device.device_id)
        if name:
            inner = re.search(r"\[(.+)\]", name)
            return f"{device.vendor} {inner.group(1) if inner else name}"
    return f"{device.vendor} graphics {device.vendor_id:04x}:{device.device_id:04x}"


def _lookup(names: str, vendor_id: int, device_id: int) -> str | None:
    section = re.search(rf"^{vendor_id:04x}  .*\n((?:[\t#].*\n?|\n)*)", names, re.MULTILINE)
    line = re.search(rf"^\t{device_id:04x}  (.+)$", section.group(1), re.MULTILINE) if section else None
    return line.group(1).strip() if line else None
