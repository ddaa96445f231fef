"""`Prediction`: what a model says of one case at native resolution, whatever kinds of task it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LABEL = "PREDICTED, RESEARCH USE ONLY"  # on everything that is written


@dataclass(frozen=True)
class Prediction:
    """What is predicted of one case; arrays lie on its grid, in the axes of `Case`.

    Attributes:
        masks: structure -> bool.
        doses: `"dose"` -> float32, Gy.
        probabilities: label -> its classes -> probability.
        numbers: name -> number, in the unit of the description.
        maps: task -> (num_outputs, *axes), of kinds of task that are none of these.
    """

    masks: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    doses: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[Prediction]) -> Prediction:
        """Return what several tasks say of one case."""
        joined: dict[str, dict[str, Any]] = {name: {} for name in cls.__dataclass_fields__}
        for part in parts:
            for name, values in joined.items():
                values.update(getattr(part, name))
        return cls(**joined)
