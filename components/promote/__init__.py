"""The promote step."""

from components.promote.component import promote

__all__ = ["promote"]
