"""Image-level tasks in the report, on synthetic diagnoses: what is drawn and printed is what was predicted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from matplotlib.figure import Figure

from ctan.config import EvaluationConfig
from ctan.datasets import get_dataset
from ctan.drawing import png
from ctan.evaluation.cases import EVALUATION, TUNING, read_cases, write_cases
from ctan.evaluation.improvement import relative_improvement, score
from ctan.evaluation.summary import scores
from ctan.metrics import probability_rows
from ctan.records import ComparisonRecord, ModelEntry
from ctan.report.data import ReportData, read_report_data
from ctan.report.labels import confusion_chart, recall_table, roc_chart
from ctan.settings import load_config
from ctan.tasks import AUC, BALANCED_ACCURACY, MACRO_AUC, Classification, MetricSpec
from tests.helpers.records import model_record
from tests.helpers.report import record_of

LESION = Classification("diagnosis", classes=("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"))
LESION_SHARES = (0.033, 0.051, 0.110, 0.011, 0.111, 0.670, 0.014)
SEVERITY = Classification("severity", classes=("mild", "severe"))
SETTINGS = EvaluationConfig()
SKILL = {"stl": 1.4, "hps": 1.3, "mtan": 1.2, "ctan": 1.9}


def write_diagnoses(
    root: Path,
    tasks: tuple[Classification, ...],
    archs: tuple[str, ...] = tuple(SKILL),
    seeds: tuple[int, ...] = (0,),
    num_cases: int = 300,
) -> tuple[ComparisonRecord, list[Path]]:
    """Write evaluations of image-level tasks and return `(comparison, evaluation_dirs)`."""
    folders, models = [], []
    for arch in archs:
        for seed in seeds:
            folder = root / f"{arch}-{seed}"
            folder.mkdir(parents=True)
            write_cases(_rows(arch, seed, tasks, num_cases), folder / "cases.parquet")
            record = model_record(arch, get_dataset("ham10000").spec, tasks, load_config("smoke"), seed=seed)
            record.save(folder)
            found = {role: scores(_role(folder, role), tasks) for role in (TUNING, EVALUATION)}
            models.append(ModelEntry.of(record, found).model_dump(mode="json"))
            folders.append(folder)
    return record_of(_comparison(models, folders, tasks, num_cases)), folders


def _rows(arch: str, seed: int, tasks: tuple[Classification, ...], num_cases: int) -> list[dict[str, Any]]:
    rows = []
    own = np.random.default_rng([*map(ord, arch), seed])
    for role in (TUNING, EVALUATION):
        shared = np.random.default_rng(len(role))  # labels are the same for all
        for i in range(num_cases):
            base = {"arch": arch, "fold": 0, "seed": seed, "role": role, "case_id": f"{role}{i}"}
            for task in tasks:
                shares = LESION_SHARES if task is LESION else (0.72, 0.28)
                label = shared.choice(len(shares), p=shares)
                logits = own.normal(0, 1, len(shares)) + np.log(shares) * 0.5 + 0.2 * shared.normal(0, 1, len(shares))
                logits[label] += SKILL[arch]
                probabilities = np.exp(1.2 * logits) / np.exp(1.2 * logits).sum()
                identity = base | {"group_id": f"{role}{i}", "task": task.name}
                rows += [identity | row for row in probability_rows(task.classes, task.classes[label], probabilities)]
    return rows


def _role(folder: Path, role: str) -> Any:
    return read_cases(folder / "cases.parquet").filter(pc.field("role") == role)


def _comparison(models: list, folders: list[Path], tasks: tuple[Classification, ...], num_cases: int) -> dict[str, Any]:
    archs = list(dict.fromkeys(model["arch"] for model in models))
    of_arch = {a: [f for m, f in zip(models, folders, strict=True) if m["arch"] == a] for a in archs}
    architectures = []
    for arch in archs:
        found: dict[str, Any] = {role: {} for role in (TUNING, EVALUATION)}
        for role in found:
            tables = [_role(folder, role) for folder in of_arch[arch]]
            for task in tasks:
                found[role][task.name] = {
                    metric.name: score(tables, task, metric).interval(0.95, metric.bounds) for metric in task.metrics
                }
        gains = (
            {}
            if arch == archs[0]
            else {
                role: relative_improvement(
                    tasks, *([_role(f, role) for f in of_arch[name]] for name in (arch, archs[0])), 0.95
                )
                for role in found
            }
        )
        architectures.append({"arch": arch, "scores": found, "structures": {}, "relative_improvement": gains})
    best = len(models) - 1
    return {
        "dataset": "openkbp",
        "store_key": "0" * 16,
        "data_hash": "d" * 64,
        "evaluation_hash": "e" * 64,
        "confidence": 0.95,
        "reference_arch": archs[0],
        "excludes_training_variance": True,
        "num_tuning_cases": num_cases,
        "num_evaluation_cases": num_cases,
        "models": models,
        "architectures": architectures,
        "baselines": [],
        "grid_floor": {},
        "best": {"arch": archs[-1], "fold": 0, "seed": models[best]["seed"], "model_index": best, "reason": "it is"},
    }


def predicted(data: ReportData, arch: str, task: Classification) -> tuple[np.ndarray, np.ndarray]:
    """Return true classes and probabilities of an architecture's first training on the evaluation cases."""
    rows = data.of(arch)[0].cases.to_pandas().query(f"role == 'evaluation' and task == '{task.name}'")
    wide = rows.pivot_table(index="case_id", columns="structure", values=["planned", "value"])
    return wide["planned"][list(task.classes)].to_numpy().argmax(1), wide["value"][list(task.classes)].to_numpy()


