"""A step's cases taken a few at a time where memory is not enough for all: same global batch, same gradients.

Gradients are summed over the portions in another order than over a whole batch, so that weights agree to the last
digits and not bit for bit: when which size was used is part of a model's record, and training again follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ctan.training.checkpoint import Position
    from ctan.training.data import Batch

Change = tuple[int, int, int]  # epoch and step from which on, cases of a process at a time (0: all of its share)


class Portions:
    """How many cases of its share a process takes at a time, and since when.

    Args:
        changes: so far, of a training that goes on.
    """

    def __init__(self, changes: Sequence[Sequence[int]] = ()) -> None:
        self.changes: list[Change] = [(epoch, step, size) for epoch, step, size in changes]

    def size(self, position: Position) -> int:
        """Return the size at a place of the training; 0: the whole share."""
        here = (position.epoch, position.step)
        return next((size for epoch, step, size in reversed(self.changes) if (epoch, step) <= here), 0)

    def begin(self, position: Position, share: int, wanted: int, halvings: int) -> None:
        """Decide with which size training begins, or goes on.

        It never grows again: what did not fit once would not fit later.

        Args:
            position: of the training.
            share: cases of a process in a step.
            wanted: `training.micro_batch`; 0: all.
            halvings: how often memory was not enough since this step began.

        Raises:
            DataError: when memory was not enough for a single case.
        """
        before, whole = self.size(position), min(wanted or share, share)
        size = whole
        for _ in range(halvings):
            if size == 1:
                raise DataError(
                    "memory is not enough for one case at a time: use a smaller preprocess.grid_shape, smaller "
                    "network.base_width and max_width, or give the step more memory"
                )
            size = (size + 1) // 2
        size = min(size, before or share)
        now = 0 if size >= share else size
        if now != before:
            self.changes.append((position.epoch, position.step, now))


def check_network(network: nn.Module, setting: str) -> None:
    """Refuse what batch norm does not allow: it looks at all cases of a step together, once.

    Args:
        network: to be trained.
        setting: that computes a few cases at a time, or twice.

    Raises:
        ConfigError: when there is such a layer.
    """
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ConfigError(
            f"{setting}: batch norm looks at all cases of a step together, which is not possible a few at a time, and "
            f"once; use network.norm=instance or group, or give the step more memory"
        )


def portions_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch in portions of at most `size` cases."""
    number = len(batch["case_id"])
    for start in range(0, number, size):
        yield _part(batch, slice(start, start + size))


def _part(value: Any, where: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _part(inner, where) for name, inner in value.items()}
    if isinstance(value, Tensor | list | tuple):
        return value[where]
    raise TypeError(f"a batch holds tensors and lists, not {type(value).__name__}")
