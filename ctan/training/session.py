"""The moving parts of one training, and how they are saved and restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ctan.cases import DataSpec
from ctan.config import RunConfig
from ctan.inputs import Inputs
from ctan.networks import Network, build_network
from ctan.ranks import Ranks
from ctan.tasks import Task
from ctan.training.aggregation import make_weighting
from ctan.training.checkpoint import Position, restore_rng_state, rng_state
from ctan.training.optim import make_ema, make_optimizer, make_schedule
from ctan.training.parallel import prepare
from ctan.training.portions import Portions, check_network
from ctan.training.weighting import EqualWeighting


@dataclass
class Best:
    """The best tuning error so far and the weights it was measured with."""

    error: float = float("inf")
    epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Session:
    """Everything that changes while a network trains.

    Attributes:
        position: how far training is.
        sums: loss sums of the present epoch by task, `""` for the total.
        seconds: spent in steps so far, all epochs.
        num_steps_done: steps so far, all epochs.
        history: a row an epoch and task, see `history.parquet` in docs/formats.md.
        run_id: MLflow run, empty before it is opened.
        finished: training is complete, early stopping included.
        portions: how many cases a process takes at a time.
    """

    network: Network
    weighting: EqualWeighting
    optimizer: AdamW
    schedule: LambdaLR
    ema: AveragedModel
    position: Position = field(default_factory=Position)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    num_steps_done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    run_id: str = ""
    finished: bool = False
    portions: Portions = field(default_factory=Portions)

    @classmethod
    def start(
        cls,
        arch: str,
        tasks: Sequence[Task],
        spec: DataSpec,
        config: RunConfig,
        steps_per_epoch: int,
        ranks: Ranks,
    ) -> Session:
        """Build network, weighting, optimiser, schedule and moving average on this process' device."""
        network = build_network(arch, tasks, Inputs.of(config.data).num_channels(spec), config.network)
        prepare(network, ranks)
        if config.training.recompute_activations:
            check_network(network, "training.recompute_activations")
            network.recompute_activations()
        weighting = make_weighting(config.training.task_weighting, [task.name for task in tasks])
        network, weighting = network.to(ranks.device), weighting.to(ranks.device)
        ema = make_ema(network, config.training)
        optimizer = make_optimizer(network, weighting, config.training)
        schedule = make_schedule(optimizer, config.training.epochs * steps_per_epoch, config.training)
        return cls(network, weighting, optimizer, schedule, ema)

    _MODULES = ("network", "weighting", "optimizer", "schedule", "ema")
    _VALUES = ("sums", "seconds", "num_steps_done", "history", "run_id", "finished")

    def state(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values."""
        return {
            **{name: getattr(self, name).state_dict() for name in self._MODULES},
            **{name: getattr(self, name) for name in self._VALUES},
            "position": [self.position.epoch, self.position.step],
            "portions": [list(change) for change in self.portions.changes],
            "best": [self.best.error, self.best.epoch, self.best.weights],
            "rng": rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        for name in self._MODULES:
            getattr(self, name).load_state_dict(state[name])
        for name in self._VALUES:
            setattr(self, name, state[name])
        self.position = Position(*state["position"])
        self.portions = Portions(state.get("portions", ()))
        self.best = Best(*state["best"])
        restore_rng_state(state["rng"])

    def evaluated_weights(self, config: RunConfig) -> dict[str, Tensor]:
        """Return what is evaluated: the final moving average; with early stopping, the best on the tuning cases."""
        chosen = self.best.weights if config.training.early_stopping_patience else {}
        return chosen or {name: value.cpu() for name, value in self.ema.module.state_dict().items()}
