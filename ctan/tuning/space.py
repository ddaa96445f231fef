"""What a search looks through."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ctan.errors import ConfigError

if TYPE_CHECKING:
    import optuna

    from ctan.cases import DataSpec
    from ctan.config import RunConfig

_RANGE = re.compile(r"(?P<low>[-+.\deE]+)\.\.(?P<high>[-+.\deE]+)")
_LOG_FROM = 10  # a range of positive numbers whose ends are further apart than this is searched by magnitude


@dataclass(frozen=True)
class Searched:
    """One setting that is searched.

    Attributes:
        field: dotted name.
        choices: to choose from; empty for a range.
        low, high: ends of a range, both included; whole numbers when both are.
    """

    field: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Searched:
        """Read `FIELD=LOW..HIGH` or `FIELD=[A, B, ...]`.

        Raises:
            ConfigError: when it is neither.
        """
        field, _, values = text.partition("=")
        found = _RANGE.fullmatch(values.strip())
        if found:
            low, high = (yaml.safe_load(found[end]) for end in ("low", "high"))
            # YAML takes 1e-4, without a point, for a word
            low, high = (end if isinstance(end, int) else float(end) for end in (low, high))
            if low < high:
                return cls(field.strip(), low=low, high=high)
        else:
            choices = yaml.safe_load(values) if values else None
            if isinstance(choices, list) and len(choices) > 1:
                return cls(field.strip(), tuple(choices))
        raise ConfigError(
            f"--search {text!r}: expected FIELD=LOW..HIGH or FIELD=[A, B, ...], such as "
            f"training.learning_rate=1e-4..1e-2"
        )

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Return the value that a trial takes."""
        if self.choices:
            return trial.suggest_categorical(self.field, list(self.choices))
        by_magnitude = self.low > 0 and self.high / self.low >= _LOG_FROM
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.field, self.low, self.high, log=by_magnitude)
        return trial.suggest_float(self.field, self.low, self.high, log=by_magnitude)


def default_space(config: RunConfig, spec: DataSpec) -> tuple[Searched, ...]:
    """Return what is searched unless it is said: learning rate, width, weighting, and what augmentation the data allow.

    Args:
        config: whose values lie in the middle.
        spec: of the data.
    """
    training, width = config.training, config.network.base_width
    widths = sorted({max(4, round(width * factor / 4) * 4) for factor in (0.5, 1, 1.5)})
    found = [
        Searched("training.learning_rate", low=training.learning_rate / 10, high=training.learning_rate * 4),
        Searched("training.task_weighting", ("equal", "dwa", "uncertainty", "upgrad")),
    ]
    if len(widths) > 1:
        found.append(Searched("network.base_width", tuple(widths)))
    if spec.augmentation.rotate_plane is not None:
        found.append(Searched("training.rotate_probability", low=0.0, high=0.5))
    if spec.augmentation.colour:
        found.append(Searched("training.colour_probability", low=0.0, high=0.5))
    if spec.augmentation.flip_axes and training.flip_probability:
        found.append(Searched("training.flip_probability", (0.0, 0.5)))
    return tuple(found)
