"""The kinds of task: what is predicted, how it is scored, and which way is better.

Knows neither data sets nor architectures. Importing this module does not import torch.

Array shapes: `B` batch, `S` structures, `K` classes, `...` spatial axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from ctan.cases import DataSpec, StoredCase


@dataclass(frozen=True)
class MetricSpec:
    """A figure of merit.

    Attributes:
        name: such as `"dice_mean"`.
        higher_is_better: which way is better.
        unit: unit to print, `""` for a ratio.
        label: name for tables and plots.
        scale: what a metric that is better when lower is divided by to stand beside `1 - Dice`.
    """

    name: str
    higher_is_better: bool
    unit: str
    label: str
    scale: float = 1.0

    @property
    def heading(self) -> str:
        """Label, unit and an arrow towards better, such as `"Dose score (Gy) ↓"`."""
        return f"{self.label}{f' ({self.unit})' if self.unit else ''} {'↑' if self.higher_is_better else '↓'}"


DICE_MEAN = MetricSpec("dice_mean", True, "", "Dice")
HD95 = MetricSpec("hd95_mm", False, "mm", "HD95")
JACCARD65 = MetricSpec("jaccard65", True, "", "Thresholded Jaccard")  # ISIC 2018 task 1: below 0.65 counts as 0
DOSE_SCORE = MetricSpec("dose_score", False, "Gy", "Dose score", scale=7.9)  # the distance baseline's, on OpenKBP
DVH_SCORE = MetricSpec("dvh_score", False, "Gy", "DVH score")
AUC = MetricSpec("auc", True, "", "AUC")
BALANCED_ACCURACY = MetricSpec("balanced_accuracy", True, "", "Balanced accuracy")
MACRO_AUC = MetricSpec("macro_auc", True, "", "Macro AUC")


@dataclass(frozen=True)
class Task:
    """One thing to predict. Networks, losses and tables are keyed by `name`."""

    name: str

    kind: ClassVar[str]
    version: ClassVar[int] = 1  # of target, loss and scores
    head: ClassVar[Literal["dense", "image"]]  # a map at the input's resolution, or a vector per image

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """What predictions are scored by; the first is the primary metric."""
        raise NotImplementedError

    @property
    def primary_metric(self) -> MetricSpec:
        """What models are chosen and compared by."""
        return self.metrics[0]

    @property
    def num_outputs(self) -> int:
        """Channels of the head's output."""
        raise NotImplementedError

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        """Return what the task learns from one case, without the batch axis.

        Args:
            stored: the case on the working grid.
            structures: names of `stored.masks`, in order.
        """
        raise NotImplementedError

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Return this task's scalar loss in float32.

        Args:
            output: (B, num_outputs, ...) raw head output.
            target: this task's entry of the batch, see each kind of task.
        """
        raise NotImplementedError

    def activate(self, output: Tensor) -> Tensor:
        """Turn raw head output into the predicted quantity (probability, Gy), same shape, float32."""
        raise NotImplementedError

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        """Return a cheap error on the working grid, about 0 (perfect) to 1 (simple baseline), to rank epochs by."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Describe the task so that `task_from_json` can rebuild it."""
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}}


@dataclass(frozen=True)
class Segmentation(Task):
    """Contouring: one sigmoid a structure, structures may overlap.

    Target: `masks` (B, S, ...) float 0/1 and `known` (B, S) bool. A structure that was not contoured is
    unknown, not absent: neither loss nor metric sees it.
    """

    structures: tuple[str, ...] = ()
    mirrored_pairs: tuple[tuple[str, str], ...] = ()  # (left, right): swapped by a left-right flip
    thresholded_jaccard: bool = False  # score by it too, as lesions are

    kind: ClassVar[str] = "segmentation"
    head: ClassVar[Literal["dense", "image"]] = "dense"

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return (DICE_MEAN, JACCARD65, HD95) if self.thresholded_jaccard else (DICE_MEAN, HD95)

    @property
    def num_outputs(self) -> int:
        return len(self.structures)

    @property
    def mirrored_order(self) -> tuple[int, ...]:
        """Structure order after a left-right flip: position s of the flipped image shows `structures[order[s]]`."""
        swap = dict(self.mirrored_pairs) | {b: a for a, b in self.mirrored_pairs}
        return tuple(self.structures.index(swap.get(name, name)) for name in self.structures)

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        order = [structures.index(name) for name in self.structures]
        return {"masks": stored.masks[order], "known": stored.known[order]}

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import segmentation_loss

        return segmentation_loss(output, target["masks"], target["known"])

    def activate(self, output: Tensor) -> Tensor:
        return output.float().sigmoid()

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        predicted, masks = (output > 0).flatten(2), target["masks"].bool().flatten(2)
        dice = 2 * (predicted & masks).sum(2) / (predicted.sum(2) + masks.sum(2)).clamp_min(1)
        return 1 - dice[target["known"]].mean().item() if target["known"].any() else 0.0


