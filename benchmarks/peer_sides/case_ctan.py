"""A prepared case on the working grid, from ctan's store: python case_ctan.py POINTER CASE."""

import sys
from pathlib import Path

from serve import serve

from ctan.memory import keep_freed_memory
from ctan.store import StorePointer, open_store

keep_freed_memory()
store = open_store(StorePointer.load(Path(sys.argv[1])))


def arrays(case):
    """Return all that a case holds."""
    return {"image": case.image["ct"], "masks": case.masks, "dose": case.dose}


serve(lambda: store.load(sys.argv[2]), arrays)
