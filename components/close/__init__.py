"""The close step."""

from components.close.component import close

__all__ = ["close"]
