"""The check step."""

from components.check.component import check

__all__ = ["check"]
