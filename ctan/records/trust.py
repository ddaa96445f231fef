"""What a model says of how far it may be trusted: how its probabilities were calibrated, and what it learned from."""

from __future__ import annotations

from collections.abc import Mapping

from ctan.cases.spec import Description
from ctan.records.base import Number


class Calibration(Description):
    """How the probabilities of one label were calibrated: logits are divided by a temperature.

    Attributes:
        temperature: above 1 where the network was too sure.
        num_cases: tuning cases that it was fitted on. They chose the epoch too, and the errors below are theirs.
        log_loss, calibration_error: before and after.
    """

    temperature: float
    num_cases: int
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]

    def __str__(self) -> str:
        loss, error = (f"{before:.3f} -> {after:.3f}" for before, after in (self.log_loss, self.calibration_error))
        return f"temperature {self.temperature:.3g} from {self.num_cases} cases, log loss {loss}, calibration {error}"


class Embedding(Description):
    """Where training cases lie in the network's bottleneck, in its principal directions.

    Attributes:
        mean: (d,) over training cases.
        directions: (k, d), orthonormal.
        spread: (k,) standard deviations along them.
        remainder: root mean square length of what they leave over.
        held_out: distances of cases that no weight was fitted to.
    """

    mean: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    spread: tuple[float, ...]
    remainder: float
    held_out: tuple[float, ...]


class Fingerprint(Description):
    """What a model learned from, as numbers a case: none of them names a case.

    Attributes:
        features: names, in the order of the rows.
        floors: smallest standard deviation of each that counts.
        cases: a row a training case; at most a few hundred, chosen by hash.
        num_cases: all that it learned from.
        embedding: None where the architecture has no encoder that is known here.
    """

    features: tuple[str, ...]
    floors: tuple[float, ...]
    cases: tuple[tuple[Number, ...], ...]
    num_cases: int
    embedding: Embedding | None = None


class MeanExchange(Description):
    """What tasks take from each other, mean over tuning cases; see `ctan.networks.Exchange`.

    Attributes:
        stages: from the first to the deepest: `"task<-other"` -> norm received over norm of the own view.
        entropy: `"task<-other"` -> of the attention in the bottleneck.
        attention: `"task<-other"` -> rows of where a task looks in the other's features, a volume seen from the front:
            summed from posterior to anterior, superior first; sums to 1.
        num_cases: that it is the mean of.
    """

    stages: tuple[Mapping[str, float], ...]
    entropy: Mapping[str, float]
    attention: Mapping[str, tuple[tuple[float, ...], ...]] = {}
    num_cases: int


class Unusual(Description):
    """Why a case may lie outside of what a model learned from.

    Attributes:
        p: probability of a case at least as unusual among training cases.
        level: false alarms that were accepted; the case is outside where `p` is not above it.
        num_cases: that it was compared with.
        features: those that are out -> value, and the mean of training cases and how many of their standard deviations
            it lies from it.
    """

    p: float
    level: float
    num_cases: int
    features: Mapping[str, tuple[float, float, float]] = {}

    @property
    def outside(self) -> bool:
        """Whether the case is outside."""
        return self.p <= self.level
