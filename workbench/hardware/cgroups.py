"""What Linux control groups leave us: memory and processor time, over the own group and all of its ancestors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from .tree import Tree, number

# v1 writes "no limit" as a number near 2**63, rounded down to a page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class MemoryGroup:
    """One group with a memory limit, in bytes. `current` counts the page cache; `inactive_file` of it is idle."""

    name: str
    limit: int
    current: int
    inactive_file: int

    @property
    def left(self) -> int:
        """Bytes that a new program may still take: idle page cache is given up for it."""
        return max(0, self.limit - max(0, self.current - self.inactive_file))


@dataclass(frozen=True)
class CpuQuota:
    """Processor time a group may take, in cores."""

    name: str
    cores: float


@dataclass(frozen=True)
class _Place:
    """A folder of one control group: version 1 or 2."""

    folder: str
    version: int

    @property
    def name(self) -> str:
        return f"control group {self.folder}"


def memory_groups(tree: Tree) -> list[MemoryGroup]:
    """All groups around us that limit memory, innermost first."""
    groups = (_memory_group(tree, place) for place in _places(tree, "memory"))
    return [group for group in groups if group is not None]


def cpu_quotas(tree: Tree) -> list[CpuQuota]:
    """All groups around us that limit processor time, innermost first."""
    quotas = (_cpu_quota(tree, place) for place in _places(tree, "cpu"))
    return [quota for quota in quotas if quota is not None]


def _memory_group(tree: Tree, place: _Place) -> MemoryGroup | None:
    folder = place.folder
    stat = tree.table(f"{folder}/memory.stat")
    if place.version == 2:
        # Above memory.high nothing is killed, but the kernel stalls the program until it is of no use.
        limits = [tree.integer(f"{folder}/memory.max"), tree.integer(f"{folder}/memory.high")]
        current = tree.integer(f"{folder}/memory.current")
        idle = number(stat.get("inactive_file"))
    else:
        # The hierarchical limit also knows ancestors that a container cannot see.
        limits = [tree.integer(f"{folder}/memory.limit_in_bytes"), number(stat.get("hierarchical_memory_limit"))]
        current = tree.integer(f"{folder}/memory.usage_in_bytes")
        idle = number(stat.get("total_inactive_file")) or number(stat.get("inactive_file"))
    real = [limit for limit in limits if limit is not None and 0 <= limit < _NO_LIMIT]
    return MemoryGroup(place.name, min(real), current or 0, idle or 0) if real else None


def _cpu_quota(tree: Tree, place: _Place) -> CpuQuota | None:
    if place.version == 2:
        words = (tree.text(f"{place.folder}/cpu.max") or "").split()
        quota, period = (number(word) for word in words) if len(words) == 2 else (None, None)
    else:
        quota = tree.integer(f"{place.folder}/cpu.cfs_quota_us")
        period = tree.integer(f"{place.folder}/cpu.cfs_period_us")
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return CpuQuota(place.name, quota / period)


def _places(tree: Tree, controller: str) -> list[_Place]:
    """The folders of our group and its ancestors that may hold `controller`, innermost first, v1 before v2."""
    found: list[_Place] = []
    for version, path in _memberships(tree, controller):
        for mount_root, mount_point in _mounts(tree, controller, version):
            folder = PurePosixPath(mount_point, _inside(path, mount_root))
            while True:
                found.append(_Place(str(folder), version))
                if str(folder) == mount_point or folder == folder.parent:
                    break
                folder = folder.parent
    return found


def _memberships(tree: Tree, controller: str) -> list[tuple[int, str]]:
    """(version, path) of our groups, from lines `4:memory:/docker/1f` and `0::/user.slice`."""
    found = []
    for line in (tree.text("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            found.append((1, path))
        elif controllers == "":
            found.append((2, path))
    return found


def _mounts(tree: Tree, controller: str, version: int) -> list[tuple[str, str]]:
    """(root within the hierarchy, mount point) of each place where the hierarchy can be read."""
    found = []
    for line in (tree.text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        v1 = version == 1 and kind[0] == "cgroup" and controller in kind[-1].split(",")
        if v1 or (version == 2 and kind[0] == "cgroup2"):
            found.append((unescape(fields[3]), unescape(fields[4])))
    if not found:
        guesses = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] if version == 2 else [f"/sys/fs/cgroup/{controller}"]
        found = [("/", guess) for guess in guesses if tree.exists(f"{guess}/cgroup.procs")]
    return found


def _inside(path: str, mount_root: str) -> str:
    """`path` as seen from the mount: a container mounts its own group as the root of what it sees."""
    if mount_root not in ("", "/"):
        inside = path == mount_root or path.startswith(mount_root + "/")
        path = path[len(mount_root) :] if inside else ""
    return "" if ".." in path.split("/") else path.lstrip("/")


def unescape(field: str) -> str:
    r"""A path as the kernel writes it in mount tables, where blanks are octal: `\040`."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
