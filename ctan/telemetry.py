"""No library calls home: the one place that switches usage statistics off."""

from __future__ import annotations

import os

_OFF = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def disable_telemetry() -> None:
    """Switch off the usage statistics of every library, for this process and those it starts.

    Must be called before the libraries are imported: the command line and every pipeline step do so first.
    """
    os.environ.update(_OFF)
