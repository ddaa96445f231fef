"""What the report says was decided, and what it does not say with few cases."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from ctan.report.decision import decision_title, with_decision
from ctan.report.headline import headline, title_of
from ctan.report.report import write_report
from ctan.report.tables import against_table
from tests.helpers.report import record_of, write_inputs
from tests.report.test_report import Inputs, Page, data_of, plain


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("report"), num_figure_cases=0)


@pytest.fixture(scope="module")
def written(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(record_of(inputs[0]), inputs[1], path)
    return path


def test_few_cases_carry_no_verdict(inputs: Inputs) -> None:
    """Was "It is better than STL, HPS and MTAN beyond what chance between patients explains" with four cases."""
    content = deepcopy(inputs[0]) | {"num_evaluation_cases": 9}
    data = data_of((content, inputs[1]))
    text = plain(headline(data)) + plain(against_table(data))
    assert "CTAN was chosen; 9 evaluation cases tell no architectures apart" in text
    assert "Fewer than 10 cases say nothing about other patients: no architecture is told apart." in text
    assert "beyond what chance" not in text
    assert 'class="good"' not in str(against_table(data))
    assert 'class="good"' in str(against_table(data_of(inputs)))


def test_the_title_says_that_a_baseline_is_better(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    content["baselines"][1]["scores"]["evaluation"]["dose"]["dose_score"] = 1.25
    assert (
        title_of(data_of((content, inputs[1])))
        == "CTAN is not better than “Mean dose at equal distance to the targets”"
    )


ROW = {"criterion": "enough common cases", "number": 4.0, "threshold": 10.0, "passed": False, "note": ""}
DECISION = {
    "promoted": False,
    "model_name": "ctan-openkbp",
    "version": "3",
    "reason": "4 cases are too few for a decision, 10 are needed (promotion.min_cases)",
    "looks": 2,
    "criteria": [ROW, ROW | {"criterion": "mean improvement", "number": -1.5, "threshold": 0.0, "passed": None}],
    "where": "models:/ctan-openkbp@challenger",
}


def test_the_decision_gives_the_page_its_title_and_a_table(written: Path) -> None:
    decided = Page(with_decision(written.read_text(encoding="utf-8"), DECISION))
    assert decided.headings[:2] == ["4 cases are too few for a decision: nothing promoted", "Decision"]
    text = plain(with_decision(written.read_text(encoding="utf-8"), DECISION))
    assert "mean improvement −1.5 0 not judged" in text
    assert "Look number 2 at these evaluation cases." in text
    assert text.count("Decision") == 1


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"promoted": True}, "Version 3 of ctan-openkbp is the new champion"),
        ({"version": None}, "Nothing was registered"),
        ({"criteria": [], "reason": "it is the champion already"}, "It is the champion already: nothing promoted"),
        (
            {"criteria": [ROW | {"criterion": "dose better than baseline-mean"}]},
            "A plain baseline is not beaten in dose: nothing promoted",
        ),
        (
            {"criteria": [ROW | {"criterion": "mean improvement"}]},
            "No improvement over the champion beyond chance: nothing promoted",
        ),
    ],
)
def test_the_title_is_what_was_decided(change: dict, title: str) -> None:
    assert decision_title(DECISION | change) == title
