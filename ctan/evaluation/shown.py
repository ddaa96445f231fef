"""Which evaluation cases are shown: the worst, the best, and those between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctan.evaluation.cases import EVALUATION
from ctan.tasks import Row, Task


def case_errors(cases: pa.Table, tasks: Sequence[Task]) -> dict[str, float]:
    """Return the error of every evaluation case, the mean over its tasks of `Task.case_error`, worst first.

    Args:
        cases: rows of one model; other roles are left out.
        tasks: what it predicts.

    Returns:
        Case -> error; a case without a score in any task has none.
    """
    by_case: dict[str, dict[str, list[Row]]] = {}
    for row in cases.filter(pc.field("role") == EVALUATION).to_pylist():
        by_case.setdefault(row["case_id"], {}).setdefault(row["task"], []).append(row)
    errors: dict[str, float] = {}
    for case_id, rows in by_case.items():
        found = [task.case_error(rows.get(task.name, [])) for task in tasks]
        known = [error for error in found if error is not None]
        if known:
            errors[case_id] = float(np.mean(known))
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0])))


def shown_cases(errors: Mapping[str, float], number: int) -> list[str]:
    """Return the cases to show, evenly spread from the worst to the best; of three: worst, median, best.

    Args:
        errors: see `case_errors`.
        number: how many at most; one is the median.
    """
    ranked = list(errors)
    number = min(number, len(ranked))
    if number == 1:
        return [ranked[len(ranked) // 2]]
    if number == 0:
        return []
    return [ranked[place] for place in np.linspace(0, len(ranked) - 1, number).round().astype(int)]


def place_of(errors: Mapping[str, float], case_id: str) -> str:
    """Return where a case stands among all, such as `"worst of 33 cases"`; empty where it has no error."""
    ranked = list(errors)
    if case_id not in errors:
        return ""
    place, last = ranked.index(case_id), len(ranked) - 1
    names = {0: "worst", last: "best"}
    if last >= 2:
        names = {last // 2: "median", len(ranked) // 2: "median"} | names
    named = names.get(place, f"number {place + 1} from the worst")
    return f"{named} of {len(ranked)} cases" if last else "the only case"
