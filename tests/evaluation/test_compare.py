"""Comparison of architectures: hand-made scores on a real store of phantoms, and real networks from end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import ndimage

from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.evaluation import compare, evaluate, evaluation_hash
from ctan.evaluation.cases import read_cases, write_cases
from ctan.evaluation.evaluate import evaluation_cases
from ctan.evaluation.subgroups import known_facts, subgroups
from ctan.metrics import dose_score
from ctan.report import write_report
from ctan.store import Store, StorePointer, open_store
from ctan.tasks import DoseBaselines, task_from_json
from tests.helpers.evaluation import DATASET, read_json, write_network
from tests.helpers.records import change_record, content_of

Scores = Mapping[str, float]
Write = Callable[..., Path]
Compare = Callable[[list[Path]], dict]


@pytest.fixture(scope="session")
def store(tiny_pointer: StorePointer) -> Store:
    return open_store(tiny_pointer)


@pytest.fixture(scope="session")
def template(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real evaluation, with the figures that a report needs."""
    folder = tmp_path_factory.mktemp("template")
    evaluate(tiny_pointer, write_network(folder / "model", tiny_pointer, tiny_config), folder / "out", tiny_config)
    return folder / "out"


@pytest.fixture
def write(template: Path, store: Store, tmp_path: Path) -> Write:
    """Return a function that writes an evaluation with scores that were made up."""

    def write_evaluation(
        arch: str, tuning: Scores, evaluation: Scores | None = None, fold: int = 0, seed: int = 0
    ) -> Path:
        """Give every case of a role the same Dice, dose error and DVH error; a metric that is not named is missing."""
        folder = tmp_path / f"{arch}-{fold}-{seed}"
        shutil.copytree(template, folder)
        described = read_json(folder / "model.json")
        described["tasks"] = [
            t for t in described["tasks"] if {"contouring": "dice", "dose": "dose"}[t["name"]] in tuning
        ]
        facts = {"arch": arch, "fold": fold, "seed": seed, "run_id": f"run-{arch}-{fold}-{seed}"}
        change_record(folder / "model.json", tasks=described["tasks"], **facts)
        roles = {
            "tuning": (store.case_ids(split="train", fold=fold), tuning),
            "evaluation": (store.case_ids(split="validation"), evaluation or tuning),
        }
        rows = []
        for role, (case_ids, found) in roles.items():
            for case_id in case_ids:
                base = {"arch": arch, "fold": fold, "seed": seed, "role": role, "case_id": case_id, "group_id": case_id}
                rows += [base | row for row in _rows(found)]
        (folder / "cases.parquet").unlink()
        write_cases(rows, folder / "cases.parquet")
        change_record(folder / "summary.json")
        return folder

    return write_evaluation


def _rows(found: Scores) -> list[dict[str, Any]]:
    rows = []
    if "dice" in found:
        for name, shift in (("Brainstem", 0.1), ("Larynx", -0.1)):
            value = found["dice"] + shift
            rows.append({"task": "contouring", "metric": "dice", "structure": name, "value": value, "count": 9})
    if "dose" in found:
        rows.append({"task": "dose", "metric": "dose_score", "structure": "", "value": found["dose"], "count": 99})
        error = found.get("dvh", 1.0)
        row = {"task": "dose", "metric": "dvh", "structure": "PTV70:D_95", "value": error, "count": 1}
        rows.append({**row, "planned": 60.0, "predicted": 60.0 + error})
    return rows


@pytest.fixture
def compared(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path) -> Compare:
    """Return a function that compares evaluations and returns `comparison.json`."""

    def run(folders: list[Path]) -> dict:
        out = tmp_path / "comparison"
        content = compare(tiny_pointer, folders, out, tiny_config).to_json()
        assert content_of(out / "comparison.json") | {"files": {}} == json.loads(json.dumps(content))
        return content

    return run


def _by_arch(content: dict) -> dict[str, dict]:
    return {entry["arch"]: entry for entry in content["architectures"]}


