"""Look at the machine: every source is asked, none may fail the whole."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import QuantdeckError
from .apple import apple_gpus
from .cpu import Run, apple_cpu, instruction_sets, linux_cpu, other_cpu
from .disk import disk
from .drm import amd_gpu, devices, intel_gpu, silent_gpu
from .hardware import Cpu, Gpu, Hardware, Memory
from .memory import linux_memory, other_memory
from .nvidia import Nvml, load_nvml, nvidia_gpus
from .tree import Tree

if TYPE_CHECKING:
    from ..llama.system_info import SystemInfo


def run_command(command: list[str]) -> str:
    """What a system tool prints; OSError if it is missing or takes more than 15 seconds."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not answer") from None
    return done.stdout.decode("utf-8", "replace")


def _ask_installed_llama() -> SystemInfo:
    # Imported only now: screens that just name our data classes need nothing of llama.cpp's room.
    from ..llama.system_info import ask_system_info

    return ask_system_info()


def detect(
    output: Path,
    root: Path = Path("/"),
    *,
    system: str = platform.system(),
    nvml: Callable[[], Nvml] = load_nvml,
    run: Run = run_command,
    ask_llama: Callable[[], SystemInfo] = _ask_installed_llama,
) -> Hardware:
    """Find out what this machine is and what of it may be used.

    Args:
        output: where models will be written; its disk is looked at.
        root: where /proc and /sys lie; another folder is a recorded machine.
        system: "Linux", "Darwin" or "Windows", as `platform.system()` says.
        nvml: gives pynvml or its like.
        run: runs a system tool and gives what it prints, OSError if it cannot.
        ask_llama: asks the installed llama.cpp, QuantdeckError if it cannot.

    Never raises for what the machine lacks or forbids: `Hardware.notes` says what could not be found out.
    """
    tree, notes = Tree(root), list[str]()
    cpu, memory = _cpu_and_memory(system, tree, run, notes)
    gpus = apple_gpus(run, memory.total, memory.available, notes) if system == "Darwin" else _cards(tree, nvml, notes)
    environment = _environment(tree, notes) if system == "Linux" else ""
    offload = None
    try:
        info = ask_llama()
        cpu = _with_llama_features(cpu, info.features.get("CPU", ()), notes)
        offload = info.gpu_offload
        if gpus and not offload:
            notes.append("The installed llama.cpp was built without GPU support, so models run on the processor alone.")
    except QuantdeckError as error:
        notes.append(str(error))
    return Hardware(
        system=system,
        environment=environment,
        cpu=cpu,
        memory=memory,
        disk=disk(output, tree, notes),
        gpus=tuple(gpus),
        gpu_offload=offload,
        detected_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=tuple(notes),
    )


def _cpu_and_memory(system: str, tree: Tree, run: Run, notes: list[str]) -> tuple[Cpu, Memory]:
    if system == "Linux":
        return linux_cpu(tree, notes), linux_memory(tree, notes)
    return apple_cpu(run, notes) if system == "Darwin" else other_cpu(), other_memory(notes)


def _cards(tree: Tree, nvml: Callable[[], Nvml], notes: list[str]) -> list[Gpu]:
    """NVIDIA's cards from their driver, the others from the kernel; Windows has no /sys and shows NVIDIA's alone."""
    found = devices(tree)
    silent = [device for device in found if device.vendor == "NVIDIA"]
    expected = bool(silent) or tree.exists("/dev/nvidiactl") or tree.exists("/dev/dxg")
    gpus = nvidia_gpus(nvml, notes, expected)
    if not gpus:
        gpus = [silent_gpu(tree, device) for device in silent]
    gpus += [amd_gpu(tree, device, notes) for device in found if device.vendor == "AMD"]
    gpus += [intel_gpu(tree, device, notes) for device in found if device.vendor == "Intel"]
    return gpus


def _with_llama_features(cpu: Cpu, features: tuple[str, ...], notes: list[str]) -> Cpu:
    """llama.cpp's own list, and a note where the processor can do more than this build uses."""
    unused = [name for name in ("AVX2", "AVX512", "NEON", "DOTPROD", "MATMUL_INT8") if name in cpu.features]
    unused = [name for name in unused if name not in features]
    if unused and instruction_sets(features):
        notes.append(f"The installed llama.cpp was built without {', '.join(unused)}, which this processor has.")
    return replace(cpu, features=features, features_source="llama.cpp") if features else cpu


def _environment(tree: Tree, notes: list[str]) -> str:
    """The container or WSL around us."""
    kernel = (tree.text("/proc/sys/kernel/osrelease") or tree.text("/proc/version") or "").lower()
    if "microsoft" in kernel:
        notes.append(
            "Windows gives Linux only a part of the memory; .wslconfig in the Windows home folder sets how much."
        )
        return "WSL 2" if "wsl2" in kernel or tree.exists("/dev/dxg") else "WSL 1"
    groups = tree.text("/proc/self/cgroup") or ""
    if "kubepods" in groups or tree.exists("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    if tree.exists("/run/.containerenv"):
        return "podman"
    if tree.exists("/.dockerenv") or "/docker" in groups:
        return "docker"
    declared = tree.text("/run/systemd/container")
    if not declared:
        start = (tree.text("/proc/1/environ") or "").split()
        declared = next((word[10:] for word in start if word.startswith("container=")), None)
    return declared or ("lxc" if "/lxc" in groups else "")
