"""How one side of a comparison is asked: `go` does the work and answers what it took, `save PATH` keeps the result.

Runs in the environment of either side, so that it imports nothing but NumPy. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def serve(
    work: Callable[[], Any],
    arrays: Callable[[Any], Mapping[str, np.ndarray]] = lambda _: {},
    facts: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Answer until standard input ends.

    Args:
        work: what is measured.
        arrays: what of its result is compared.
        facts: further numbers of this side, such as multiply-accumulates.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    before = _peak()
    result = None
    print(json.dumps({"ready": True, **facts()}), file=answers, flush=True)
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "go":
            result = None
            start = time.process_time()
            result = work()
            took = time.process_time() - start
            print(json.dumps({"cpu": took, "peak": _peak(), "before": before}), file=answers, flush=True)
        elif command == "save":
            np.savez(path, **arrays(result))
            print(json.dumps({"saved": path}), file=answers, flush=True)


def _peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
