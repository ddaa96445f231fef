"""Two baselines that know no network, and the floor that the working grid imposes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Case, DataSpec, StoredCase
from ctan.config import EvaluationConfig
from ctan.evaluation.cases import EVALUATION, Row
from ctan.evaluation.scoring import score_case, score_dose_map
from ctan.metrics import CLASS_FREQUENCIES
from ctan.store import Store
from ctan.tasks import DoseRegression, Segmentation, Task

MEAN, DISTANCE, GRID_FLOOR = "baseline-mean", "baseline-distance", "grid-floor"
LABELS = {
    MEAN: "Mean dose inside the mask",
    DISTANCE: "Mean dose at equal distance to the targets",
    CLASS_FREQUENCIES: "Class frequencies of the training cases",
}
_FAR_MM = 127  # the store clips distances there


class DoseStatistics:
    """What the baselines learn from the training cases, on the working grid.

    Doses are scaled to one prescription, that of the first case.
    """

    def __init__(self) -> None:
        size = 2 * _FAR_MM + 1
        self._total, self._count = np.zeros(size), np.zeros(size)
        self.prescription_gy = 0.0

    def add(self, case: StoredCase) -> None:
        """Take note of a training case's dose inside the possible-dose mask, by distance to the targets."""
        self.prescription_gy = self.prescription_gy or case.prescription_gy
        inside = np.flatnonzero(case.dose_mask)
        dose = case.dose.reshape(-1)[inside] * (self.prescription_gy / case.prescription_gy)
        distance = case.target_distance.reshape(-1)[inside].astype(np.int64) + _FAR_MM
        self._total += np.bincount(distance, dose, len(self._total))
        self._count += np.bincount(distance, minlength=len(self._count))

    @property
    def mean_gy(self) -> float:
        """Mean dose inside the possible-dose mask."""
        return float(self._total.sum() / max(self._count.sum(), 1))

    @property
    def by_distance_gy(self) -> npt.NDArray[np.float64]:
        """(255,) mean dose inside the mask at -127..127 mm from the union of the targets."""
        seen = np.flatnonzero(self._count)
        if not len(seen):
            return np.zeros(len(self._count))
        return np.interp(np.arange(len(self._count)), seen, self._total[seen] / self._count[seen])

    def scale_to(self, reference: Case) -> float:
        """Return what doses of the statistics are multiplied by for a case with its own prescription."""
        own = float(reference.facts.get("prescription_gy", self.prescription_gy))
        return own / self.prescription_gy if self.prescription_gy else 1.0


def mean_dose(reference: Case, statistics: DoseStatistics) -> npt.NDArray[np.float32]:
    """Predict the mean training dose everywhere inside the possible-dose mask, (D, H, W) Gy."""
    mean_gy = statistics.mean_gy * statistics.scale_to(reference)
    return (reference.masks[POSSIBLE_DOSE_MASK] * mean_gy).astype(np.float32)


def dose_by_distance(reference: Case, statistics: DoseStatistics, spec: DataSpec) -> npt.NDArray[np.float32]:
    """Predict the mean training dose at equal distance to the targets, the prescription inside them, (D, H, W) Gy.

    Args:
        reference: the case at native resolution; its targets are an input, its dose is not looked at.
        statistics: of the training cases.
        spec: names the targets and their prescriptions.
    """
    from scipy import ndimage

    possible = reference.masks[POSSIBLE_DOSE_MASK]
    prescribed = np.zeros(reference.shape, np.float32)
    highest_gy = max(spec.targets.values())
    own_gy = float(reference.facts.get("prescription_gy", highest_gy))
    for name, target_gy in spec.targets.items():
        level_gy = target_gy * own_gy / highest_gy
        if name in reference.masks:
            prescribed = np.where(reference.masks[name], np.maximum(prescribed, np.float32(level_gy)), prescribed)
    inside, dose = prescribed > 0, np.zeros(reference.shape, np.float32)
    (box,) = ndimage.find_objects((possible | inside).astype(np.uint8))  # most of the grid is neither: 4 times faster
    if inside.any():
        distance = ndimage.distance_transform_edt(~inside[box], sampling=reference.spacing_mm)
    else:
        distance = np.full(inside[box].shape, np.inf)
    nearest = np.rint(np.minimum(distance, _FAR_MM)).astype(np.intp) + _FAR_MM
    predicted = np.where(
        inside[box], prescribed[box], statistics.by_distance_gy[nearest] * statistics.scale_to(reference)
    )
    dose[box] = np.where(possible[box], predicted, 0)
    return dose


def baseline_rows(
    reference: Case, statistics: DoseStatistics, tasks: Sequence[Task], spec: DataSpec, config: EvaluationConfig
) -> list[Row]:
    """Score both baselines on one evaluation case; rows of `cases.parquet`, fold and seed -1."""
    rows = []
    for task in tasks:
        if isinstance(task, DoseRegression):
            doses = {MEAN: mean_dose(reference, statistics), DISTANCE: dose_by_distance(reference, statistics, spec)}
            for arch, dose in doses.items():
                identity = _identity(arch, reference) | {"task": task.name}
                rows += [identity | row for row in score_dose_map(task, dose, reference, spec, config)]
    return rows


def floor_rows(store: Store, reference: Case, tasks: tuple[Task, ...], config: EvaluationConfig) -> list[Row]:
    """Score the truth after the way to the working grid and back: no network can be better on this grid."""
    case = store.load(reference.case_id)
    truth: dict[str, npt.NDArray[np.float32]] = {}
    for task in tasks:
        if isinstance(task, Segmentation):
            order = [store.spec.structures.index(name) for name in task.structures]
            truth[task.name] = case.masks[order].astype(np.float32)
        elif isinstance(task, DoseRegression):
            truth[task.name] = case.dose
    scorable = tuple(task for task in tasks if task.name in truth)
    scored = score_case(store, reference, scorable, truth, config)
    return [_identity(GRID_FLOOR, reference) | row for row in scored.rows]


def _identity(arch: str, reference: Case) -> Row:
    ids = {"case_id": reference.case_id, "group_id": reference.group_id}
    return {"arch": arch, "fold": -1, "seed": -1, "role": EVALUATION, **ids}
