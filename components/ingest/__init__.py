"""The ingest step."""

from components.ingest.component import ingest

__all__ = ["ingest"]
