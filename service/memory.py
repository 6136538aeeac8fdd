"""Memory: how much a new encoder may take, how much this process holds, and how to give it back.

The kernel answers through `/proc` and the cgroups. Where there is neither (macOS), what is free and
what is held are unknown: None, and the caller says so instead of guessing.
"""

import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 of the cgroups writes the largest multiple of a page where it means no limit."""


def available_bytes(
    *,
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
) -> int | None:
    """What can be taken before this machine, or a cgroup that the process is in, runs out.

    File cache that nobody uses counts as free: the kernel drops it first.
    """
    rooms = [*_cgroup_rooms(cgroups, membership)]
    machine = _fields(meminfo).get("MemAvailable:")
    if machine is not None:
        rooms.append(machine * 1024)
    return max(0, min(rooms)) if rooms else None


def resident_bytes(*, status: Path = Path("/proc/self/status")) -> int | None:
    """The physical memory of this process now, pages of mapped files included."""
    kibibytes = _fields(status).get("VmRSS:")
    return None if kibibytes is None else kibibytes * 1024


def peak_bytes(*, status: Path = Path("/proc/self/status")) -> int:
    """The most physical memory that this process ever held.

    Why not `getrusage` alone: on Linux a child's number begins at what its parent held.
    """
    kibibytes = _fields(status).get("VmHWM:")
    if kibibytes is not None:
        return kibibytes * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def data_bytes(*, status: Path = Path("/proc/self/status")) -> int | None:
    """What RLIMIT_DATA counts: private memory that may be written, touched or not."""
    kibibytes = _fields(status).get("VmData:")
    return None if kibibytes is None else kibibytes * 1024


def trim() -> None:
    """Hand what has been freed back to the system.

    glibc keeps it otherwise, a model's worth at every swap. Other allocators (musl's, macOS's) give
    back by themselves and offer no such call: there nothing is done.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def _cgroup_rooms(cgroups: Path, membership: Path) -> Iterator[int]:
    """What each limit on the way from this process's cgroup to the root has left."""
    for line in _read(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        group = Path(own.lstrip("/"))
        # In a container the mount is often the container's own group, which `own` does not name.
        for folder in {mount / group, *(mount / parent for parent in group.parents), mount}:
            yield from _rooms(folder, v1=bool(controllers))


def _rooms(folder: Path, *, v1: bool) -> Iterator[int]:
    limits = ["memory.limit_in_bytes"] if v1 else ["memory.max", "memory.high"]
    usage = _number(folder / ("memory.usage_in_bytes" if v1 else "memory.current"))
    if usage is None:
        return
    cache = _fields(folder / "memory.stat").get("total_inactive_file" if v1 else "inactive_file", 0)
    for name in limits:
        limit = _number(folder / name)  # None where it says `max`
        if limit is not None and limit < UNLIMITED:
            yield limit - max(0, usage - cache)


def _fields(path: Path) -> dict[str, int]:
    """The lines of a name and a number; whatever follows the number is its unit."""
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