@dataclass(frozen=True)
class DoseRegression(Task):
    """Dose prediction. The head's output is dose over the case's own prescription.

    Target: `dose` (B, 1, ...) Gy, `mask` (B, 1, ...) 0/1, where dose can be non-zero, and `prescription_gy` (B,).
    `activate` returns the dose of a case that is prescribed `scale_gy`.
    """

    scale_gy: float = 70.0

    kind: ClassVar[str] = "dose"
    head: ClassVar[Literal["dense", "image"]] = "dense"

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return DOSE_SCORE, DVH_SCORE

    @property
    def num_outputs(self) -> int:
        return 1

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        import numpy as np

        prescription_gy = np.asarray(stored.prescription_gy, np.float32)
        return {"dose": stored.dose[None], "mask": stored.dose_mask[None], "prescription_gy": prescription_gy}

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import dose_loss

        return dose_loss(output, target["dose"] / _per_case(target["prescription_gy"], output), target["mask"])

    def activate(self, output: Tensor) -> Tensor:
        return output.float().clamp_min(0) * self.scale_gy

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        mask, prescription_gy = target["mask"].bool(), _per_case(target["prescription_gy"], output)
        dose = output.float().clamp_min(0) * prescription_gy
        return (dose - target["dose"]).abs()[mask].mean().item() / DOSE_SCORE.scale


def _per_case(values: Tensor, like: Tensor) -> Tensor:
    """Return (B,) values in the shape (B, 1, ...) of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Classification(Task):
    """Diagnosis: softmax over classes. Of two classes the second is the positive one, such as `("no", "yes")`.

    Target: `label` (B,) int64 and `known` (B,) bool.
    """

    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()  # from the training fold; empty for equal weights

    kind: ClassVar[str] = "classification"
    head: ClassVar[Literal["dense", "image"]] = "image"

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return (AUC, BALANCED_ACCURACY) if len(self.classes) == 2 else (BALANCED_ACCURACY, MACRO_AUC)

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        import numpy as np

        label = stored.labels.get(self.name)
        return {
            "label": np.asarray(self.classes.index(label) if label is not None else 0, np.int64),
            "known": np.asarray(label is not None),
        }

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import classification_loss

        return classification_loss(output, target["label"], target["known"], self.class_weights)

    def activate(self, output: Tensor) -> Tensor:
        return output.float().softmax(dim=1)

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        wrong = output.argmax(dim=1) != target["label"]
        return wrong[target["known"]].float().mean().item() if target["known"].any() else 0.0


METRICS = {
    spec.name: spec for spec in (DICE_MEAN, HD95, JACCARD65, DOSE_SCORE, DVH_SCORE, AUC, BALANCED_ACCURACY, MACRO_AUC)
}


def with_class_weights(tasks: Sequence[Task], labels: Sequence[Mapping[str, str]]) -> tuple[Task, ...]:
    """Return the tasks, classifications without class weights with those of the training cases.

    A class weighs `N / (K N_k)`: N cases with a known label, K classes of which N_k cases are of this one; 0 without
    any.

    Args:
        tasks: what is learnt.
        labels: of every training case, by name; a label that is not known has no entry.
    """

    def weighted(task: Task) -> Task:
        if not isinstance(task, Classification) or task.class_weights:
            return task
        known = [of_case[task.name] for of_case in labels if task.name in of_case]
        counts = [known.count(name) for name in task.classes]
        weights = [len(known) / (len(task.classes) * count) if count else 0.0 for count in counts]
        return replace(task, class_weights=tuple(weights))

    return tuple(weighted(task) for task in tasks)


def tasks_of(spec: DataSpec) -> tuple[Task, ...]:
    """Return the tasks that a description of data names."""
    return tuple(task_from_json(dict(task)) for task in spec.tasks)


TASK_KINDS: dict[str, type[Task]] = {cls.kind: cls for cls in (Segmentation, DoseRegression, Classification)}


def task_from_json(value: dict[str, Any]) -> Task:
    """Rebuild a task described by `Task.to_json`."""
    fields: dict[str, Any] = {
        name: tuple(tuple(x) if isinstance(x, list) else x for x in v) if isinstance(v, list) else v
        for name, v in value.items()
        if name != "kind"
    }
    return TASK_KINDS[value["kind"]](**fields)
