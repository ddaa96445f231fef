"""Which process this is, told so that another one can later say whether it still lives."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1


@cache
def this_process() -> str:
    """Return what no other process has ever been: host, its start, namespace of processes, id, start of the process."""
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}"


def host_of(identity: str) -> str:
    """Return the name of the host that an identity names, for people."""
    return identity.partition("/")[0] or "?"


def is_gone(identity: str) -> bool | None:
    """Say whether a process has ended; None when it ran where that cannot be seen from here.

    Args:
        identity: what `this_process` returned there.
    """
    place, _, rest = identity.rpartition("/")
    place, _, pid = place.rpartition("/")
    if place != _place() or not pid.isdigit():
        return None
    return _started(int(pid)) != rest


def end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended.

    Args:
        parent: id of the process that started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _place() -> str:
    """Return host, its start and the namespace in which process ids mean something. Two containers differ in it."""
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = str((proc / "self/ns/pid").readlink())
    except OSError:
        boot = namespace = "-"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str:
    """Return when a process started, in the system's own count, which a changed clock leaves alone; empty: no such."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _started_without_proc(pid)
    state, *others = text.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else others[18]


def _started_without_proc(pid: int) -> str:
    if Path("/proc/self").exists():
        return ""
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
