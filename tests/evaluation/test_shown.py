"""Which cases the report shows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ctan.evaluation.cases import SCHEMA
from ctan.evaluation.shown import case_errors, place_of, shown_cases
from ctan.tasks import Classification, DoseRegression, Segmentation

ERRORS = {f"c{number}": 1 - number / 10 for number in range(7)}  # worst first


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, []), (1, ["c3"]), (2, ["c0", "c6"]), (3, ["c0", "c3", "c6"]), (99, list(ERRORS))],
)
def test_cases_are_spread_from_the_worst_to_the_best(number: int, expected: list[str]) -> None:
    assert shown_cases(ERRORS, number) == expected
    assert shown_cases({}, number) == []


def test_each_is_called_by_its_place() -> None:
    places = [place_of(ERRORS, case) for case in ("c0", "c1", "c3", "c6", "other")]
    assert places == [
        "worst of 7 cases",
        "number 2 from the worst of 7 cases",
        "median of 7 cases",
        "best of 7 cases",
        "",
    ]
    assert place_of({"a": 0.1}, "a") == "the only case"
    assert [place_of({"a": 0.2, "b": 0.1}, case) for case in "ab"] == ["worst of 2 cases", "best of 2 cases"]


def test_a_case_is_as_wrong_as_its_tasks_together() -> None:
    tasks = (Segmentation("contours", ("a", "b")), DoseRegression("dose"), Classification("grade", ("low", "high")))

    def row(
        case_id: str, task: str, metric: str, structure: str, value: float, planned: float = 0.0
    ) -> dict[str, object]:
        given = {"arch": "ctan", "fold": 0, "seed": 0, "role": "evaluation", "case_id": case_id, "group_id": case_id}
        return {**given, "task": task, "metric": metric, "structure": structure, "value": value, "planned": planned}

    rows = [
        row("one", "contours", "dice", "a", 0.9),
        row("one", "contours", "dice", "b", 0.7),
        row("one", "dose", "dose_score", "", 1.58),
        row("one", "grade", "probability", "low", 0.75, planned=1),
        row("one", "grade", "probability", "high", 0.25),
        row("two", "contours", "dice", "a", 0.0),  # neither dose nor grade are known
        {**row("three", "contours", "dice", "a", 0.0), "role": "tuning"},
    ]
    errors = case_errors(pa.Table.from_pylist(rows, SCHEMA), tasks)
    assert list(errors) == ["two", "one"]
    assert errors["two"] == 1
    assert errors["one"] == pytest.approx((0.2 + 1.58 / 7.9 + 0.25) / 3)
