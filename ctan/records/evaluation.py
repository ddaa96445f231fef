"""`summary.json`: what one evaluated model came to."""

from __future__ import annotations

from typing import Literal

from ctan.records.base import Record, Scores
from ctan.records.names import CASES_FILE, DVH_FILE, EVALUATION_FILE, FIGURES_FILE


class EvaluationRecord(Record):
    """One model's scores.

    Attributes:
        scores: by role, task and metric.
        num_cases: by role.
        seconds: it took.
        store_key: of the store with the cases.
    """

    file = EVALUATION_FILE
    what = "the summary of an evaluation"
    advice = "expected the folder that `ctan evaluate` writes"
    beside = (CASES_FILE, DVH_FILE, FIGURES_FILE)

    format_version: Literal[1] = 1
    scores: dict[str, Scores]
    num_cases: dict[str, int]
    seconds: float
    store_key: str
