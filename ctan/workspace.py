"""Where everything lies that is not given another place."""

from __future__ import annotations

import os
from pathlib import Path


def workspace() -> Path:
    """Return the folder of the embedded mode: `$CTAN_WORKSPACE`, default `./workspace`."""
    return Path(os.environ.get("CTAN_WORKSPACE") or "workspace").expanduser().resolve()
