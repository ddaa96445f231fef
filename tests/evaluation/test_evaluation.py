"""Evaluation of real small networks on phantoms: what is scored, on which grid, and what is written."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ctan.config import EvaluationConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.evaluation import evaluate, evaluation_hash
from ctan.evaluation.ahead import evaluate_ahead, evaluated_ahead
from ctan.evaluation.cases import SCHEMA, read_cases
from ctan.evaluation.scoring import score_case
from ctan.evaluation.shown import case_errors, shown_cases
from ctan.goals import Goal
from ctan.inference import load_network
from ctan.metrics import dice, hd95_mm
from ctan.records import EvaluationRecord
from ctan.settings import load_config
from ctan.store import Store, StorePointer, open_store
from ctan.tasks import DoseRegression, Segmentation, tasks_of
from tests.helpers.evaluation import DATASET, write_network
from tests.helpers.records import content_of


@pytest.fixture(scope="session")
def model_dir(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("model") / "ctan", tiny_pointer, tiny_config)


@pytest.fixture(scope="session")
def store(tiny_pointer: StorePointer) -> Store:
    return open_store(tiny_pointer)


@pytest.fixture(scope="session")
def evaluated(
    tiny_pointer: StorePointer, model_dir: Path, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationRecord]:
    folder = tmp_path_factory.mktemp("evaluated") / "ctan"
    return folder, evaluate(tiny_pointer, model_dir, folder, tiny_config)


def test_an_evaluation_holds_the_files_of_the_contract(
    evaluated: tuple[Path, EvaluationRecord], model_dir: Path
) -> None:
    folder, summary = evaluated
    expected = {"cases.parquet", "dvh.parquet", "figures.npz", "model.json", "history.parquet", "summary.json"}
    assert {path.name for path in folder.iterdir()} == expected
    assert content_of(folder / "summary.json") | {"files": {}} == summary.to_json()
    assert content_of(folder / "model.json") == content_of(model_dir / "model.json")
    assert (folder / "history.parquet").read_bytes() == (model_dir / "history.parquet").read_bytes()


def test_tuning_cases_are_the_models_fold_and_evaluation_cases_the_validation_split(
    evaluated: tuple[Path, EvaluationRecord], store: Store
) -> None:
    cases = read_cases(evaluated[0] / "cases.parquet")
    found = {(row["role"], row["case_id"]) for row in cases.select(["role", "case_id"]).to_pylist()}
    tuning = {("tuning", case_id) for case_id in store.case_ids(split="train", fold=0)}
    evaluation = {("evaluation", case_id) for case_id in store.case_ids(split="validation")}
    assert found == tuning | evaluation
    assert len(tuning) >= 1
    assert len(evaluation) == 2


def test_every_score_is_that_of_the_prediction_brought_to_the_native_grid(
    evaluated: tuple[Path, EvaluationRecord], store: Store, model_dir: Path
) -> None:
    cases = read_cases(evaluated[0] / "cases.parquet")
    assert cases.schema.equals(SCHEMA)
    (case_id, _) = store.case_ids(split="validation")
    reference, prediction = store.reference(case_id), load_network(model_dir).predict(store.load(case_id))
    dose = store.to_native(case_id, prediction["dose"][0], 0.0).astype(np.float64)
    dose = np.where(reference.masks["possible_dose_mask"], np.maximum(dose, 0), 0)
    contours = store.to_native(case_id, prediction["contouring"], 0.0) >= 0.5
    planned = reference.doses["dose"].astype(np.float64)
    volume_mm3 = float(np.prod(reference.spacing_mm))

    rows = cases.filter(pc.field("case_id") == case_id).to_pylist()
    found = {(row["metric"], row["structure"]): row for row in rows}
    num_possible = reference.masks["possible_dose_mask"].sum()
    score = found.pop(("dose_score", ""))
    assert score["value"] == pytest.approx(np.abs(dose - planned).sum() / num_possible, abs=1e-9)
    assert score["count"] == num_possible
    for index, name in enumerate(DATASET.spec.structures):
        if name not in reference.masks:
            continue
        mask = reference.masks[name]
        if name not in DATASET.spec.targets:
            assert found.pop(("dice", name))["value"] == dice(mask, contours[index])
            criteria = {"mean": np.mean}
        else:
            criteria = {c: lambda x, q=q: np.percentile(x, q) for c, q in (("D_99", 1), ("D_95", 5), ("D_1", 99))}
        for criterion, measure in criteria.items():
            row = found.pop(("dvh", f"{name}:{criterion}"))
            assert row["planned"] == pytest.approx(measure(planned[mask]), abs=1e-9)
            assert row["predicted"] == pytest.approx(measure(dose[mask]), abs=1e-9)
            assert row["value"] == pytest.approx(abs(row["predicted"] - row["planned"]), abs=1e-12)
        for goal in map(Goal.parse, load_config("smoke").evaluation.clinical_goals):
            if goal.structure == name and ("goal", str(goal)) in found:
                row = found.pop(("goal", str(goal)))
                assert row["planned"] == pytest.approx(goal.value(planned[mask], volume_mm3), abs=1e-4)
                assert row["predicted"] == pytest.approx(goal.value(dose[mask], volume_mm3), abs=1e-4)
    assert {structure.split(":")[1] for _, structure in found} == {"D_0.1_cc"}  # only these were not compared


def test_the_summary_holds_the_means_over_the_cases(evaluated: tuple[Path, EvaluationRecord]) -> None:
    folder, summary = evaluated
    cases = read_cases(folder / "cases.parquet").to_pandas()
    for role, scores in summary.scores.items():
        rows = cases[cases["role"] == role]
        assert summary.num_cases[role] == rows["case_id"].nunique()
        assert scores["dose"]["dose_score"] == pytest.approx(rows[rows["metric"] == "dose_score"]["value"].mean())
        assert scores["dose"]["dvh_score"] == pytest.approx(rows[rows["metric"] == "dvh"]["value"].mean())
        by_case = rows[rows["metric"] == "dice"].groupby("case_id")["value"].mean()
        assert scores["contouring"]["dice_mean"] == pytest.approx(by_case.mean())
    assert set(summary.scores) == {"tuning", "evaluation"}


def test_structures_that_are_not_contoured_have_no_row(store: Store, evaluated: tuple[Path, EvaluationRecord]) -> None:
    missing = {row["case_id"]: set(row["missing"]) for row in store.manifest.select(["case_id", "missing"]).to_pylist()}
    cases = read_cases(evaluated[0] / "cases.parquet").to_pylist()
    for case_id in {row["case_id"] for row in cases}:
        scored = {re.split("[: ]", row["structure"])[0] for row in cases if row["case_id"] == case_id} - {""}
        assert scored == set(DATASET.spec.structures) - missing[case_id]


def test_dose_is_clamped_at_zero_and_zero_outside_the_mask(store: Store) -> None:
    case_id = store.case_ids(split="validation")[0]
    reference, shape = store.reference(case_id), store.load(case_id).dose.shape
    mask = reference.masks["possible_dose_mask"]
    task, resample = DoseRegression("dose"), partial(store.to_native, case_id)
    assert task.to_native(np.full(shape, -5, np.float32), reference, resample).max() == 0
    dose = task.to_native(np.full((1, *shape), 5, np.float32), reference, resample)
    assert dose.shape == mask.shape
    assert dose[~mask].max() == 0
    assert dose[mask] == pytest.approx(5, abs=1e-4)


def test_probabilities_are_upsampled_before_they_become_contours(store: Store) -> None:
    case_id = store.case_ids(split="validation")[0]
    probabilities = np.random.default_rng(0).random((2, *store.load(case_id).dose.shape), np.float32)
    task, resample = Segmentation("contours", ("A", "B")), partial(store.to_native, case_id)
    found = task.to_native(probabilities, store.reference(case_id), resample)
    np.testing.assert_array_equal(found, store.to_native(case_id, probabilities, 0.0) >= 0.5)
    thresholded_first = store.to_native(case_id, (probabilities >= 0.5).astype(np.float32), 0.0) >= 0.5
    assert (found != thresholded_first).any()


def test_a_prediction_that_is_not_finite_is_refused_by_name(store: Store, tiny_config: RunConfig) -> None:
    case_id = store.case_ids(split="validation")[0]
    case, tasks = store.load(case_id), tasks_of(DATASET.spec)
    prediction = {"contouring": case.masks[:7].astype(np.float32), "dose": np.full(case.dose.shape, np.nan, np.float32)}
    with pytest.raises(DataError, match=rf"{case_id}: the prediction of 'dose' holds NaN"):
        score_case(store, store.reference(case_id), tasks, prediction, EvaluationConfig())


def test_hd95_is_scored_on_request(store: Store, tiny_config: RunConfig) -> None:
    case_id = store.case_ids(split="validation")[0]
    reference, case = store.reference(case_id), store.load(case_id)
    (contouring, _) = tasks_of(DATASET.spec)
    prediction = {"contouring": case.masks[:7].astype(np.float32)}
    plain = score_case(store, reference, (contouring,), prediction, EvaluationConfig())
    scored = score_case(store, reference, (contouring,), prediction, EvaluationConfig(hd95=True))
    assert not {"hd95_mm", "surface_dice"} & {row["metric"] for row in plain.rows}
    assert len([row for row in scored.rows if row["metric"] == "surface_dice"]) == len(scored.rows) / 3
    found = {row["structure"]: row["value"] for row in scored.rows if row["metric"] == "hd95_mm"}
    assert set(found) == {name for name in contouring.structures if name in reference.masks}
    for index, name in enumerate(contouring.structures):
        if name in found:
            contour = scored.native["contouring"][index]
            expected = hd95_mm(reference.masks[name], contour, reference.spacing_mm)
            assert found[name] == pytest.approx(expected, nan_ok=True)


def test_worst_and_best_cases_have_curves_that_start_at_the_whole_volume(
    evaluated: tuple[Path, EvaluationRecord], store: Store, tiny_config: RunConfig
) -> None:
    curves = pq.read_table(evaluated[0] / "dvh.parquet").to_pandas()
    errors = case_errors(read_cases(evaluated[0] / "cases.parquet"), tasks_of(DATASET.spec))
    shown = shown_cases(errors, tiny_config.evaluation.num_figure_cases)
    assert set(errors) == set(store.case_ids(split="validation"))
    assert list(dict.fromkeys(curves["case_id"])) == shown
    assert set(curves[curves["dose_gy"] == 0]["planned"]) == {1.0}
    for _, curve in curves.groupby(["case_id", "structure"]):
        for column in ("planned", "predicted"):
            assert curve[column].is_monotonic_decreasing
            assert curve[column].iloc[-1] == 0
    reference = store.reference(shown[0])
    row = curves[(curves["case_id"] == shown[0]) & (curves["structure"] == "PTV70") & (curves["dose_gy"] == 66.5)]
    inside = reference.doses["dose"][reference.masks["PTV70"]]
    assert row["planned"].item() == pytest.approx((inside >= 66.5).mean())


def test_figures_hold_slices_of_three_views(evaluated: tuple[Path, EvaluationRecord], store: Store) -> None:
    case_id = store.case_ids(split="validation")[0]
    with np.load(evaluated[0] / "figures.npz") as figures:
        for view in ("axial", "coronal", "sagittal"):
            what = {
                key.rsplit("/", 1)[1]: figures[key] for key in figures.files if key.startswith(f"{case_id}/{view}/")
            }
            assert set(what) == {
                "ct",
                "planned",
                "predicted",
                "true_contours",
                "predicted_contours",
                "known",
                "targets",
                "levels_gy",
                "spacing_mm",
            }
            assert what["ct"].shape == what["planned"].shape == what["predicted"].shape
            assert what["true_contours"].shape == what["predicted_contours"].shape == (7, *what["ct"].shape)
            assert what["planned"].max() > 60
            high_dose = what["targets"][list(DATASET.spec.targets).index("PTV70")]
            assert high_dose.any()
            assert what["planned"][high_dose].min() > 50
            assert what["ct"].min() >= -1024


def test_evaluating_again_replaces_the_earlier_evaluation(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    for seed in (1, 2):
        evaluate(
            tiny_pointer,
            write_network(tmp_path / f"model{seed}", tiny_pointer, tiny_config, seed=seed),
            tmp_path / "out",
            tiny_config,
        )
    assert json.loads((tmp_path / "out" / "model.json").read_text())["seed"] == 2
    assert set(read_cases(tmp_path / "out" / "cases.parquet")["seed"].to_pylist()) == {2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model1", "model2", "out"]


def test_a_folder_that_is_no_evaluation_is_not_replaced(
    tiny_pointer: StorePointer, tiny_config: RunConfig, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no earlier evaluation"):
        evaluate(tiny_pointer, model_dir, tmp_path, tiny_config)
    assert (tmp_path / "thesis.txt").exists()


def test_a_diverged_network_leaves_nothing_half_written(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    model = write_network(tmp_path / "model", tiny_pointer, tiny_config, fill=float("nan"))
    with pytest.raises(DataError, match="NaN or infinity"):
        evaluate(tiny_pointer, model, tmp_path / "out", tiny_config)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_of_another_data_set_is_refused(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    model = write_network(tmp_path / "model", tiny_pointer, tiny_config, spec=get_dataset("prostate").spec)
    with pytest.raises(DataError, match="'prostate', the store holds 'openkbp'"):
        evaluate(tiny_pointer, model, tmp_path / "out", tiny_config)


def test_a_fold_without_cases_is_an_error(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tuning cases"):
        evaluate(
            tiny_pointer,
            write_network(tmp_path / "model", tiny_pointer, tiny_config, fold=9),
            tmp_path / "out",
            tiny_config,
        )


class _Changed:
    """A store with something changed that the hash is made of."""

    def __init__(self, store: Store, labels: str = "", versions: dict[str, int] | None = None, **hashes: str) -> None:
        rows = store.manifest.to_pylist()
        rows = [row | {"sha256": hashes.get(row["case_id"], row["sha256"])} for row in rows]
        self.manifest, self.case_ids = type(store.manifest).from_pylist(rows, store.manifest.schema), store.case_ids
        self.spec, self.versions = store.spec, versions or store.versions
        self.is_sealed = store.is_sealed
        self.labels = lambda case_ids: [{"diagnosis": labels} if labels else {} for _ in case_ids]


def test_the_evaluation_hash_depends_on_the_evaluation_cases_and_what_is_made_of_them(store: Store) -> None:
    training, evaluation = store.case_ids(split="train")[0], store.case_ids(split="validation")[0]
    original = evaluation_hash(store)
    assert evaluation_hash(_Changed(store)) == original
    assert evaluation_hash(_Changed(store, **{training: "f" * 64})) == original
    assert evaluation_hash(_Changed(store, **{evaluation: "f" * 64})) != original
    assert evaluation_hash(_Changed(store, labels="nv")) != original  # a corrected label
    assert evaluation_hash(_Changed(store, versions={**store.versions, "packer": 99})) != original


def test_the_evaluation_hash_depends_on_what_structures_and_metrics_mean(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, renamed = evaluation_hash(store), _Changed(store)
    renamed.spec = store.spec.model_copy(update={"targets": {**store.spec.targets, "PTV70": 71.0}})
    assert evaluation_hash(renamed) != original
    monkeypatch.setattr("ctan.versions.SCORING", 99)
    assert evaluation_hash(store) != original


def test_evaluated_in_the_pod_that_trained_the_tables_are_the_same(
    tiny_pointer: StorePointer,
    model_dir: Path,
    tiny_config: RunConfig,
    evaluated: tuple[Path, EvaluationRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    settings = tiny_config.evaluation.model_copy(update={"in_training_pod": True})
    config = tiny_config.model_copy(update={"evaluation": settings})
    evaluate_ahead(tiny_pointer, model, config)

    computed: list[Path] = []
    monkeypatch.setattr(sys.modules["ctan.evaluation.evaluate"], "evaluate", lambda *given: computed.append(given[1]))
    record = evaluated_ahead(tiny_pointer, model, tmp_path / "handed", config)
    assert not computed
    folder, summary = evaluated
    assert record.scores == summary.scores
    assert {path.name for path in (tmp_path / "handed").iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("cases.parquet", "dvh.parquet", "figures.npz", "history.parquet", "model.json"):
        assert (tmp_path / "handed" / name).read_bytes() == (folder / name).read_bytes(), name

    flipped = settings.model_copy(update={"test_time_flip": True})
    evaluated_ahead(tiny_pointer, model, tmp_path / "again", config.model_copy(update={"evaluation": flipped}))
    assert computed == [model], "with other settings it is computed"
    evaluated_ahead(tiny_pointer, model, tmp_path / "again", tiny_config)
    assert computed == [model, model], "and where the setting is off"
