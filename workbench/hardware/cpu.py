"""The processor: model, cores, what of them is ours, and the instruction sets that inference uses."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import psutil

from .cgroups import cpu_quotas
from .hardware import Cpu
from .tree import Tree, cpu_list, number

Run = Callable[[list[str]], str]

# llama.cpp's name of each feature, and the flag by which Linux knows it (x86, then ARM, RISC-V has its own line).
_FLAGS = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "DOTPROD": "asimddp",
    "SME": "sme",
    "SME2": "sme2",
    "VXE": "vxe",
}
# Apple's names of the same, as `sysctl` keys.
_APPLE_FLAGS = {
    "AVX2": "hw.optional.avx2_0",
    "AVX512": "hw.optional.avx512f",
    "NEON": "hw.optional.AdvSIMD",
    "FP16_VA": "hw.optional.arm.FEAT_FP16",
    "MATMUL_INT8": "hw.optional.arm.FEAT_I8MM",
    "DOTPROD": "hw.optional.arm.FEAT_DotProd",
    "SME": "hw.optional.arm.FEAT_SME",
}
# What llama.cpp reports beside instruction sets: how it was built.
_BUILD_FEATURES = {"LLAMAFILE", "OPENMP", "REPACK", "KLEIDIAI", "ACCELERATE", "CPU_HBM"}


def linux_cpu(tree: Tree, notes: list[str]) -> Cpu:
    """From /proc and /sys; features are the system's, until llama.cpp has been asked."""
    info = tree.text("/proc/cpuinfo") or ""
    first = tree.table("/proc/cpuinfo", ":")
    online = cpu_list(tree.text("/sys/devices/system/cpu/online") or "")
    logical = len(online) or sum(line.startswith("processor") for line in info.splitlines())
    if not logical:
        logical = os.cpu_count() or 1
        notes.append("/proc and /sys say nothing about the processor; the number of cores is Python's guess.")
    usable, source = _usable(tree, logical)
    return Cpu(
        model=_model(tree, first),
        architecture=platform.machine(),
        physical_cores=_physical(tree, info, online) or logical,
        logical_cores=logical,
        usable_cores=usable,
        cores_source=source,
        features=_linux_features(first),
        features_source="system" if _linux_features(first) else "",
    )


def apple_cpu(run: Run, notes: list[str]) -> Cpu:
    """From `sysctl`, one call."""
    keys = ["machdep.cpu.brand_string", "hw.physicalcpu", "hw.logicalcpu", "hw.machine", *_APPLE_FLAGS.values()]
    try:
        # Keys that this machine does not have make sysctl complain; the others are printed all the same.
        lines = run(["/usr/sbin/sysctl", "-i", *keys]).splitlines()
    except (OSError, ValueError) as error:
        notes.append(f"The processor's name is unknown because sysctl failed: {error}.")
        lines = []
    table = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    logical = _positive(table.get("hw.logicalcpu")) or psutil.cpu_count() or 1
    features = tuple(name for name, key in _APPLE_FLAGS.items() if table.get(key) == "1")
    return Cpu(
        model=table.get("machdep.cpu.brand_string", "unknown processor"),
        architecture=table.get("hw.machine") or platform.machine(),
        physical_cores=_positive(table.get("hw.physicalcpu")) or psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        usable_cores=float(logical),
        cores_source="",
        features=features,
        features_source="system" if features else "",
    )


def other_cpu() -> Cpu:
    """From psutil and Python, on systems that are neither Linux nor macOS."""
    logical = psutil.cpu_count() or os.cpu_count() or 1
    allowed = os.process_cpu_count() if hasattr(os, "process_cpu_count") else None
    usable = min(logical, allowed or logical)
    return Cpu(
        model=platform.processor() or "unknown processor",
        architecture=platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        usable_cores=float(usable),
        cores_source="affinity" if usable < logical else "",
        features=(),
        features_source="",
    )


def instruction_sets(features: tuple[str, ...]) -> set[str]:
    """What of llama.cpp's features the processor provides, and not the build."""
    return set(features) - _BUILD_FEATURES


def _model(tree: Tree, first: dict[str, str]) -> str:
    """The processor's name; boards without one in /proc/cpuinfo have it in the device tree."""
    names = (first.get("model name"), first.get("cpu"), first.get("cpu model"), tree.text("/proc/device-tree/model"))
    named = next((name for name in (*names, first.get("Hardware")) if name), None)
    return " ".join(named.split()) if named else "unknown processor"


def _usable(tree: Tree, logical: int) -> tuple[float, str]:
    """Cores that affinity, cpusets and quotas leave, and which of them is the tightest."""
    usable, source = float(logical), ""
    allowed = len(cpu_list(tree.table("/proc/self/status", ":").get("Cpus_allowed_list", "")))
    if 0 < allowed < usable:
        usable, source = float(allowed), "affinity"
    for quota in cpu_quotas(tree):
        if quota.cores < usable:
            usable, source = quota.cores, f"quota of {quota.name}"
    return usable, source


def _physical(tree: Tree, info: str, online: set[int]) -> int:
    """Cores without their hyperthreads: distinct sets of siblings, or distinct (package, core) pairs."""
    folder = "/sys/devices/system/cpu/cpu{}/topology/{}"
    siblings = {tree.text(folder.format(cpu, "thread_siblings_list")) for cpu in online} - {None}
    if siblings:
        return len(siblings)
    pairs, package = set(), ""
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "physical id":
            package = value.strip()
        elif key.strip() == "core id":
            pairs.add((package, value.strip()))
    return len(pairs)


def _linux_features(first: dict[str, str]) -> tuple[str, ...]:
    flags = set((first.get("flags") or first.get("Features") or first.get("features") or "").split())
    found = [name for name, flag in _FLAGS.items() if flag in flags]
    if "asimd" in flags:
        found.append("ARM_FMA")
    if "v" in first.get("isa", "").partition("_")[0][4:]:
        found.append("RISCV_V")
    return tuple(found)


def _positive(text: str | None) -> int | None:
    value = number(text)
    return value if value is not None and value > 0 else None
