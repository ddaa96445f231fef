"""The resolve step."""

from components.resolve.component import resolve

__all__ = ["resolve"]
