"""What holds of every kind of task that the project brings."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest
import torch

import ctan
from ctan import plugins
from ctan.records import ArchitectureEntry, ComparisonRecord, Interval, ModelEntry, ModelRecord
from ctan.report.data import Evaluated, ReportData
from ctan.report.numbers import numbers_chart
from ctan.store import StorePointer, open_store
from ctan.tasks import Classification, DoseRegression, Regression, Segmentation, Task
from tests.helpers.tasks import photo_spec, stored_case, table_of

KINDS = {
    "segmentation": Segmentation("organs", ("LeftEye", "Nose", "RightEye"), mirrored_pairs=(("LeftEye", "RightEye"),)),
    "dose": DoseRegression("dose"),
    "classification": Classification("covid", classes=("no", "yes")),
    "regression": Regression("age", unit="years", centre=50.0, spread=20.0),
}


def test_the_kinds_are_those_of_the_entry_points() -> None:
    assert set(KINDS) == {point.name for point in entry_points(group="ctan.tasks") if point.value.startswith("ctan.")}
    for name, task in KINDS.items():
        assert plugins.load(plugins.TASKS, name, "") is type(task)
        assert task.kind == name
        assert task.version >= 1


@pytest.mark.parametrize("task", KINDS.values(), ids=KINDS)
def test_what_a_kind_names_for_the_report_exists(task: Task) -> None:
    for section in task.sections:
        assert list(inspect.signature(resolve_name(section.make)).parameters) == ["data", "task"]
    assert task.sections


def test_nobody_else_asks_which_kind_a_task_is() -> None:
    package, asked = Path(ctan.__file__).parent, []
    files = [path for path in package.rglob("*.py") if package / "tasks" not in path.parents]
    for path in files:
        asked += [
            (path.name, line) for line in re.findall(r".*isinstance\(task\b.*|.*task\.kind [=!]=.*", path.read_text())
        ]
    assert len(files) > 100
    assert asked == []


def test_knowing_the_kinds_imports_nothing_heavy() -> None:
    heavy = ("torch", "pandas", "pyarrow", "matplotlib", "mlflow", "scipy", "great_expectations")
    code = f"import sys, ctan.tasks; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_only_a_flip_of_left_and_right_swaps_paired_structures() -> None:
    output = torch.arange(18.0).reshape(1, 3, 2, 3)
    task = KINDS["segmentation"]
    assert torch.equal(task.unflipped(output, -1, left_right=False), output.flip(-1))
    assert torch.equal(task.unflipped(output, -1, left_right=True), output.flip(-1)[:, [2, 1, 0]])
    for name in ("classification", "regression"):
        assert torch.equal(KINDS[name].unflipped(output[:, :, 0, 0], -1, left_right=True), output[:, :, 0, 0])


def test_a_case_without_its_arrays_is_the_same_but_for_them(tiny_pointer: StorePointer) -> None:
    store = open_store(tiny_pointer)
    (case_id, *_) = store.case_ids(split="validation")
    whole, bare = store.reference(case_id), store.reference(case_id, arrays=False)
    assert (bare.images, bare.masks, bare.doses) == ({}, {}, {})
    assert (bare.case_id, bare.group_id, bare.labels, bare.numbers) == (
        whole.case_id,
        whole.group_id,
        whole.labels,
        whole.numbers,
    )
    stored, bare_stored = store.load(case_id), store.load(case_id, arrays=False)
    assert bare_stored.image == {}
    assert not bare_stored.masks.size
    assert not bare_stored.dose.size
    assert bare_stored.prescription_gy == stored.prescription_gy


def test_the_chart_of_numbers_holds_every_case_and_the_line_of_identity() -> None:
    age = KINDS["regression"]
    pairs = [(40.0, 30.0), (55.0, 60.0), (61.0, 90.0)]
    rows = {
        f"c{i}": [{"metric": "number", "structure": "", "value": abs(p - t), "count": 1, "predicted": p, "planned": t}]
        for i, (p, t) in enumerate(pairs)
    }
    training = ModelEntry.model_construct(arch="stl")
    model = Evaluated(training, ModelRecord.model_construct(arch="stl"), table_of(age, rows), pd.DataFrame(), Path())
    score = {"age": {"mae": Interval(value=14.667)}}
    entry = ArchitectureEntry.model_construct(arch="stl", scores={"evaluation": score})
    content = ComparisonRecord.model_construct(architectures=(entry,))
    figure = numbers_chart(ReportData(content, [model], (age,)), age)
    assert figure is not None
    (axes,) = figure.axes
    line, points = axes.get_lines()
    np.testing.assert_array_equal(*line.get_data())
    assert line.get_xdata()[0] < 30
    assert line.get_xdata()[-1] > 90
    assert sorted(zip(*points.get_data(), strict=True)) == [(30.0, 40.0), (60.0, 55.0), (90.0, 61.0)]
    assert axes.get_title("left") == "STL, MAE 14.67"
    assert axes.get_xlabel() == "true age (years)"
    none = replace(model, cases=table_of(KINDS["dose"], rows))
    assert numbers_chart(ReportData(content, [none], (age,)), age) is None


def test_a_structure_is_learnt_at_its_own_place_among_those_of_the_data() -> None:
    masks = np.arange(4 * 24).reshape(4, 4, 6) % np.array([2, 3, 4, 5])[:, None, None] == 0
    eyes = Segmentation("eyes", ("RightEye", "LeftEye"))
    spec = photo_spec(eyes, structures=("Nose", "LeftEye", "Mouth", "RightEye"))
    case = stored_case(masks=masks, known=(True, False, True, True))
    target, truth = eyes.target(case, spec.structures), eyes.truth(case, spec.structures)
    np.testing.assert_array_equal(target["masks"], masks[[3, 1]])
    np.testing.assert_array_equal(truth, masks[[3, 1]])
    assert target["known"].tolist() == [True, False]
