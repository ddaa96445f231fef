"""How the process keeps freed memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed blocks for the next step instead of handing them back to the kernel.

    Volumes are larger than malloc's threshold for mapping memory anew, so that every temporary array of every step
    costs a page fault per 4 KiB. Returns whether the C library took the settings (it is glibc's `mallopt`).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return sum(mallopt(name, value) == 1 for name, value in wanted.items()) == len(wanted)
