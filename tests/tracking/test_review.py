"""What people look at in MLflow: real databases, runs and artifacts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctan.drawing import png
from ctan.evaluation.cases import read_cases
from ctan.files import sha256_of_file
from ctan.metrics import MIN_SEEDS
from ctan.records import ComparisonRecord, ModelRecord
from ctan.tasks import DoseRegression, MetricSpec, Segmentation
from ctan.tracking import prepare, training_run
from ctan.tracking.review import keyed, log_cases, log_comparison, log_decision, log_pages, score_key
from ctan.tracking.runs import run_name
from tests.helpers.promotion import NAME, Site
from tests.helpers.tracking import TASKS, pointer_at, small_config

pytest_plugins = ["tests.helpers.promotion"]


def artifacts(site: Site, run_id: str, path: str = "") -> set[str]:
    return {item.path for item in site.client.list_artifacts(run_id, path or None)}


def text_of(site: Site, run_id: str, path: str) -> str:
    return Path(site.client.download_artifacts(run_id, path)).read_text(encoding="utf-8")


def train_below(site: Site, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Train below a run of the platform's; return that run and the model."""
    experiment = site.client.create_experiment("ctan-openkbp")
    parent = site.client.create_run(experiment, run_name="pipeline run").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    return parent, site.train(seed=0)


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        (MetricSpec("dose_score", False, "Gy", "Dose score"), "evaluation/dose/dose_score_gy"),
        (MetricSpec("hd95_mm", False, "mm", "HD95"), "evaluation/dose/hd95_mm"),
        (MetricSpec("dice_mean", True, "", "Dice"), "evaluation/dose/dice_mean"),
        (MetricSpec("error", False, "pack years", "Error"), "evaluation/dose/error_pack_years"),
    ],
)
def test_keys_are_grouped_and_name_their_unit(metric: MetricSpec, key: str) -> None:
    assert score_key("evaluation", "dose", metric) == key


def test_undefined_scores_have_no_key() -> None:
    tasks = (Segmentation("contours", ("a",)), DoseRegression("dose"))
    scores = {"evaluation": {"contours": {"dice_mean": 0.5, "hd95_mm": None}, "dose": {"dose_score": 3.0}}}
    assert keyed(scores, tasks) == {"evaluation/contours/dice_mean": 0.5, "evaluation/dose/dose_score_gy": 3.0}


def test_a_run_is_called_by_what_differs() -> None:
    config = small_config()
    assert run_name(config, "ctan", 0, 0) == "ctan"
    assert run_name(config, "ctan", 0, 7) == "ctan seed 7"
    several = config.model_copy(update={"folds": (0, 1), "seeds": (0, 1)})
    assert run_name(several, "ctan", 0, 1) == "ctan fold 0 seed 1"


def test_a_training_has_its_cases_as_a_table_and_pictures(site: Site) -> None:
    from matplotlib.figure import Figure

    model = site.train(seed=0)
    record = ModelRecord.load(model)
    cases = read_cases(site.compare(model) / "cases.parquet")
    log_cases(
        record.run_id, cases.filter(cases["seed"].to_numpy() == 0), record.tasks, {"1 worst pt_201": png(Figure())}
    )
    table = json.loads(text_of(site, record.run_id, "cases.json"))
    assert table["columns"][:2] == ["case", "error"]
    assert "evaluation/dose/dose_score_gy" in table["columns"]
    errors = [row[1] for row in table["data"]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 20
    assert artifacts(site, record.run_id, "cases") == {"cases/1 worst pt_201.png"}


def test_the_run_above_holds_report_architectures_and_decision(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, model = train_below(site, monkeypatch)
    comparison = ComparisonRecord.load(site.compare(model, tasks=[task.to_json() for task in TASKS]))
    log_comparison(comparison, "<h1>compared</h1>")
    log_pages(comparison.best_model.run_id, {"data/validation.html": "<h1>valid</h1>"})
    assert text_of(site, parent, "report.html") == "<h1>compared</h1>"
    found = site.client.get_run(parent)
    assert found.data.metrics["evaluation/dose/dose_score_gy"] == 4.0
    assert found.data.tags["chosen"] == "ctan, fold 0, seed 0"
    decision = site.promote(model)
    log_decision(comparison.best_model.run_id, vars(decision), "<h1>decided</h1>")
    assert text_of(site, parent, "report.html") == "<h1>decided</h1>"
    assert json.loads(text_of(site, parent, "decision.json"))["reason"] == decision.reason
    tags = site.client.get_run(parent).data.tags
    assert tags["decision"] == "promoted"
    assert decision.reason in tags["mlflow.note.content"]
    assert artifacts(site, parent) == {"report.html", "architectures.json", "decision.json", "data"}


def test_a_training_that_stands_alone_takes_nothing_of_it(site: Site) -> None:
    model = site.train(seed=0)
    comparison = ComparisonRecord.load(site.compare(model))
    before = artifacts(site, comparison.best_model.run_id)
    log_comparison(comparison, "<h1>compared</h1>")
    assert artifacts(site, comparison.best_model.run_id) == before


def test_the_version_has_a_card(site: Site) -> None:
    decision = site.promote(site.train(seed=0))
    card = site.client.get_model_version(NAME, decision.version).description
    for title in (
        "Decision",
        "What it is for",
        "What it learned from",
        "How good it is",
        "Where it ends",
        "How to ask it",
    ):
        assert f"### {title}\n" in card
    assert "| dose: Dose score, lower is better | 4.00 Gy |" in card
    assert "Without a network, baseline-mean: dose Dose score 21.00 Gy." in card
    assert f"ctan predict models:/{NAME}/1 INPUT --out DIR" in card
    assert "how much another training would differ is not in them" in card
    assert MIN_SEEDS > 1  # the sentence above is about a single seed


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}


def test_a_copied_workspace_works_and_never_writes_into_its_original(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.promote(site.train(seed=0))
    original, copy = tmp_path / "workspace", tmp_path / "elsewhere" / "copy of it"
    shutil.copytree(original, copy)
    before = contents(original)
    monkeypatch.setenv("CTAN_WORKSPACE", str(copy))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for the process
    prepare()
    assert "was moved or copied from" in capsys.readouterr().err
    copied = Site(tmp_path / "elsewhere")
    with training_run(small_config(), pointer_at(copy / "store"), "ctan", 0, 5) as run:
        pass
    assert (copy / "mlartifacts" / run.run_id / "artifacts" / "config.yaml").is_file()
    version: Any = copied.client.get_model_version(NAME, "1")
    shutil.move(original, tmp_path / "gone")  # what is read now does not come from there
    import mlflow

    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion") is not None
    assert str(version.version) == "1"
    assert contents(tmp_path / "gone") == before
    prepare()
    assert "was moved" not in capsys.readouterr().err
