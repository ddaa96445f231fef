"""Made-up per-case tables, and what the gate says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ctan.config import PromotionConfig
from ctan.datasets import get_dataset
from ctan.evaluation.cases import SCHEMA
from ctan.records import ModelRecord
from ctan.tasks import Classification, DoseRegression, Segmentation, Task
from ctan.tracking.gate import Contest, Rival, Verdict, judge
from tests.helpers.records import model_record
from tests.helpers.tracking import small_config

CONTOURS, DOSE = Segmentation("contours", structures=("A", "B")), DoseRegression("dose")
DIAGNOSIS = Classification("diagnosis", classes=("no", "yes"))
Values = Mapping[str, Any]  # of one case: {"dice": {structure: value}, "dose": Gy, "yes": probability, "true": bool}


def table(cases: Sequence[Values], names: Sequence[str] | None = None) -> pa.Table:
    """Return the per-case table of a model on the evaluation cases."""
    rows: list[dict[str, Any]] = []
    for number, values in enumerate(cases):
        case_id = names[number] if names else f"pt_{number}"
        base = {"arch": "ctan", "fold": 0, "seed": 0, "role": "evaluation", "case_id": case_id, "group_id": case_id}
        for structure, value in values.get("dice", {}).items():
            rows.append(base | {"task": "contours", "metric": "dice", "structure": structure, "value": value})
        if "dose" in values:
            rows.append(base | {"task": "dose", "metric": "dose_score", "structure": "", "value": values["dose"]})
        if "yes" in values:
            for name, value in (("no", 1 - values["yes"]), ("yes", values["yes"])):
                row = {"task": "diagnosis", "metric": "probability", "structure": name, "value": value}
                rows.append(base | row | {"predicted": value, "planned": float((name == "yes") == values["true"])})
    return pa.Table.from_pylist(rows, SCHEMA)


def level(dice: float | None, dose: float | None, count: int = 33, noise: float = 0.01, seed: int = 0) -> pa.Table:
    """Return a table whose cases scatter around a Dice and a dose score in Gy, the same for the same seed."""
    rng = np.random.default_rng(seed)
    cases: list[dict[str, Any]] = [{} for _ in range(count)]
    for case in cases:
        if dice is not None:
            case["dice"] = {name: float(np.clip(dice + noise * rng.normal(), 0, 1)) for name in "AB"}
        if dose is not None:
            case["dose"] = float(max(dose + 7.9 * noise * rng.normal(), 0))
    return table(cases)


def record(tasks: Sequence[Task] = (CONTOURS, DOSE), **facts: Any) -> ModelRecord:
    """Return the record of a model."""
    return model_record("ctan", get_dataset("openkbp").spec, tasks, small_config(), **facts)


WORST = Rival("baseline", level(0.0, 21.0, count=100, noise=0.0))  # beaten by whoever is any good


def decide(
    ours: pa.Table,
    champion: pa.Table | None,
    baselines: Sequence[Rival] = (WORST,),
    own: ModelRecord | None = None,
    champions: ModelRecord | None = None,
    look: int = 1,
    groups: Mapping[str, Sequence[str]] | None = None,
    lacking: Sequence[str] = (),
    validated: bool = True,
    **settings: Any,
) -> Verdict:
    """Return what the gate says of a candidate."""
    rival = None if champion is None else Rival("champion, version 1", champion, champions or record())
    contest = Contest(own or record(), ours, rival, baselines, look, groups or {}, lacking, validated)
    return judge(contest, PromotionConfig(**settings))