def cells_of(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def legend_of(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return read_report_data(*write_diagnoses(tmp_path_factory.mktemp("labels"), (LESION, SEVERITY)))


@pytest.mark.parametrize("task", [LESION, SEVERITY])
def test_the_recall_of_every_class_and_architecture_is_that_of_scikit_learn(
    data: ReportData, task: Classification
) -> None:
    from sklearn import metrics as sklearn_metrics

    header, *rows = cells_of(recall_table(data, task))
    assert header == [f"{task.name}: true class", "cases", "STL", "HPS", "MTAN", "CTAN"]
    for column, arch in enumerate(SKILL, start=2):
        true, probabilities = predicted(data, arch, task)
        recalls = sklearn_metrics.recall_score(true, probabilities.argmax(1), average=None)
        assert [row[column] for row in rows] == [f"{value:.3f}" for value in [*recalls, recalls.mean()]]
        balanced = data.scored(arch, EVALUATION, task, BALANCED_ACCURACY).value
        assert rows[-1][column] == f"{balanced:.3f}"
    assert [row[1] for row in rows[:-1]] == [str(count) for count in np.bincount(true)]


def test_the_best_of_each_class_is_bold(data: ReportData) -> None:
    for row in re.findall(r"<tr><td>(.*?)</tr>", recall_table(data, LESION)):
        values = re.findall(r"\d\.\d{3}", row)
        assert set(re.findall(r"<strong>(.*?)</strong>", row)) == {max(values)}
        assert row.count("<strong>") == values.count(max(values))


@pytest.mark.parametrize(("task", "metric"), [(LESION, MACRO_AUC), (SEVERITY, AUC)])
def test_roc_curves_have_the_area_that_the_comparison_says(
    data: ReportData, task: Classification, metric: MetricSpec
) -> None:
    figure = roc_chart(data, task)
    curves = [line for line in figure.axes[0].get_lines() if not str(line.get_label()).startswith("_")]
    areas = [data.scored(arch, EVALUATION, task, metric).value for arch in SKILL]
    assert [np.trapezoid(line.get_ydata(), line.get_xdata()) for line in curves] == pytest.approx(areas, abs=3e-3)
    assert legend_of(figure, 0) == [f"{arch.upper()} {area:.3f}" for arch, area in zip(SKILL, areas, strict=True)]
    assert len(png(figure)) > 10_000


def test_each_class_of_the_chosen_model_has_a_curve_and_its_area(data: ReportData) -> None:
    from sklearn import metrics as sklearn_metrics

    true, probabilities = predicted(data, "ctan", LESION)
    areas = [sklearn_metrics.roc_auc_score(true == k, probabilities[:, k]) for k in range(7)]
    figure = roc_chart(data, LESION)
    assert len(figure.axes) == 3
    assert legend_of(figure, 1) == [f"{name} {area:.3f}" for name, area in zip(LESION.classes, areas, strict=True)]


def test_two_classes_need_no_curve_of_each(data: ReportData) -> None:
    figure = roc_chart(data, SEVERITY)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["severity: severe", "reliability"]


def test_the_matrix_shows_the_cases_and_shares_of_the_chosen_model(data: ReportData) -> None:
    from sklearn import metrics as sklearn_metrics

    true, probabilities = predicted(data, "ctan", LESION)
    expected = sklearn_metrics.confusion_matrix(true, probabilities.argmax(1))
    figure = confusion_chart(data, LESION)
    shown = {}
    for text in figure.axes[0].texts:
        column, row = text.get_position()
        shown.setdefault((round(row), round(column)), []).append(text.get_text())
    for place, (share, count) in shown.items():
        assert count == str(expected[place])
        exact = 100 * expected[place] / expected[place[0]].sum()
        assert share == ("<1 %" if 0 < exact < 1 else f"{exact:.0f} %")
    assert set(shown) == {(i, j) for i, j in np.ndindex(7, 7) if expected[i, j] or i == j}
    assert figure.axes[0].get_yticklabels()[5].get_text() == f"nv  ({expected[5].sum()})"


@pytest.mark.filterwarnings("error")
def test_a_class_without_cases_and_folds_and_seeds_are_drawn_all_the_same(tmp_path: Path) -> None:
    # of 12 cases no class but a few occur
    content, folders = write_diagnoses(tmp_path, (LESION, SEVERITY), ("hps", "ctan"), seeds=(0, 1, 2), num_cases=12)
    data = read_report_data(content, folders)
    present = {LESION.classes[k] for k in predicted(data, "ctan", LESION)[0]}
    assert len(present) < 7
    assert {row[0] for row in cells_of(recall_table(data, LESION))[1:-1]} == present
    for task in (LESION, SEVERITY):
        assert len(png(roc_chart(data, task))) > 10_000
        assert len(png(confusion_chart(data, task))) > 10_000
    true = predicted(data, "ctan", SEVERITY)[0]
    right = [model.cases.filter(pc.field("role") == EVALUATION) for model in data.of("ctan")]
    recall = np.mean([scores(rows, [SEVERITY])["severity"]["balanced_accuracy"] for rows in right])
    assert cells_of(recall_table(data, SEVERITY))[-1] == [
        "mean (balanced accuracy)",
        str(len(true)),
        *[f"{v:.3f}" for v in (_balanced(data, "hps"), recall)],
    ]


def _balanced(data: ReportData, arch: str) -> float:
    return data.scored(arch, EVALUATION, SEVERITY, BALANCED_ACCURACY).value


def test_without_predictions_there_is_nothing_to_draw(data: ReportData) -> None:
    other = Classification("sex", classes=("female", "male"))
    assert (roc_chart(data, other), confusion_chart(data, other), recall_table(data, other)) == (None, None, "")


def test_names_of_classes_are_escaped(tmp_path: Path) -> None:
    evil = Classification("severity", classes=("<b>mild", "severe"))
    data = read_report_data(*write_diagnoses(tmp_path, (evil,), ("stl", "ctan"), num_cases=30))
    assert "&lt;b&gt;mild" in recall_table(data, evil)
