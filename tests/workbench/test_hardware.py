"""The machine: recorded trees of /proc and /sys, a fake NVML, a fake Mac, and the machine that runs the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantdeck.workbench.hardware import Hardware, detect, measure_bandwidth
from quantdeck.workbench.hardware.tree import Tree, cpu_list
from quantdeck.workbench.llama.system_info import (
    SystemInfo,
    SystemInfoUnavailable,
    ask_system_info,
    features_from_system_info,
)
from support.trees import NAMES, unpack

GIB = 1 << 30


class NvmlFailure(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value


NOT_SUPPORTED = NvmlFailure(3, "Not Supported")
NO_PERMISSION = NvmlFailure(4, "Insufficient Permissions")


class FakeNvml:
    """NVML with the given cards; a card, or what it should answer, that is an exception is raised."""

    def __init__(self, *cards, init=None, listing=None):
        self.cards, self.init, self.listing, self.open = cards, init, listing, False

    def nvmlInit(self):
        self._answer(self.init)
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlSystemGetDriverVersion(self):
        return b"550.54.15"

    def nvmlDeviceGetCount(self):
        self._answer(self.listing)
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._answer(self.cards[index])

    def nvmlDeviceGetName(self, card):
        return self._answer(card["name"])

    def nvmlDeviceGetMemoryInfo(self, card):
        total, free = self._answer(card["memory"])
        return SimpleNamespace(total=total, free=free)

    def nvmlDeviceGetCudaComputeCapability(self, card):
        return self._answer(card.get("capability", (8, 9)))

    def nvmlDeviceGetPciInfo(self, card):
        return SimpleNamespace(busId=card.get("bus", b"00000000:01:00.0"))

    def nvmlDeviceGetUUID(self, card):
        return card.get("uuid", "GPU-1")

    def nvmlDeviceGetMigMode(self, card):
        return [1, 1] if "slices" in card else self._answer(NOT_SUPPORTED)

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index >= len(card["slices"]):
            raise NvmlFailure(6, "Not Found")
        return card["slices"][index]

    @staticmethod
    def _answer(value):
        if isinstance(value, Exception):
            raise value
        return value


def no_nvml():
    raise ImportError("No module named 'pynvml'")


def no_llama():
    raise SystemInfoUnavailable("llama.cpp is away.")


def no_tools(command):
    raise FileNotFoundError(command[0])


def look(root: Path, **sources) -> Hardware:
    sources = {"system": "Linux", "nvml": no_nvml, "run": no_tools, "ask_llama": no_llama} | sources
    return detect(root / "models" / "x.gguf", root, **sources)


def recorded(name: str, tmp_path: Path, **sources) -> Hardware:
    return look(unpack(name, tmp_path), **sources)


def said(hardware: Hardware, *words: str) -> bool:
    return any(all(word in note for word in words) for note in hardware.notes)


def test_bare_metal(tmp_path):
    hardware = recorded("bare_metal", tmp_path)
    cpu, memory = hardware.cpu, hardware.memory
    assert cpu.model == "AMD Ryzen 7 7700X 8-Core Processor"
    assert (cpu.physical_cores, cpu.logical_cores, cpu.usable_cores, cpu.cores_source) == (8, 16, 16.0, "")
    assert cpu.features_source == "system"
    assert {"AVX2", "FMA", "F16C", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"} <= set(cpu.features)
    assert "NEON" not in cpu.features
    assert memory.total == 32594808 * 1024
    assert memory.available == memory.usable == 24811024 * 1024
    assert (memory.limit, memory.limit_source) == (None, "")
    assert (memory.swap_total, memory.swap_free) == (8388604 * 1024, 8000000 * 1024)
    assert hardware.environment == ""


def test_amd_card_and_integrated_graphics_are_one_card(tmp_path):
    hardware = recorded("bare_metal", tmp_path)
    card, integrated = hardware.gpus
    assert card.name == "AMD Radeon RX 7900 XT/7900 XTX/7900M"
    assert (card.memory_total, card.memory_free) == (25753026560, 25753026560 - 1073741824)
    assert (card.backend, card.unified, card.integrated) == ("ROCm", False, False)
    assert integrated.name == "AMD Raphael"
    assert integrated.integrated
    assert integrated.unified
    assert hardware.graphics_memory_free == card.memory_free


def test_docker_with_groups_v1_and_half_a_core(tmp_path):
    hardware = recorded("docker_v1", tmp_path)
    assert hardware.environment == "docker"
    assert hardware.memory.limit == 2 * GIB
    assert "/sys/fs/cgroup/memory" in hardware.memory.limit_source
    # 2 GiB - (1.5 GiB in use - 1 GiB of idle page cache)
    assert hardware.memory.usable == 2147483648 - (1610612736 - 1073741824)
    assert hardware.cpu.usable_cores == 0.5
    assert "quota" in hardware.cpu.cores_source
    assert hardware.cpu.whole_cores == 1
    assert (hardware.cpu.physical_cores, hardware.cpu.logical_cores) == (2, 4)


def test_a_group_inside_the_container_counts_too(tmp_path):
    """The kernel names it by the host's path; below the mount it is only the part after the container's own."""
    root = unpack("docker_v1", tmp_path)
    groups = root / "proc/self/cgroup"
    groups.write_text(groups.read_text().replace("memory:/docker/4f1d", "memory:/docker/4f1d/inner"))
    inner = root / "sys/fs/cgroup/memory/inner"
    inner.mkdir()
    (inner / "memory.limit_in_bytes").write_text("1073741824\n")
    (inner / "memory.usage_in_bytes").write_text("1000000000\n")
    memory = look(root).memory
    assert (memory.limit, memory.usable) == (GIB, 1073741824 - 1000000000)
    assert memory.limit_source.endswith("/memory/inner")


def test_groups_v2_count_every_ancestor(tmp_path):
    hardware = recorded("nested_v2", tmp_path)
    assert hardware.environment == "kubernetes"
    assert hardware.memory.limit == 4 * GIB
    assert hardware.memory.limit_source.endswith("/kubepods/burstable/pod1")
    # The outermost group has the larger limit (its memory.high), and the least left under it.
    assert hardware.memory.usable == 5_000_000_000 - 4_800_000_000
    assert hardware.cpu.usable_cores == 2.5
    assert hardware.cpu.cores_source.endswith("/pod1")
    assert hardware.cpu.logical_cores == 16
    assert hardware.cpu.model == "Neoverse Testbed"
    assert {"NEON", "DOTPROD", "MATMUL_INT8", "SVE", "FP16_VA", "ARM_FMA"} == set(hardware.cpu.features)


def test_affinity_counts_when_it_is_the_tightest(tmp_path):
    root = unpack("nested_v2", tmp_path)
    (root / "proc/self/status").write_text("Cpus_allowed_list:\t3\n")
    assert (look(root).cpu.usable_cores, look(root).cpu.cores_source) == (1.0, "affinity")


def test_nothing_mounted(tmp_path):
    hardware = recorded("empty", tmp_path)
    assert hardware.memory.total == hardware.memory.usable == 0
    assert hardware.cpu.model == "unknown processor"
    assert hardware.cpu.logical_cores >= 1
    assert hardware.gpus == ()
    assert hardware.gpu_offload is None
    assert said(hardware, "/proc/meminfo")
    assert said(hardware, "number of cores")
    assert said(hardware, "llama.cpp is away")


def test_intel(tmp_path):
    hardware = recorded("intel", tmp_path)
    integrated, window, told, small = hardware.gpus
    assert integrated.integrated
    assert integrated.memory_total is None
    assert (window.name, window.memory_total, window.integrated) == ("Intel Arc A770", 16 * GIB, False)
    assert (told.name, told.memory_total) == ("Intel graphics 8086:e20b", 12 * GIB)
    assert small.memory_total is None
    assert said(hardware, "8086:56a6", "unknown")
    assert hardware.memory.available == (30000000 + 100000 + 200000) * 1024


def test_wsl(tmp_path):
    hardware = recorded("wsl", tmp_path)
    assert hardware.environment == "WSL 2"
    assert said(hardware, ".wslconfig")
    assert said(hardware, "NVIDIA", "does not answer")


def test_nvidia_without_its_driver(tmp_path):
    hardware = recorded("nouveau", tmp_path)
    (gpu,) = hardware.gpus
    assert (gpu.vendor, gpu.memory_total, gpu.driver, gpu.backend) == ("NVIDIA", None, "nouveau", "Vulkan")
    assert said(hardware, "No module named 'pynvml'")


def test_nvml_lists_cards_once_though_the_kernel_shows_them_too(tmp_path):
    nvml = FakeNvml({"name": "NVIDIA GeForce RTX 3070", "memory": (8 * GIB, 7 * GIB), "capability": (8, 6)})
    (gpu,) = recorded("nouveau", tmp_path, nvml=lambda: nvml).gpus
    assert (gpu.name, gpu.memory_total, gpu.memory_free) == ("NVIDIA GeForce RTX 3070", 8 * GIB, 7 * GIB)
    assert (gpu.compute_capability, gpu.driver, gpu.backend) == ("8.6", "550.54.15", "CUDA")
    assert gpu.address == "00000000:01:00.0"
    assert not nvml.open


def test_one_broken_card_does_not_hide_the_other(tmp_path):
    nvml = FakeNvml(
        NvmlFailure(15, "GPU is lost"),
        {"name": NvmlFailure(999, "Unknown Error"), "memory": NO_PERMISSION, "capability": NOT_SUPPORTED},
        {"name": b"Tesla T4", "memory": (15 * GIB, 14 * GIB)},
    )
    hardware = recorded("empty", tmp_path, nvml=lambda: nvml)
    dumb, good = hardware.gpus
    assert said(hardware, "card 0", "GPU is lost")
    assert (dumb.name, dumb.memory_total, dumb.unified) == ("NVIDIA card 1", None, False)
    assert said(hardware, "card 1", "Insufficient Permissions")
    assert (good.name, good.memory_total) == ("Tesla T4", 15 * GIB)
    assert hardware.graphics_memory_free == 14 * GIB


def test_mig_slices_stand_for_their_card(tmp_path):
    slices = [
        {"name": f"NVIDIA A100 MIG 3g.20gb {i}", "memory": (20 * GIB, 19 * GIB), "uuid": f"MIG-{i}"} for i in (0, 1)
    ]
    nvml = FakeNvml({"name": "NVIDIA A100", "memory": NO_PERMISSION, "slices": slices})
    hardware = recorded("empty", tmp_path, nvml=lambda: nvml)
    assert [gpu.address for gpu in hardware.gpus] == ["MIG-0", "MIG-1"]
    assert all(gpu.memory_total == 20 * GIB for gpu in hardware.gpus)
    assert said(hardware, "MIG", "one of them at a time")
    bare = recorded(
        "empty", tmp_path, nvml=lambda: FakeNvml({"name": "NVIDIA A100", "memory": NO_PERMISSION, "slices": []})
    )
    assert bare.gpus == ()
    assert said(bare, "cannot be used")


def test_nvidia_chip_that_shares_the_ram(tmp_path):
    nvml = FakeNvml({"name": "NVIDIA GB10", "memory": NOT_SUPPORTED})
    hardware = recorded("empty", tmp_path, nvml=lambda: nvml)
    assert hardware.gpus[0].unified
    assert hardware.graphics_memory_free == 0
    assert said(hardware, "GB10", "shares")


@pytest.mark.parametrize("broken", [{"init": NvmlFailure(9, "Driver Not Loaded")}, {"listing": RuntimeError("bad")}])
def test_broken_driver_is_a_note(tmp_path, broken):
    hardware = recorded("nouveau", tmp_path, nvml=lambda: FakeNvml(**broken))
    assert hardware.gpus[0].memory_total is None
    assert any("NVIDIA" in note for note in hardware.notes)


def mac(answers):
    def run(command):
        for key, answer in answers.items():
            if key in " ".join(command):
                return answer
        raise FileNotFoundError(command[0])

    return run


def displays(*entries):
    return json.dumps({"SPDisplaysDataType": list(entries)})


def test_apple_silicon(tmp_path):
    apple = {"sppci_model": "Apple M3 Max", "spdisplays_vendor": "sppci_vendor_Apple", "sppci_cores": "40"}
    run = mac(
        {
            "iogpu.wired_limit_mb": "0\n",
            "machdep.cpu.brand_string": "machdep.cpu.brand_string: Apple M3 Max\n"
            "hw.physicalcpu: 16\nhw.logicalcpu: 16\n"
            "hw.machine: arm64\nhw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_SME: 0\n",
            "SPDisplaysDataType": displays(apple),
        }
    )
    hardware = look(tmp_path, system="Darwin", run=run)
    assert (hardware.cpu.model, hardware.cpu.physical_cores) == ("Apple M3 Max", 16)
    assert hardware.cpu.features == ("NEON", "DOTPROD")
    (gpu,) = hardware.gpus
    assert (gpu.name, gpu.backend, gpu.unified) == ("Apple M3 Max", "Metal", True)
    assert gpu.memory_total == psutil.virtual_memory().total * 3 // 4
    assert said(hardware, "estimate")
    assert hardware.graphics_memory_free == 0


def test_apple_limit_that_the_user_set(tmp_path):
    run = mac({"iogpu.wired_limit_mb": "1024\n", "SPDisplaysDataType": displays({"sppci_model": "Apple M2"})})
    hardware = look(tmp_path, system="Darwin", run=run)
    assert hardware.gpus[0].memory_total == GIB
    assert not said(hardware, "estimate")


def test_intel_mac(tmp_path):
    amd = {"sppci_model": "AMD Radeon Pro 5500M", "spdisplays_vram": "8 GB", "spdisplays_vendor": "AMD (0x1002)"}
    intel = {"sppci_model": "Intel UHD Graphics 630", "spdisplays_vram_shared": "1536 MB"}
    card, integrated = look(tmp_path, system="Darwin", run=mac({"SPDisplaysDataType": displays(amd, intel)})).gpus
    assert (card.vendor, card.memory_total, card.integrated) == ("AMD", 8 * GIB, False)
    assert (integrated.vendor, integrated.integrated) == ("Intel", True)


@pytest.mark.parametrize(
    "answer", ["", "nonsense", "[]", '{"SPDisplaysDataType": [3]}', '{"SPDisplaysDataType": null}']
)
def test_mac_tools_that_fail(tmp_path, answer):
    hardware = look(tmp_path, system="Darwin", run=mac({"SPDisplaysDataType": answer, "sysctl": answer}))
    assert hardware.gpus == ()
    assert hardware.memory.total > 0
    assert look(tmp_path, system="Darwin").notes


def test_windows_has_at_least_what_python_knows(tmp_path):
    nvml = FakeNvml({"name": "NVIDIA GeForce RTX 4090", "memory": (24 * GIB, 23 * GIB)})
    hardware = look(tmp_path, system="Windows", nvml=lambda: nvml)
    assert hardware.memory.total == psutil.virtual_memory().total
    assert hardware.gpus[0].name.endswith("4090")


@pytest.mark.parametrize(
    "content", ["", "garbage\n", "-1\n", "\xff\0\x1b[2J", "9" * 400, "a:b:c\n" * 50, "1-999999999999"]
)
@pytest.mark.parametrize("name", NAMES)
def test_any_file_may_hold_nonsense(tmp_path, name, content):
    root = unpack(name, tmp_path)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        before = path.read_text()
        path.write_text(content)
        assert json.dumps(asdict(look(root)))
        path.write_text(before)
    for path in files:
        path.write_text(content)
    assert look(root).cpu.usable_cores > 0


@pytest.mark.parametrize("name", NAMES)
def test_any_file_may_be_unreadable(tmp_path, name):
    root = unpack(name, tmp_path)
    for path in [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]:
        path.unlink()
        # A link to itself fails to open for everybody, root included, as a forbidden file does for others.
        path.symlink_to(path.name)
    hardware = look(root)
    assert hardware.memory.total == 0
    assert said(hardware, "/proc/meminfo")


def test_llama_has_the_last_word_on_features(tmp_path):
    info = SystemInfo("0.3.36", {"CPU": ("SSE3", "AVX2", "OPENMP")}, gpu_offload=False)
    hardware = recorded("bare_metal", tmp_path, ask_llama=lambda: info)
    assert hardware.cpu.features == ("SSE3", "AVX2", "OPENMP")
    assert hardware.cpu.features_source == "llama.cpp"
    assert hardware.gpu_offload is False
    assert said(hardware, "without AVX512")
    assert said(hardware, "without GPU support")


def test_system_info_of_several_back_ends():
    text = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | SVE_CNT = 16 | REPACK = 1 | "
    assert features_from_system_info(text) == {
        "CUDA": ("ARCHS=890", "USE_GRAPHS"),
        "CPU": ("SSE3", "AVX2", "SVE_CNT=16", "REPACK"),
    }
    assert features_from_system_info("") == {}


@given(st.text())
def test_system_info_of_any_text(text):
    features_from_system_info(text)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "signal 6"),
        ("raise ModuleNotFoundError(\"No module named 'llama_cpp'\")", "not installed"),
        ("raise OSError('libcuda.so.1: cannot open shared object file')", "libcuda.so.1"),
        ("print('not json')", "makes no sense"),
        ("print('[]')", "makes no sense"),
        ("import time; time.sleep(60)", "within 1 seconds"),
    ],
)
def test_child_that_fails_gives_one_sentence(program, words):
    with pytest.raises(SystemInfoUnavailable, match=words):
        ask_system_info(1.0 if "sleep" in program else 30.0, (sys.executable, "-c", program))


def test_missing_python_gives_one_sentence(tmp_path):
    with pytest.raises(SystemInfoUnavailable, match="could not be started"):
        ask_system_info(5, (str(tmp_path / "python"),))


def test_child_does_not_import_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "llama_cpp.py").write_text("raise SystemExit('the wrong llama_cpp')")
    monkeypatch.chdir(tmp_path)
    assert ask_system_info().features["CPU"]


def test_this_machine():
    hardware = detect(Path.cwd() / "not" / "there" / "yet.gguf")
    ram = psutil.virtual_memory()
    assert hardware.memory.total == ram.total
    assert 0 < hardware.memory.usable <= hardware.memory.available
    assert 0 < hardware.cpu.usable_cores <= hardware.cpu.logical_cores == psutil.cpu_count()
    assert hardware.cpu.features_source == "llama.cpp"
    assert hardware.gpu_offload is not None
    usage = os.statvfs(Path.cwd())
    assert hardware.disk.free == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.05)
    assert hardware.disk.file_system
    assert json.loads(json.dumps(asdict(hardware)))["cpu"]["model"] == hardware.cpu.model


def test_bandwidth_of_this_machine():
    bandwidth = measure_bandwidth(2, 1 << 30, seconds=0.1)
    assert 0.2e9 < bandwidth.bytes_per_second < 5e12
    assert bandwidth.threads in (1, 2)
    assert bandwidth.measured_at.endswith("+00:00")


def test_bandwidth_is_bytes_over_seconds_and_takes_little_memory(monkeypatch):
    """A clock that counts its calls: every round over the block then lasts exactly one tick."""
    sizes = []
    import numpy as np

    real = np.empty
    monkeypatch.setattr(np, "empty", lambda n, dtype: sizes.append(n * 8) or real(n, dtype))
    ticks = iter(range(1000))
    bandwidth = measure_bandwidth(1, 256 << 20, seconds=0, clock=lambda: float(next(ticks)))
    assert sum(sizes) == 32 << 20
    assert bandwidth.bytes_per_second == 32 << 20
    sizes.clear()
    measure_bandwidth(3, 1 << 40, seconds=0)
    assert sum(sizes) <= 256 << 20


def test_cpu_lists():
    assert cpu_list("0-3,8") == {0, 1, 2, 3, 8}
    assert cpu_list("") == cpu_list("none") == cpu_list("3-") - {3} == set()


def test_tree_never_leaves_its_root(tmp_path):
    (tmp_path / "proc").mkdir()
    assert Tree(tmp_path).text("/proc/meminfo") is None
    assert Tree(tmp_path).children("/sys") == []


def test_the_nouns_are_cheap():
    """Reading a profile needs the data classes, and must not cost the import of numpy."""
    program = (
        "import sys, quantdeck.workbench.profile\n"
        "assert not {'numpy', 'psutil', 'filelock', 'tomlkit'} & set(sys.modules)\n"
        "from quantdeck.workbench.hardware import detect\n"
        "import quantdeck.workbench.hardware.bandwidth\n"
        "from quantdeck.workbench.hardware import measure_bandwidth\n"
        "assert callable(detect) and callable(measure_bandwidth)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
