"""Clinical goals: how they are written, and what they measure."""

from __future__ import annotations

import numpy as np
import pytest

from ctan.config import EvaluationConfig
from ctan.errors import ConfigError
from ctan.goals import Goal
from ctan.settings import load_config

DOSE = np.arange(1000) / 10  # Gy, 1,000 voxels of 8 mm3: 8 cc


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Cord Dmean < 45 Gy", DOSE.mean()),
        ("Cord Dmax<=45Gy", 99.9),
        ("Cord D95% > 4 Gy", np.percentile(DOSE, 5)),
        ("Cord D0.8cc < 45 Gy", np.percentile(DOSE, 90)),
        ("Cord D100cc < 45 Gy", 0.0),  # more than there is: all of it
        ("Cord V20Gy < 30 %", 80.0),
        ("Cord V20 Gy < 7 cc", 6.4),
        ("PTV 70 boost D2% < 75 Gy", np.percentile(DOSE, 98)),
    ],
)
def test_goals_measure_what_they_say(text: str, value: float) -> None:
    goal = Goal.parse(text)
    assert goal.value(DOSE, voxel_volume_mm3=8.0) == pytest.approx(value)
    assert Goal.parse(str(goal)) == goal


def test_the_limit_itself_meets_a_goal() -> None:
    below, above = Goal.parse("Cord Dmax < 45 Gy"), Goal.parse("PTV D95% > 66.5 Gy")
    assert [below.is_met(value) for value in (44.9, 45.0, 45.1)] == [True, True, False]
    assert [above.is_met(value) for value in (66.4, 66.5, 66.6)] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Cord below 45 Gy", "is no goal; expected STRUCTURE MEASURE < LIMIT, such as"),
        ("Cord D0.1cc < 45 %", "D0.1cc is in Gy, not in %"),
        ("Lung V20Gy < 30 Gy", "V20Gy is in % or cc, not in Gy"),
        ("PTV D101% > 66 Gy", "asks for more than 100 % of the volume"),
    ],
)
def test_what_is_no_goal_is_refused_with_an_example(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        EvaluationConfig(clinical_goals=(text,))


def test_goals_of_structures_that_the_data_lack_are_refused() -> None:
    goals = {"evaluation.clinical_goals": ["Lung V20Gy < 30 %"]}
    with pytest.raises(ConfigError, match=r"no such structure in 'Lung V20Gy < 30 %'; .* openkbp has Brainstem"):
        load_config("smoke", overrides=goals)
    with pytest.raises(ConfigError, match="ham10000 has no dose"):
        load_config("smoke", overrides={"data.dataset": "ham10000", **goals})


def test_openkbp_has_goals_of_its_own() -> None:
    assert "SpinalCord D0.1cc < 45 Gy" in load_config("smoke").evaluation.clinical_goals
