"""What is drawn of targets is drawn at the level that is prescribed in the case, not at a default of the data set."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ctan.datasets import get_dataset
from ctan.evaluation.figures import pictures
from ctan.report.dose import Contours, dvh_chart, slices_picture
from ctan.tasks import DoseRegression
from tests.helpers.report import phantom, record_of, write_inputs

SPEC = get_dataset("openkbp").spec
OWN = {"PTV56": 66.0, "PTV63": 60.0, "PTV70": 50.0}  # the other way round than their names say


@pytest.fixture(scope="module")
def case():
    found = phantom("pt_201", 0)
    return replace(found, levels_gy=OWN, masks={**found.masks, "PTV56": np.roll(found.masks["PTV70"], 4, axis=1)})


@pytest.fixture(scope="module")
def curves(case):
    rows = DoseRegression("dose").curves(case.doses["dose"], case, SPEC)
    return pd.DataFrame(rows)


def test_curves_say_the_level_of_each_target_and_none_of_organs(curves):
    said = {name: set(rows["level_gy"].dropna()) for name, rows in curves.groupby("structure")}
    assert said == {
        "PTV56": {66.0},
        "PTV70": {50.0},
        "RightParotid": set(),
        "LeftParotid": set(),
        "SpinalCord": set(),
    }


def test_the_chart_marks_each_target_at_its_level(curves):
    (axes,) = (axes for axes in dvh_chart(curves, {"PTV56": "#111111", "PTV70": "#222222"}).axes if axes.get_visible())
    marks = {line.get_color(): line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"}
    assert marks == {"#111111": 66.0, "#222222": 50.0}


def test_slices_name_the_levels_of_their_own_case(case):
    task = DoseRegression("dose")
    drawn = pictures(case, {"dose": case.doses["dose"]}, (task,), SPEC)
    views: dict = {}
    for key, array in drawn.items():
        _, view, what = key.rsplit("/", 2)
        views.setdefault(view, {})[what] = array
    figure = slices_picture(views, Contours((), tuple(SPEC.targets), {}))
    written = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"PTV56 (66 Gy)", "PTV70 (50 Gy)"} <= written


def test_red_is_the_target_with_the_highest_level_in_the_cases_that_are_drawn(tmp_path, curves):
    from ctan.drawing import structure_colours
    from ctan.report.data import Evaluated, ReportData

    content, folders = write_inputs(tmp_path, archs=("ctan",), num_figure_cases=1)
    by_default = structure_colours(SPEC.structures, SPEC.targets)

    class Drawn(Evaluated):
        def dvh(self):
            return curves

    from ctan.report.data import read_report_data

    data = read_report_data(record_of(content), folders)
    assert data.colours["PTV70"] == by_default["PTV70"]
    changed = ReportData(data.content, [Drawn(**vars(model)) for model in data.models], data.tasks)
    assert changed.colours["PTV56"] == by_default["PTV70"]  # 66 Gy
    assert changed.colours["PTV63"] == by_default["PTV63"]  # 63 Gy by default: in no case that is drawn
