"""Which code runs, the commit and the container image, and on what: threads and processor."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

IMAGE_VARIABLE = "CTAN_IMAGE"  # set by the compiled pipeline
_COMMIT_VARIABLE = "CTAN_GIT_COMMIT"  # set in the image


def in_image() -> bool:
    """Whether this process runs in a container of the image."""
    return _COMMIT_VARIABLE in os.environ


def image_reference() -> str | None:
    """Return the image this process runs in as the pipeline names it, None outside of one."""
    # The compiled pipeline names an image also where its steps are plain processes.
    return os.environ.get(IMAGE_VARIABLE) if in_image() else None


def git_commit() -> str | None:
    """Return the commit that is running, with `-dirty` when it was changed; None when nobody knows.

    In an image that is the one it was built from, else that of the checkout `ctan` runs from.
    """
    return os.environ.get(_COMMIT_VARIABLE) or _checkout_commit()


def machine_facts() -> dict[str, str]:
    """Return what else decides the last bits of weights: threads, instructions, processor, version of PyTorch."""
    import torch

    return {
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def _checkout_commit() -> str | None:
    package = Path(__file__).parent
    # A package installed into an environment inside some other checkout is not part of it: ask whether git knows us.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
