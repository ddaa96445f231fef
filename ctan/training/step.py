"""One step's losses and gradients, the same however many processes share its cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ctan.errors import DataError
from ctan.networks import Network
from ctan.precision import Precision, autocast
from ctan.ranks import Ranks
from ctan.tasks import Task
from ctan.training.aggregation import GradientWeighting
from ctan.training.balance import Gradients, add_gradients, task_gradients
from ctan.training.data import Batch, to_device
from ctan.training.parallel import announce, of_all, summed
from ctan.training.portions import portions_of
from ctan.training.weighting import EqualWeighting


@dataclass
class Step:
    """What a step's gradients come from.

    Attributes:
        network: that learns.
        weighting: of the tasks' losses.
        tasks: what is learnt.
        precision: of the network.
        ranks: the processes that share the step's cases.
        foreground_weight: of `Task.foreground_loss`.
        compute: the network, or what computes the same faster.
        unread: of the steps since `read`: this process' cases, and the total, the losses, whether all of this process'
            own are finite. They stay on the device, which would have to be waited for.
    """

    network: Network
    weighting: EqualWeighting
    tasks: Sequence[Task]
    precision: Precision
    ranks: Ranks
    foreground_weight: float = 0.0
    compute: Callable[[Tensor], dict[str, Tensor]] | None = None
    unread: list[tuple[list[str], Tensor]] = field(default_factory=list)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the network, those that learn."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of all processes' cases, by task, and their total `""`; see `read`.

        Args:
            batch: this process' cases.
        """
        batch = to_device(batch, self.ranks.device)
        outputs = self._outputs(batch)
        targets, counted = batch["targets"], all(batch["counts"])
        own = self._losses(outputs, targets)
        counts = {task.name: task.loss_count(targets[task.name]) if counted else 0 for task in self.tasks}
        losses = of_all(own, counts, self.ranks)
        total = self.weighting(losses)
        self._note(batch, total, losses, own)
        return {"": total, **losses}

    def read(self) -> list[dict[str, float]]:
        """Return total and losses of every step since the last call, which all processes make after the same step.

        Raises:
            DataError: in all processes when one had a loss that is not finite, naming its cases of that step.
        """
        unread, self.unread = self.unread, []
        rows = torch.stack([row for _, row in unread]).tolist() if unread else []
        for (case_ids, _), (total, *_, is_finite) in zip(unread, rows, strict=True):
            if not math.isfinite(total):
                found = [case_id for of_one in self.ranks.gather([] if is_finite else case_ids) for case_id in of_one]
                raise DataError(f"the loss became {total} at case {', '.join(dict.fromkeys(found or case_ids))}")
        names = ["", *(task.name for task in self.tasks)]
        return [dict(zip(names, row, strict=False)) for row in rows]

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Set the gradients of all processes' cases.

        Those of the weighting need no sum: it sees the losses of all cases in every process.

        Args:
            losses: what `forward` returned.
        """
        parameters = self.parameters
        if isinstance(self.weighting, GradientWeighting):
            of_tasks = {task.name: losses[task.name] for task in self.tasks}
            self._combine(task_gradients(of_tasks, parameters, self.ranks))
            return
        for parameter in parameters:
            parameter.grad = None
        self.weighting.zero_grad()
        losses[""].backward()
        self._share_gradients()

    def in_portions(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """Do the same as `forward` and `backward` together, a few cases at a time, and return the losses.

        With `n` known things of a task in a portion and `N` in the whole batch, `L = sum n l / N`, as over processes.
        A weighting of losses is linear in them, its weights being those of `weights()`; one of gradients sees those of
        the whole batch.

        Args:
            batch: this process' cases.
            size: cases at a time.
        """
        counted = all(batch["counts"])
        parts = [to_device(part, self.ranks.device) for part in portions_of(batch, size)]
        counts = torch.stack(
            [torch.stack([self._count(task, part, counted) for task in self.tasks]) for part in parts]
        )  # (portions, tasks)
        shares = counts / self.ranks.add(counts.sum(0)).clamp_min(1)
        parameters = self.parameters
        of_tasks: Gradients = {task.name: [None] * len(parameters) for task in self.tasks}
        for parameter in parameters:
            parameter.grad = None
        values = torch.zeros(len(self.tasks), dtype=torch.float64, device=self.ranks.device)
        for part, share in zip(parts, shares, strict=True):
            own = self._losses(self._outputs(part), part["targets"])
            terms = [part_of.to(loss) * loss for part_of, loss in zip(share, own.values(), strict=True)]
            values += torch.stack([term.detach().double() for term in terms])
            if isinstance(self.weighting, GradientWeighting):
                named = {task.name: term for task, term in zip(self.tasks, terms, strict=True)}
                add_gradients(of_tasks, task_gradients(named, parameters, Ranks(self.ranks.device)))
                continue
            stacked = torch.stack(terms)
            (self.weighting.factors(stacked) * stacked).sum().backward()
        mine = dict(zip((task.name for task in self.tasks), values.clone(), strict=True))
        values = self.ranks.add(values)
        losses = {task.name: value.to(terms[0].dtype) for task, value in zip(self.tasks, values, strict=True)}
        self.weighting.zero_grad()
        total = self.weighting(losses)
        self._note(batch, total, losses, mine)
        if isinstance(self.weighting, GradientWeighting):
            self._combine({name: summed(of_one, parameters, self.ranks) for name, of_one in of_tasks.items()})
            return {"": total, **losses}
        if total.requires_grad:
            total.backward()
        self._share_gradients()
        return {"": total.detach(), **losses}

    def _outputs(self, batch: Batch) -> dict[str, Tensor]:
        announce(self.network, batch)
        with autocast(self.ranks.device, self.precision):
            return (self.network if self.compute is None else self.compute)(batch["image"])

    def _note(self, batch: Batch, total: Tensor, losses: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        """Keep what `read` returns."""
        is_finite = torch.stack([loss.detach() for loss in own.values()]).isfinite().all()
        values = [total, *losses.values(), is_finite]
        self.unread.append((batch["case_id"], torch.stack([value.detach().to(total.dtype) for value in values])))

    def _losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses by task; with deep supervision the mean over levels, weighted by `2^-k`."""
        coarser, losses = self.network.take_coarser(), {}
        for task in self.tasks:
            raws = [outputs[task.name], *coarser.get(task.name, ())]
            of_levels = [self._loss(task, raw, targets[task.name]) for raw in raws]
            weights = [0.5**level for level in range(len(raws))]
            losses[task.name] = (
                of_levels[0]
                if len(raws) == 1
                else torch.stack([w / sum(weights) * loss for w, loss in zip(weights, of_levels, strict=True)]).sum()
            )
        return losses

    def _loss(self, task: Task, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        loss = task.loss(output, target)
        more = task.foreground_loss(output, target) if self.foreground_weight else None
        return loss if more is None else loss + self.foreground_weight * more

    def _count(self, task: Task, part: Batch, counted: bool) -> Tensor:
        count = task.loss_count(part["targets"][task.name]) if counted else 0
        if isinstance(count, Tensor):
            return count.double()
        return torch.full((), count, dtype=torch.float64, device=self.ranks.device)

    def _combine(self, gradients: Gradients) -> None:
        combined = cast(GradientWeighting, self.weighting).combine(gradients, self.ranks)
        for parameter, gradient in zip(self.parameters, combined, strict=True):
            parameter.grad = gradient

    def _share_gradients(self) -> None:
        parameters = self.parameters
        gradients = summed([p.grad for p in parameters], parameters, self.ranks)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