def test_architectures_are_scored_and_compared_with_stl(write: Write, compared: Compare, store: Store) -> None:
    folders = [
        write("ctan", {"dice": 0.6, "dose": 3.0}, {"dice": 0.66, "dose": 2.0, "dvh": 1.5}),
        write("stl", {"dice": 0.5, "dose": 4.0}, {"dice": 0.6, "dose": 4.0, "dvh": 2.0}),
    ]
    content = compared(folders)
    ctan, stl = _by_arch(content)["ctan"], _by_arch(content)["stl"]
    assert content["reference_arch"] == "stl"
    assert stl["relative_improvement"] == {}
    assert ctan["scores"]["evaluation"]["contouring"]["dice_mean"] == pytest.approx(
        {"value": 0.66, "low": 0.66, "high": 0.66, "patients": content["num_evaluation_cases"]}
    )
    assert ctan["scores"]["evaluation"]["dose"]["dvh_score"]["value"] == pytest.approx(1.5)
    assert ctan["structures"] == pytest.approx({"Brainstem": 0.76, "Larynx": 0.56})
    improvement = {task: entry["value"] for task, entry in ctan["relative_improvement"]["evaluation"].items()}
    assert improvement == pytest.approx({"contouring": 10.0, "dose": 50.0, "average": 30.0})
    improvement = {task: entry["value"] for task, entry in ctan["relative_improvement"]["tuning"].items()}
    assert improvement == pytest.approx({"contouring": 20.0, "dose": 25.0, "average": 22.5})
    assert [model["run_id"] for model in content["models"]] == ["run-ctan-0-0", "run-stl-0-0"]
    assert content["models"][1]["scores"]["tuning"]["dose"]["dose_score"] == pytest.approx(4.0)
    assert content["num_tuning_cases"] == len(store.case_ids(split="train", fold=0))
    assert content["num_evaluation_cases"] == 2
    assert content["evaluation_hash"] == evaluation_hash(store)
    assert content["excludes_training_variance"]


def test_the_best_is_chosen_on_the_tuning_cases_alone(write: Write, compared: Compare) -> None:
    folders = [
        write("stl", {"dice": 0.5, "dose": 4.0}, {"dice": 0.5, "dose": 4.0}),
        write("hps", {"dice": 0.7, "dose": 3.0}, {"dice": 0.1, "dose": 9.0}),  # best where it is chosen
        write("ctan", {"dice": 0.6, "dose": 3.5}, {"dice": 0.9, "dose": 1.0}),  # best where it is only measured
    ]
    best = compared(folders)["best"]
    assert (best["arch"], best["fold"], best["seed"], best["model_index"]) == ("hps", 0, 0, 1)
    error = (1 - 0.7 + 3.0 / 7.9) / 2
    assert f"hps {error:.4f}" in best["reason"]


def test_of_equal_models_the_cheaper_is_chosen(write: Write, compared: Compare) -> None:
    costs = {"ctan": (9e9, 10), "mtan": (2e9, 30), "stl": (2e9, 20), "hps": (3e9, 5)}
    folders = [write(arch, {"dice": 0.6, "dose": 3.0}) for arch in costs]
    for folder, (macs, parameters) in zip(folders, costs.values(), strict=True):
        change_record(folder / "model.json", macs_per_case=macs, num_parameters=parameters)
    best = compared(folders)["best"]
    assert best["arch"] == "stl"  # as few operations as mtan, fewer parameters
    assert best["reason"].endswith("of those with the lowest it is the cheapest")


def test_the_model_index_points_into_the_folders_that_were_given(write: Write, compared: Compare) -> None:
    folders = [
        write("hps", {"dice": 0.5, "dose": 4.0}),
        write("ctan", {"dice": 0.6, "dose": 3.0}, seed=0),
        write("ctan", {"dice": 0.7, "dose": 3.0}, seed=1),
    ]
    content = compared(folders)
    assert content["best"]["model_index"] == 2
    assert content["best"]["seed"] == 1
    assert content["reference_arch"] == "hps"  # without STL the first one


