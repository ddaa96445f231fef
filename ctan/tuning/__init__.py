"""A search for settings by the tuning error: `ctan tune`, and the pipeline of that name."""

from ctan.tuning.search import Tuned, tune
from ctan.tuning.space import Searched, default_space

__all__ = ["Searched", "Tuned", "default_space", "tune"]
