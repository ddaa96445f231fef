"""The age of patients learnt from pictures of their skin, beside contour and diagnosis: from files to the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctan import plugins
from ctan.cases import Case, DataSpec, RawCase
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.datasets.ham10000.reader import HAM10000
from ctan.evaluation import compare, evaluate
from ctan.evaluation.cases import read_cases
from ctan.inference import load_network
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.report import write_report
from ctan.settings import load_config
from ctan.store import StorePointer, open_store
from ctan.tasks import Regression
from ctan.training import train
from ctan.validation.suite import expectations

SOURCE = "phantom:train=16,validation=8,seed=1"


class Aged(HAM10000):
    """HAM10000 whose age is to be learnt."""

    name = "aged"

    @property
    def spec(self) -> DataSpec:
        described = super().spec
        changes = {"tasks": (*described.tasks, Regression("age")), "numbers": {"age": "years"}, "facts": {}}
        return DataSpec(**{**dict(described), "dataset": "aged", **changes})

    def read(self, raw: RawCase) -> Case:
        case = super().read(raw)
        known = {"age": float(case.facts["age"])} if "age" in case.facts else {}
        return replace(case, numbers=known, facts={})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    about = tmp_path_factory.mktemp("site") / "aged-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: aged\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[ctan.datasets]\naged = {__name__}:Aged\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(about.parent)
        patch.setenv("CTAN_WORKSPACE", str(about.parent / "workspace"))
        plugins._found.cache_clear()
        yield load_config(
            "smoke",
            {
                "data.dataset": "aged",
                "network.base_width": 4,
                "preprocess.grid_shape": [32, 48],
                "training.epochs": 1,
            },
        )
    plugins._found.cache_clear()


@pytest.fixture(scope="module")
def pointer(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> StorePointer:
    folder = tmp_path_factory.mktemp("aged")
    ingest(SOURCE, folder / "manifest", config, num_workers=1)
    return preprocess(SOURCE, folder / "manifest", str(folder / "store"), config, num_workers=1)


def test_the_manifest_must_hold_finite_numbers(config: RunConfig) -> None:
    (found,) = [one for one in expectations(get_dataset(config.data), config) if one.name == "age-number"]
    assert found.arguments["column"] == "number_age"
    assert found.unit == "years"


@pytest.mark.slow
def test_ages_are_learnt_scored_judged_and_shown(config: RunConfig, pointer: StorePointer, tmp_path: Path) -> None:
    store = open_store(pointer)
    train_ids = store.case_ids(split="train", not_fold=0)
    known = [numbers["age"] for numbers in store.numbers(train_ids) if "age" in numbers]
    assert len(known) > 3
    train(pointer, "hps", 0, 0, config, tmp_path / "checkpoints", tmp_path / "model")
    model = load_network(tmp_path / "model")
    age = next(task for task in model.tasks if task.name == "age")
    assert isinstance(age, Regression)
    assert (age.unit, age.centre, age.spread) == ("years", pytest.approx(np.mean(known)), pytest.approx(np.std(known)))

    evaluate(pointer, tmp_path / "model", tmp_path / "evaluation", config)
    content = compare(pointer, [tmp_path / "evaluation"], tmp_path / "comparison", config)
    rows = read_cases(tmp_path / "evaluation" / "cases.parquet").to_pylist()
    rows = [row for row in rows if row["task"] == "age" and row["role"] == "evaluation"]
    truth = {case_id: store.reference(case_id).numbers.get("age") for case_id in store.case_ids("validation")}
    assert {row["case_id"]: row["planned"] for row in rows} == {k: v for k, v in truth.items() if v is not None}
    for row in rows:
        assert row["predicted"] == pytest.approx(model.predict(store.load(row["case_id"]))["age"][0])
        assert row["value"] == pytest.approx(abs(row["predicted"] - row["planned"]))

    baselines = {entry.arch: entry.scores["evaluation"] for entry in content.baselines}
    assert list(baselines) == ["baseline-empty", "baseline-mean-mask", "baseline-frequency", "baseline-mean-number"]
    errors = [abs(row["planned"] - np.mean(known)) for row in rows]
    assert baselines["baseline-mean-number"]["age"]["mae"] == pytest.approx(np.mean(errors))
    scored = {task: set(found) for entry in baselines.values() for task, found in entry.items()}
    assert set(scored) == {task.name for task in model.tasks}  # a baseline judges every task

    write_report(content, [tmp_path / "evaluation"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Numbers</h2>" in page
    assert "MAE (years) ↓" in page
    assert page.index("<h2>Diagnoses</h2>") < page.index("<h2>Numbers</h2>") < page.index("<h2>Predictions</h2>")
