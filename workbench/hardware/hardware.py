"""The machine as the rest of the product sees it: plain frozen data, ready for `dataclasses.asdict` and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """The processor, and how much of it this process may use.

    `usable_cores` is a number of logical cores, bounded by affinity, cpuset and quota; a quota of half a core is 0.5.
    `cores_source` says in a word or two what bounds it, and is empty when nothing does.
    `features` are named as llama.cpp names them (AVX2, AVX512_VNNI, NEON, DOTPROD ...); `features_source` says whether
    llama.cpp itself reported them ("llama.cpp"), the operating system did ("system"), or nobody ("").
    """

    model: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: float
    cores_source: str
    features: tuple[str, ...]
    features_source: str

    @property
    def whole_cores(self) -> int:
        """Workers that make sense: the usable cores rounded down, at least one."""
        return max(1, int(self.usable_cores))


@dataclass(frozen=True)
class Memory:
    """RAM in bytes. `usable` is what a new program may take now without swapping or being killed.

    `limit` is the tightest limit over all control groups, None without one, and `limit_source` says where it comes
    from. `usable` is bounded by all groups (limit - (current - inactive page cache)) and by `available`.
    """

    total: int
    available: int
    limit: int | None
    limit_source: str
    usable: int
    swap_total: int
    swap_free: int


@dataclass(frozen=True)
class Disk:
    """The file system that holds `path`, in bytes; `free` is what this user may still write. Type "" if unknown."""

    path: str
    total: int
    free: int
    file_system: str


@dataclass(frozen=True)
class Gpu:
    """One graphics processor. Sizes in bytes, None where nobody could tell.

    `vendor` is "NVIDIA", "AMD", "Intel", "Apple" or ""; `backend` is how llama.cpp would drive it: "CUDA", "ROCm",
    "SYCL", "Metal" or "Vulkan". `unified` means that its memory is the machine's RAM and must not be added to it;
    `integrated` that it sits in the processor and is no card of its own. `compute_capability` is NVIDIA's, as "8.9".
    `address` tells cards apart (PCI address or driver's identifier).
    """

    name: str
    vendor: str
    backend: str
    memory_total: int | None
    memory_free: int | None
    unified: bool
    integrated: bool
    driver: str
    compute_capability: str
    address: str


@dataclass(frozen=True)
class Kernels:
    """How long llama.cpp's kernels take on this processor for what a single token needs, in nanoseconds.

    Of one core: `per_byte` of weights in its cache by type, `per_row` of a weight matrix, `per_head_element` of a key
    or value for each head that looks at it, by the size of heads, `per_far_head` of a head's key and value more where
    those of the token before are a page away and in no cache, and `per_node_element` of a step between the matrices. By
    the number of threads that compute: `per_node`, what each step of the graph costs for itself, and what a byte takes
    that is in no cache (`per_byte_from_memory`) and the end of a matrix of such bytes (`per_matrix_from_memory`).
    `cache` are the bytes up to which a model stays in the caches.
    """

    per_byte: Mapping[str, float]
    per_row: float
    per_head_element: Mapping[str, float]
    per_far_head: float
    per_node_element: float
    per_node: Mapping[str, float]
    per_byte_from_memory: Mapping[str, float]
    per_matrix_from_memory: Mapping[str, float]
    cache: int


@dataclass(frozen=True)
class Bandwidth:
    """Measured memory bandwidth for reading: bytes a second with `threads` threads, at an ISO 8601 time.

    `kernels` is None where llama.cpp could not be asked to compute.
    """

    bytes_per_second: float
    threads: int
    measured_at: str
    kernels: Kernels | None = None


@dataclass(frozen=True)
class Hardware:
    """What this machine is and what of it may be used, found at `detected_at` (ISO 8601).

    `environment` names a container or WSL around us ("docker", "podman", "kubernetes", "lxc", "WSL 2", ...), "" if
    none. `gpu_offload` is whether the installed llama.cpp was built to use a GPU, None if it could not be asked.
    `notes` are plain sentences about what could not be found out, or needs to be known to read the rest.
    """

    system: str
    environment: str
    cpu: Cpu
    memory: Memory
    disk: Disk
    gpus: tuple[Gpu, ...]
    gpu_offload: bool | None
    detected_at: str
    notes: tuple[str, ...]

    @property
    def graphics_memory_free(self) -> int:
        """Bytes free on all cards with memory of their own; unified and integrated ones add nothing to the RAM."""
        return sum(gpu.memory_free or 0 for gpu in self.gpus if not (gpu.unified or gpu.integrated))