def test_an_architecture_is_the_mean_of_its_folds_and_seeds(write: Write, compared: Compare, store: Store) -> None:
    folders = [
        write(arch, {"dice": 0.6, "dose": base + fold + seed / 2}, fold=fold, seed=seed)
        for arch, base in (("stl", 4.0), ("ctan", 3.0))
        for fold in (0, 1)
        for seed in (0, 1, 2)
    ]
    content = compared(folders)
    ctan = _by_arch(content)["ctan"]
    assert len(content["models"]) == 12
    assert not content["excludes_training_variance"]
    assert content["num_tuning_cases"] == len(
        store.case_ids(split="train", fold=0) + store.case_ids(split="train", fold=1)
    )
    score = ctan["scores"]["evaluation"]["dose"]["dose_score"]
    assert score["value"] == pytest.approx(3.0 + 0.5 + 0.5)
    half = 0.5 / 3**0.5 * 4.3027  # patients are all the same: Student's t of three seeds
    assert [score["low"], score["high"]] == pytest.approx([4 - half, 4 + half], abs=1e-4)
    assert ctan["relative_improvement"]["evaluation"]["dose"]["value"] == pytest.approx(100 / 5)


def test_the_chosen_architecture_is_scored_in_subgroups(
    write: Write, store: Store, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    folders = [write("stl", {"dice": 0.5, "dose": 4.0}), write("ctan", {"dice": 0.6, "dose": 3.0})]
    cases = evaluation_cases(store)
    missing = {row["case_id"]: row["missing"] for row in store.manifest.to_pylist()}
    wanted = {"promotion": {"subgroups": {"missing": [], "spacing": [1000.0]}, "min_subgroup_cases": len(cases)}}
    config = RunConfig.model_validate(tiny_config.model_dump() | wanted)
    found = {entry.name: entry for entry in compare(tiny_pointer, folders, tmp_path / "out", config).subgroups}
    everyone = found.pop("spacing < 1000")
    assert everyone.patients == len(cases)
    dose = everyone.scores["dose"]["dose_score"]
    assert (dose.value, dose.patients) == (pytest.approx(3.0), len(cases))
    assert dose.low == pytest.approx(3.0)
    lacking = {name: sum(name in missing[case] for case in cases) for name in store.spec.structures}
    assert {name: entry.patients for name, entry in found.items()} == {
        f"{name} missing": count for name, count in lacking.items() if count
    }
    for entry in found.values():
        small = entry.scores["dose"]["dose_score"]
        assert small.value is not None
        assert (small.low is None) == (entry.patients < len(cases)), "too few for a verdict"


def test_cases_are_told_apart_by_what_the_data_know_of_them() -> None:
    spec = get_dataset("stoic").spec
    facts = {"age": [40.0, 70.0, None], "sex": ["F", "M", "F"], "spacing_mm": [[1.0, 1, 1], [2.0, 1, 1], [2.0, 1, 1]]}
    manifest = pa.table({**facts, "case_id": ["a", "b", "c"], "missing": pa.array([[], ["lung"], []])})
    wanted = known_facts(manifest, spec)
    assert wanted == {"age": (55.0,), "sex": (), "spacing": (2.0,), "missing": ()}
    assert subgroups(manifest, wanted) == {
        "55 <= age": {"b"},
        "age < 55": {"a"},
        "lung missing": {"b"},
        "sex = F": {"a", "c"},
        "sex = M": {"b"},
        "2 <= spacing": {"b", "c"},
        "spacing < 2": {"a"},
    }
    same = manifest.set_column(1, "sex", pa.array(["F"] * 3)).slice(0, 1)
    assert known_facts(same, spec) == {}


def test_one_architecture_can_stand_alone(write: Write, compared: Compare) -> None:
    content = compared([write("mtan", {"dice": 0.6, "dose": 3.0})])
    assert content["reference_arch"] == content["best"]["arch"] == "mtan"
    assert content["architectures"][0]["relative_improvement"] == {}


def test_a_model_of_one_task_is_compared_on_that_task(write: Write, compared: Compare) -> None:
    folders = [write("stl", {"dice": 0.5, "dose": 4.0}), write("hps", {"dose": 3.0})]
    content = compared(folders)
    hps = _by_arch(content)["hps"]
    assert set(hps["scores"]["evaluation"]) == {"dose"}
    assert {t: e["value"] for t, e in hps["relative_improvement"]["evaluation"].items()} == pytest.approx(
        {"dose": 25.0, "average": 25.0}
    )
    assert content["best"]["arch"] == "stl"  # it cannot be ranked with models of both tasks


def test_all_rows_and_those_of_the_baselines_are_kept(
    write: Write, compared: Compare, tmp_path: Path, store: Store
) -> None:
    folders = [write("stl", {"dice": 0.5, "dose": 4.0}), write("ctan", {"dice": 0.6, "dose": 3.0})]
    content = compared(folders)
    cases = read_cases(tmp_path / "comparison" / "cases.parquet").to_pandas()
    models = sum(read_cases(folder / "cases.parquet").num_rows for folder in folders)
    baselines = cases[cases["arch"].str.startswith("baseline-")]
    names = ["baseline-empty", "baseline-mean-mask", "baseline-mean", "baseline-distance"]
    assert [entry["arch"] for entry in content["baselines"]] == names
    assert len(cases) == models + len(baselines)
    assert set(baselines["case_id"]) == set(store.case_ids(split="validation"))
    assert set(baselines["fold"]) == set(baselines["seed"]) == {-1}
    for entry in content["baselines"]:
        rows = baselines[baselines["arch"] == entry["arch"]]
        metric = "dice" if "mask" in entry["arch"] or "empty" in entry["arch"] else "dose_score"
        by_case = rows[rows["metric"] == metric].groupby("case_id")["value"].mean()
        (scores,) = entry["scores"]["evaluation"].values()
        assert next(iter(scores.values())) == pytest.approx(by_case.mean())


def test_the_baselines_learn_from_the_training_cases_outside_the_tuning_fold(
    write: Write, compared: Compare, store: Store
) -> None:
    content = compared([write("ctan", {"dice": 0.6, "dose": 3.0}, fold=1)])
    cases = [store.load(case_id) for case_id in store.case_ids(split="train", not_fold=1)]
    mean_gy = np.concatenate([case.dose[case.dose_known] for case in cases]).astype(np.float64).mean()
    scores = []
    for case_id in store.case_ids(split="validation"):
        reference = store.reference(case_id)
        mask, planned = reference.masks["possible_dose_mask"], reference.doses["dose"].astype(np.float64)
        scores.append(np.abs(planned - mask * mean_gy).sum() / mask.sum())
    found = {entry["arch"]: entry["scores"]["evaluation"].get("dose", {}) for entry in content["baselines"]}
    found = {arch: scores["dose_score"] for arch, scores in found.items() if scores}
    assert found["baseline-mean"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert found["baseline-distance"] < found["baseline-mean"]


def test_the_distance_baseline_looks_the_dose_up_by_distance_to_the_nearest_target(store: Store) -> None:
    statistics = DoseBaselines(DATASET.spec)
    for case_id in store.case_ids(split="train"):
        statistics.learn(store.load(case_id))
    reference = store.reference(store.case_ids(split="validation")[0])
    targets = {name: gy for name, gy in DATASET.spec.targets.items() if name in reference.masks}
    union = np.any([reference.masks[name] for name in targets], axis=0)
    distance = ndimage.distance_transform_edt(~union, sampling=reference.spacing_mm)
    expected = statistics.by_distance_gy[127 + np.rint(np.minimum(distance, 127)).astype(int)]
    for name, gy in sorted(targets.items(), key=lambda item: item[1]):
        expected[reference.masks[name]] = gy
    expected[~reference.masks["possible_dose_mask"]] = 0
    np.testing.assert_allclose(statistics.dose_by_distance(reference), expected, atol=1e-4)


def test_the_dose_by_distance_is_the_mean_over_all_training_voxels_at_that_distance(store: Store) -> None:
    statistics, case = DoseBaselines(DATASET.spec), store.load(store.case_ids(split="train")[0])
    statistics.learn(case)
    statistics.learn(case)
    distance_mm = int(case.target_distance[case.dose_known & (case.target_distance > 0)][0])
    at_distance = case.dose_known & (case.target_distance == distance_mm)
    assert statistics.by_distance_gy[127 + distance_mm] == pytest.approx(case.dose[at_distance].mean(), rel=1e-5)
    assert statistics.mean_gy == pytest.approx(case.dose[case.dose_known].mean(), rel=1e-5)


def test_the_baselines_do_not_look_at_the_planned_dose(store: Store) -> None:
    statistics = DoseBaselines(DATASET.spec)
    statistics.learn(store.load(store.case_ids(split="train")[0]))
    reference = store.reference(store.case_ids(split="validation")[0])
    doses = [statistics.mean_dose(reference), statistics.dose_by_distance(reference)]
    reference.doses["dose"][:] = 0
    np.testing.assert_array_equal(doses[0], statistics.mean_dose(reference))
    np.testing.assert_array_equal(doses[1], statistics.dose_by_distance(reference))


def test_the_floor_is_the_truth_sent_to_the_working_grid_and_back(
    write: Write, compared: Compare, store: Store
) -> None:
    floor = compared([write("ctan", {"dice": 0.6, "dose": 3.0})])["grid_floor"]
    scores, overlaps = [], []
    for case_id in store.case_ids(split="validation"):
        reference, mask = store.reference(case_id), store.reference(case_id).masks["possible_dose_mask"]
        contours = store.to_native(case_id, store.load(case_id).masks.astype(np.float32), 0.0) >= 0.5
        organs = [
            name for name in DATASET.spec.structures if name in reference.masks and name not in DATASET.spec.targets
        ]
        found = {name: contours[DATASET.spec.structures.index(name)] for name in organs}
        both = {name: 2 * (found[name] & reference.masks[name]).sum() for name in organs}
        overlaps.append(np.mean([both[n] / (found[n].sum() + reference.masks[n].sum()) for n in organs]))
        back = np.where(mask, np.maximum(store.to_native(case_id, store.load(case_id).dose, 0.0), 0), 0)
        scores.append(dose_score(reference.doses["dose"], back.astype(np.float32), mask))
    assert floor["dose"]["dose_score"] == pytest.approx(np.mean(scores))
    assert 0.1 < floor["dose"]["dose_score"] < 10  # a grid of 16 mm
    assert floor["contouring"]["dice_mean"] == pytest.approx(np.mean(overlaps))
    assert 0.1 < floor["contouring"]["dice_mean"] < 0.95


def test_numbers_that_json_does_not_know_are_null_and_such_a_model_is_not_chosen(
    write: Write, compared, tmp_path: Path
) -> None:
    folders = [
        write("stl", {"dice": 0.5, "dose": 0.0}),  # nothing improves on 0 Gy: minus infinity percent
        write("hps", {"dice": 0.9, "dose": float("nan")}),
        write("ctan", {"dice": 0.6, "dose": 3.0}),
    ]
    content = compared(folders)
    text = (tmp_path / "comparison" / "comparison.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = _by_arch(content)
    assert found["hps"]["scores"]["evaluation"]["dose"]["dose_score"]["value"] is None
    assert content["models"][1]["scores"]["tuning"]["dose"]["dose_score"] is None
    assert found["ctan"]["relative_improvement"]["evaluation"]["dose"]["value"] is None
    assert found["ctan"]["relative_improvement"]["evaluation"]["contouring"]["value"] == pytest.approx(20.0)
    assert content["best"]["arch"] == "stl"


def test_an_evaluation_on_another_store_is_refused_by_both_names(
    write: Write, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    folder = write("ctan", {"dice": 0.6, "dose": 3.0})
    change_record(folder / "summary.json", store_key="0123abcd")
    with pytest.raises(DataError, match=f"store 0123abcd, to be compared on store {tiny_pointer.key}"):
        compare(tiny_pointer, [folder], tmp_path / "out", tiny_config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.json", "summary.json", "cases.parquet"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_missing_or_damaged_file_is_named(
    write: Write, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path, name: str, damage: str
) -> None:
    folder = write("ctan", {"dice": 0.6, "dose": 3.0})
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"PAR1 this is not")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        compare(tiny_pointer, [folder], tmp_path / "out", tiny_config)
    assert not (tmp_path / "out").exists()


def test_the_same_training_twice_is_refused(
    write: Write, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    folder = write("ctan", {"dice": 0.6, "dose": 3.0})
    with pytest.raises(DataError, match="both hold ctan, fold 0, seed 0"):
        compare(tiny_pointer, [folder, folder], tmp_path / "out", tiny_config)


def test_architectures_of_different_folds_are_refused(
    write: Write, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    folders = [write("stl", {"dice": 0.5, "dose": 4.0}), write("ctan", {"dice": 0.6, "dose": 3.0}, fold=1)]
    with pytest.raises(DataError, match="ctan and stl were not scored on the same cases"):
        compare(tiny_pointer, folders, tmp_path / "out", tiny_config)


def test_nothing_to_compare_is_an_error(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        compare(tiny_pointer, [], tmp_path / "out", tiny_config)


@pytest.mark.slow
def test_real_networks_are_evaluated_and_compared(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    folders = []
    for arch in ("stl", "ctan"):
        model = write_network(tmp_path / f"model-{arch}", tiny_pointer, tiny_config, arch)
        evaluate(tiny_pointer, model, tmp_path / f"evaluation-{arch}", tiny_config)
        folders.append(tmp_path / f"evaluation-{arch}")
    comparison = compare(tiny_pointer, folders, tmp_path / "comparison", tiny_config)
    write_report(comparison, folders, tmp_path / "report.html")
    content = comparison.to_json()
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    for folder, model in zip(folders, content["models"], strict=True):
        assert model["scores"] == read_json(folder / "summary.json")["scores"]
    tasks = [task_from_json(task) for task in read_json(folders[0] / "model.json")["tasks"]]
    gains = _by_arch(content)["ctan"]["relative_improvement"]["evaluation"]
    assert set(gains) == {"average", *(task.name for task in tasks)}
    (stl, ctan) = (
        read_json(folder / "summary.json")["scores"]["evaluation"]["dose"]["dose_score"] for folder in folders
    )
    assert gains["dose"]["value"] == pytest.approx((stl - ctan) / stl * 100)
    assert gains["dose"]["low"] <= gains["dose"]["value"] <= gains["dose"]["high"]
    assert pq.read_metadata(tmp_path / "comparison" / "cases.parquet").num_rows > 50


@pytest.mark.slow
def test_the_tables_of_300_trainings_are_compared(write: Write, compared: Compare) -> None:
    """More than a run carries: compare itself is not the limit."""
    archs = {"stl": 0.5, "hps": 0.55, "mtan": 0.6, "ctan": 0.65}
    folders = [
        write(arch, {"dice": dice + seed / 1e4, "dose": 3.0}, seed=seed)
        for arch, dice in archs.items()
        for seed in range(75)
    ]
    content = compared(folders)
    assert len(content["models"]) == 300
    assert (content["best"]["arch"], content["best"]["seed"]) == ("ctan", 74)
    assert content["best"]["model_index"] == 299
    dice = _by_arch(content)["stl"]["scores"]["evaluation"]["contouring"]["dice_mean"]["value"]
    assert dice == pytest.approx(0.5 + 37 / 1e4)
