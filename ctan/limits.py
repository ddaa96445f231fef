"""How many cores and how much memory this process may use: those of its container, not those of the node.

A pod with a limit of 8 cores on a node of 64 sees 64: workers and threads by that number run against the quota, and
their memory against the pod's. Sources: Linux's cgroup-v2.rst (cpu.max, memory.max), cgroup-v1 (cfs_quota_us).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_SHARE_OF_WORKERS = 0.8  # of the memory; the rest is the parent's and the page cache's
WORKER_BYTES = 2 * 1024**3  # assumed for a worker that reads a CT of 512 x 512 x 600 with structures and a dose
_SPINS = "1000"


def cores() -> int:
    """Return the cores that this process may use, at least one: by affinity and by quota, rounded down."""
    try:
        found = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        found = float(os.cpu_count() or 1)
    for folder in _folders("cpu"):
        with suppress(OSError, ValueError, IndexError):
            quota, period = (folder / "cpu.max").read_text().split()
            found = min(found, found if quota == "max" else int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            found = min(found, int(quota) / int(period) if int(quota) > 0 else found)
    return max(1, int(found))


def memory_bytes() -> int:
    """Return the memory that this process and its children may use."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max"
                found = min(found, int((folder / name).read_text()))
    return found


def memory_peak_bytes() -> int:
    """Return the most memory that this container has used so far; 0 where nobody counts it."""
    for folder in _folders("memory"):
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with suppress(OSError, ValueError):
                return int((folder / name).read_text())
    return 0


def oom_kills() -> int:
    """Return how many processes of this container were killed for memory so far; 0 where nobody counts."""
    for folder in _folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, ValueError):
                counts = dict(line.split() for line in (folder / name).read_text().splitlines())
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
    return 0


def workers(asked: int | None = None, bytes_each: int = WORKER_BYTES) -> int:
    """Return how many processes to start: as many as asked for, else one a core as far as memory goes.

    Args:
        asked: None or 0: decide here.
        bytes_each: memory that one of them needs.
    """
    return asked or max(1, min(cores(), int(memory_bytes() * _SHARE_OF_WORKERS // bytes_each)))


def limit_threads() -> None:
    """Let libraries that are loaded after this start no more threads than there are cores, and wait without spinning.

    PyTorch's threads spin for milliseconds at each barrier. Where another process has one of the cores, they spin while
    the thread that they wait for has none: `benchmarks/busy_cores.py`.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup, of version 2 and 1, from its own up to the root's."""
    with suppress(OSError):
        for line in _OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _ROOT / controllers if controllers else _ROOT
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))
        yield _ROOT / controller  # version 1 inside a container, whose own path is not mounted
