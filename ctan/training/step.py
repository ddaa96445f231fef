"""One step's losses and gradients, the same however many processes share its cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """

    network: Network
    weighting: EqualWeighting
    tasks: Sequence[Task]
    precision: Precision
    ranks: Ranks
    foreground_weight: float = 0.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the network, those that learn."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of all processes' cases, by task, and their total `""`.

        Args:
            batch: this process' cases.

        Raises:
            DataError: in all processes when one has a loss that is not finite, naming its cases.
        """
        batch = to_device(batch, self.ranks.device)
        announce(self.network, batch)
        with autocast(self.ranks.device, self.precision):
            outputs = self.network(batch["image"])
        targets, counted = batch["targets"], bool(batch["counts"].all())
        own = self._losses(outputs, targets)
        counts = {task.name: task.loss_count(targets[task.name]) if counted else 0 for task in self.tasks}
        losses = of_all(own, counts, self.ranks)
        total = self.weighting(losses)
        if not torch.isfinite(total):
            self._explain(total, own, batch["case_id"])
        return {"": total, **losses}

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

        Raises:
            DataError: in all processes when one has a loss that is not finite, naming its cases.
        """
        counted = bool(batch["counts"].all())
        parts = [to_device(part, self.ranks.device) for part in portions_of(batch, size)]
        counts = torch.stack(
            [torch.stack([self._count(task, part, counted) for task in self.tasks]) for part in parts]
        )  # (portions, tasks)
        shares = counts / self.ranks.add(counts.sum(0)).clamp_min(1)
        weights, parameters = self.weighting.weights(), self.parameters
        of_tasks: Gradients = {task.name: [None] * len(parameters) for task in self.tasks}
        for parameter in parameters:
            parameter.grad = None
        values = torch.zeros(len(self.tasks), dtype=torch.float64, device=self.ranks.device)
        for part, share in zip(parts, shares, strict=True):
            announce(self.network, part)
            with autocast(self.ranks.device, self.precision):
                outputs = self.network(part["image"])
            own = self._losses(outputs, part["targets"])
            terms = [part_of.to(loss) * loss for part_of, loss in zip(share, own.values(), strict=True)]
            values += torch.stack([term.detach().double() for term in terms])
            if isinstance(self.weighting, GradientWeighting):
                named = {task.name: term for task, term in zip(self.tasks, terms, strict=True)}
                add_gradients(of_tasks, task_gradients(named, parameters, Ranks(self.ranks.device)))
                continue
            torch.stack([weights[t.name] * term for t, term in zip(self.tasks, terms, strict=True)]).sum().backward()
        mine = dict(zip((task.name for task in self.tasks), values.clone(), strict=True))
        values = self.ranks.add(values)
        losses = {task.name: value.to(terms[0].dtype) for task, value in zip(self.tasks, values, strict=True)}
        self.weighting.zero_grad()
        total = self.weighting(losses)
        if not torch.isfinite(total):
            self._explain(total, mine, batch["case_id"])
        if isinstance(self.weighting, GradientWeighting):
            self._combine({name: summed(of_one, parameters, self.ranks) for name, of_one in of_tasks.items()})
            return {"": total, **losses}
        if total.requires_grad:
            total.backward()
        self._share_gradients()
        return {"": total.detach(), **losses}

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
        return torch.as_tensor(count, dtype=torch.float64, device=self.ranks.device)

    def _combine(self, gradients: Gradients) -> None:
        combined = cast(GradientWeighting, self.weighting).combine(gradients, self.ranks)
        for parameter, gradient in zip(self.parameters, combined, strict=True):
            parameter.grad = gradient

    def _share_gradients(self) -> None:
        parameters = self.parameters
        gradients = summed([p.grad for p in parameters], parameters, self.ranks)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _explain(self, total: Tensor, own: Mapping[str, Tensor], case_ids: list[str]) -> None:
        is_own = not all(torch.isfinite(loss) for loss in own.values())
        found = [case_id for of_one in self.ranks.gather(case_ids if is_own else []) for case_id in of_one]
        raise DataError(f"the loss became {total.item()} at case {', '.join(dict.fromkeys(found or case_ids))}")
