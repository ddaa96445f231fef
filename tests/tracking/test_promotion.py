"""Promotion: registry, gate, ledger and lock, on real MLflow databases with real models."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ctan.errors import ConfigError, DataError, TrackingError
from ctan.inference.form import example
from ctan.prediction.models import Model
from ctan.prediction.served import ServedModel
from ctan.tracking import promote
from ctan.tracking.ledger import Ledger
from ctan.tracking.registry import promotion_lock
from tests.helpers.promotion import LINEAGE, NAME, Site
from tests.helpers.tracking import small_config, write_model

pytest_plugins = ["tests.helpers.promotion"]


def test_the_first_model_that_beats_the_baselines_becomes_champion(site: Site) -> None:
    model = site.train(seed=0)
    decision = site.promote(model, dose=4.0)
    assert decision.promoted
    assert (decision.version, decision.champion_before, decision.champion_after) == ("1", None, "1")
    assert "ctan against no champion yet, 20 cases: dose better than baseline-mean: passed (+215" in decision.reason
    assert site.aliases() == {"champion": "1"}
    json.dumps(decision.to_json())
    assert "version 1 promoted to champion" in str(decision)


def test_the_champion_loads_by_name_and_predicts_what_the_trained_folder_does(site: Site) -> None:
    import mlflow

    model = site.train(seed=0)
    site.promote(model)
    served = ServedModel.open([Model.of("model", model)])
    row = example(served.record)
    found = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(pd.DataFrame([row]))
    assert found.to_dict(orient="records") == [served.answer(row)]


def test_the_version_names_what_it_was_made_from(site: Site) -> None:
    model = site.train(seed=3)
    site.promote(model, dice=0.5, dose=4.0)
    run_id = json.loads((model / "model.json").read_text())["run_id"]
    version = site.client.get_model_version(NAME, "1")
    assert version.run_id == run_id
    expected = {"arch": "ctan", "fold": "0", "seed": "3", "data_hash": "d" * 64, "store_key": "k" * 64}
    expected |= {"evaluation_hash": "h" * 64, "code_hash": "e" * 64, "compared_run_ids": run_id, "run_id": run_id}
    expected |= {"evaluation/dose/dose_score_gy": "4", "tuning/contours/dice_mean": "0.5"}
    assert expected.items() <= version.tags.items()


def test_a_first_model_worse_than_one_baseline_is_only_challenger(site: Site) -> None:
    decision = site.promote(site.train(seed=0), dose=8.5)
    assert not decision.promoted
    # By hand: (8.0 - 8.5) / 7.9 = -6.33 %
    assert "dose better than baseline-distance: not passed (-6.33 %" in decision.reason
    verdicts = {row["criterion"]: row["passed"] for row in decision.criteria}
    assert verdicts["dose better than baseline-mean"]
    assert not verdicts["dose better than baseline-distance"]
    assert site.aliases() == {"challenger": "1"}
    assert decision.champion_after is None


def test_without_baselines_nothing_becomes_the_first_champion(site: Site) -> None:
    model = site.train(seed=0)
    decision = site.promote(model, site.compare(model, baselines={}))
    assert not decision.promoted
    assert "no simple baseline" in decision.reason


def test_a_better_challenger_takes_over(site: Site) -> None:
    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    decision = site.promote(site.train(seed=1), dice=0.55, dose=3.8)
    assert decision.promoted
    assert site.aliases() == {"champion": "2"}
    # By hand: Dice 0.55 - 0.5 = 5 %; dose (4.0 - 3.8) / 7.9 = 2.53 %.
    tasks = decision.numbers["tasks"]
    assert tasks["contours"]["percent"] == pytest.approx(5.0)
    assert tasks["dose"]["percent"] == pytest.approx(100 * 0.2 / 7.9)
    assert decision.numbers["mean_improvement"]["percent"] == pytest.approx((5.0 + 100 * 0.2 / 7.9) / 2)
    # The Dice of every patient is 5 % better: paired, there is nothing to be unsure of.
    assert tasks["contours"]["lower"] == pytest.approx(5.0)


def test_the_version_and_the_ledger_hold_the_table_of_the_decision(site: Site) -> None:
    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    site.promote(site.train(seed=1), dice=0.55, dose=3.8)
    named = [row["criterion"] for row in site.ledger()[-1]["criteria"]]
    assert named == [
        "enough common cases",
        "finite numbers",
        "every task compared",
        "mean improvement",
        "contours not worse",
        "dose not worse",
        "dose better than baseline-mean",
        "dose better than baseline-distance",
        "data validation passed",
        "lineage complete",
    ]
    page = site.client.get_model_version(NAME, "2").description
    assert "| enough common cases | 20 | 10 | yes |" in page
    assert page.startswith("### Decision\n\n**promoted**")


@pytest.mark.parametrize("lacks", ["data_version", "validation"])
def test_a_model_whose_origin_is_not_known_whole_is_not_promoted(site: Site, lacks: str) -> None:
    lineage = LINEAGE | {lacks: ""}
    decision = site.promote(site.train(seed=0), lineage=lineage)
    assert not decision.promoted
    assert (
        "lacks data_version" if lacks == "data_version" else "data validation passed: not passed"
    ) in decision.reason


def test_a_champion_of_synthetic_data_does_not_stand_in_the_way_of_the_first_real_model(site: Site) -> None:
    """Was "registered, not promoted", whatever its scores, because the grid of the phantoms differs."""
    # as release 0.1 registered it
    site.promote(site.train(seed=0), lineage=LINEAGE | {"data_source": "phantom:train=12,validation=4,seed=0"})
    decision = site.promote(site.train(seed=1), dose=7.0, evaluation_hash="n" * 64)
    assert decision.promoted
    assert "the champion, version 1, learned from synthetic data and does not count" in decision.reason


def test_models_of_synthetic_and_of_real_data_never_share_a_name(site: Site) -> None:
    """Was ctan-openkbp for both: the phantoms' model was its champion."""
    phantoms = LINEAGE | {"data_source": "phantom:train=12,validation=4,seed=0", "synthetic": "true"}
    first, second = site.train(seed=0), site.train(seed=1)
    decision = site.promote(first, lineage=phantoms)
    assert (decision.model_name, decision.version) == (f"{NAME}-phantom", "1")
    assert site.client.get_model_version(f"{NAME}-phantom", "1").tags["synthetic"] == "true"
    assert site.promote(second).model_name == NAME
    named = {"promotion": {"model_name": "lab"}}
    assert site.promote(first, lineage=phantoms, **named).model_name == "lab-phantom"
    with pytest.raises(ConfigError, match="'lab-phantom' is a name of synthetic data, these are real"):
        site.promote(second, promotion={"model_name": "lab-phantom"})


def test_a_worse_challenger_is_kept_beside_the_champion(site: Site) -> None:
    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    decision = site.promote(site.train(seed=1), dice=0.52, dose=4.4)  # +2 % and -5.06 %
    assert not decision.promoted
    assert site.aliases() == {"champion": "1", "challenger": "2"}
    assert "-1.53 %" in decision.reason
    assert "dose not worse: not passed (-5.06 %" in decision.reason


def test_the_needed_improvement_must_be_exceeded(site: Site) -> None:
    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    second, third = site.train(seed=1), site.train(seed=2)
    strict = {"promotion": {"min_improvement_percent": 3.75}}
    assert not site.promote(second, dice=0.55, dose=3.8, **strict).promoted  # 3.77 %, its bound is lower
    assert site.promote(third, dice=0.56, dose=3.8, **strict).promoted  # 4.27 %
    assert site.aliases() == {"champion": "3"}


def test_a_champion_that_scores_zero_is_no_obstacle_and_breaks_no_file(site: Site) -> None:
    """Was promoted at "+inf %", which JSON cannot say."""
    champion, challenger = site.train(seed=0), site.train(seed=1)
    site.promote(champion, site.compare(champion, dice=0.0, spread=0.0))
    decision = site.promote(challenger, site.compare(challenger, dice=0.3))
    assert decision.promoted
    line = Ledger(str(site.store_root), NAME).path.read_text().splitlines()[-1]
    assert json.loads(line)["numbers"]["tasks"]["contours"]["percent"] == pytest.approx(30)


def test_the_same_scores_again_do_not_move_the_champion(site: Site) -> None:
    site.promote(site.train(seed=0))
    assert not site.promote(site.train(seed=1)).promoted


def test_a_new_comparison_of_the_champion_itself_changes_nothing(site: Site) -> None:
    model = site.train(seed=0)
    site.promote(model)
    decision = site.promote(model, site.compare(model, dose=3.9))
    assert not decision.promoted
    assert "champion already" in decision.reason
    assert site.versions() == ["1"]
    assert site.aliases() == {"champion": "1"}


def test_promoting_again_registers_and_records_nothing_twice(site: Site) -> None:
    model = site.train(seed=0)
    comparison = site.compare(model)
    first = site.promote(model, comparison)
    assert site.promote(model, comparison) == first
    assert site.versions() == ["1"]
    assert len(site.ledger()) == 1


def test_an_old_comparison_run_again_does_not_undo_later_decisions(site: Site) -> None:
    old = site.train(seed=0)
    comparison = site.compare(old)
    first = site.promote(old, comparison)
    site.promote(site.train(seed=1), dice=0.6, dose=3.0)
    assert site.promote(old, comparison) == first
    assert site.aliases() == {"champion": "2"}
    assert len(site.ledger()) == 2


@pytest.mark.parametrize("step", ["register", "Ledger.append", "set_aliases"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_promotion_that_is_interrupted_and_run_again_ends_in_the_same_state(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    from ctan.tracking import registry

    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    model = site.train(seed=1)
    comparison = site.compare(model, dice=0.6, dose=3.0)
    owner: Any = Ledger if step.startswith("Ledger") else registry
    name = step.rpartition(".")[2]
    original = getattr(owner, name)

    def interrupted(*arguments: Any) -> None:
        if moment == "after":
            original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            site.promote(model, comparison)
    decision = site.promote(model, comparison)
    assert decision.promoted
    assert (decision.version, decision.champion_before, decision.champion_after) == ("2", "1", "2")
    assert site.versions() == ["1", "2"]
    assert site.aliases() == {"champion": "2"}
    assert [entry["version"] for entry in site.ledger()] == ["1", "2"]


def test_every_decision_and_every_look_is_recorded(site: Site) -> None:
    for seed, dose in enumerate((4.0, 4.5, 3.0)):
        site.promote(site.train(seed=seed), dose=dose)
    entries = site.ledger()
    assert [entry["decision"] for entry in entries] == ["promoted", "kept", "promoted"]
    assert [entry["looks"] for entry in entries] == [1, 2, 3]
    assert [(entry["champion_before"], entry["champion_after"]) for entry in entries] == [
        (None, "1"),
        ("1", "1"),
        ("1", "3"),
    ]
    for entry in entries:
        assert entry["time"].endswith("+00:00")
        assert entry["reason"]
        assert entry["evaluation_hash"] == "h" * 64


def test_looks_are_counted_for_each_version_of_the_data(site: Site) -> None:
    model = site.train(seed=0)
    assert site.promote(model).looks == 1
    assert site.promote(model, dose=4.1).looks == 2
    assert site.promote(model, dose=4.1, data_hash="e" * 64).looks == 1


def test_an_unfinished_last_line_of_the_ledger_is_dropped(site: Site) -> None:
    site.promote(site.train(seed=0))
    path = Ledger(str(site.store_root), NAME).path
    with path.open("a") as stream:
        stream.write('{"decision": "prom')
    assert len(site.ledger()) == 1
    site.promote(site.train(seed=1), dose=3.0)
    assert [entry["version"] for entry in site.ledger()] == ["1", "2"]


def test_a_damaged_ledger_stops_promotion_and_names_the_line(site: Site) -> None:
    site.promote(site.train(seed=0))
    path = Ledger(str(site.store_root), NAME).path
    path.write_text(path.read_text() + "garbage\n")
    model = site.train(seed=1)
    with pytest.raises(DataError, match=r"ctan-openkbp\.jsonl: line 2 is damaged"):
        site.promote(model)
    assert site.aliases() == {"champion": "1"}


def test_switched_off_promotion_touches_nothing(site: Site) -> None:
    decision = site.promote(site.train(seed=0), promotion={"enabled": False})
    assert not decision.promoted
    assert decision.version is None
    assert site.client.search_registered_models() == []
    assert not (site.store_root / "ledger").exists()


def test_a_store_root_that_cannot_be_written_stops_before_the_registry(site: Site) -> None:
    model = site.train(seed=0)
    site.store_root.mkdir(parents=True, exist_ok=True)
    (site.store_root / "ledger").write_text("in the way")
    with pytest.raises(DataError, match="ledger cannot be written"):
        site.promote(model)
    assert site.client.search_registered_models() == []


def test_a_run_that_the_tracking_server_does_not_know_is_named(site: Site) -> None:
    model = write_model(site.folder / "stray", small_config(), run_id="0" * 32)
    with pytest.raises(TrackingError, match=r"run 0{32} of the chosen model \(ctan\) cannot be read"):
        site.promote(model)


def test_a_run_that_logged_other_weights_is_refused(site: Site) -> None:
    model = site.train(seed=0)
    run_id = json.loads((model / "model.json").read_text())["run_id"]
    write_model(model, small_config(), seed=5, run_id=run_id)
    with pytest.raises(TrackingError, match="has not logged a model with the weights"):
        site.promote(model)


def test_a_comparison_on_another_store_is_refused(site: Site) -> None:
    model = site.train(seed=0)
    with pytest.raises(DataError, match="compares on data_hash"):
        site.promote(model, site.compare(model, data_hash="f" * 64))


def test_a_model_folder_that_was_not_compared_is_refused(site: Site) -> None:
    comparison = site.compare(site.train(seed=0))
    with pytest.raises(DataError, match=r"the best model \(ctan, fold 0, seed 0, run \w+\) is in none of"):
        site.promote(site.train(seed=1), comparison)


@pytest.mark.parametrize("name", ["comparison.json", "cases.parquet"])
def test_a_missing_or_damaged_comparison_is_named(site: Site, name: str) -> None:
    model = site.train(seed=0)
    comparison = site.compare(model)
    (comparison / name).write_bytes(b"{")
    with pytest.raises(DataError, match=name):
        site.promote(model, comparison)
    (comparison / name).unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        site.promote(model, comparison)


def test_a_model_name_that_is_a_path_is_refused(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"promotion\.model_name"):
        site.promote(site.train(seed=0), promotion={"model_name": "../elsewhere"})


def test_a_champion_that_cannot_be_scored_stays_until_a_new_line_is_wanted(site: Site) -> None:
    site.promote(site.train(seed=0))
    model = site.train(seed=1)
    decision = site.promote(model, dose=1.0, evaluation_hash="n" * 64)  # there is no store to score on
    assert not decision.promoted
    assert "the champion, version 1, cannot be scored on these evaluation cases" in decision.reason
    assert "promotion.new_line=true starts a new line of models" in decision.reason
    assert site.aliases() == {"champion": "1", "challenger": "2"}
    wanted = {"promotion": {"new_line": True}}
    decision = site.promote(model, dose=1.1, evaluation_hash="n" * 64, **wanted)
    assert decision.promoted
    assert "a new line of models starts, as promotion.new_line says" in site.ledger()[-1]["reason"]
    assert (site.ledger()[-1]["champion_before"], site.ledger()[-1]["champion_after"]) == ("1", "2")


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(8, 12, 12), (4, 8, 8)])
def test_a_champion_is_scored_anew_in_its_own_grid_when_the_evaluation_cases_changed(
    site: Site, grid: tuple[int, int, int]
) -> None:
    """Of another grid: "cannot be scored on these: it works on a grid of [4, 8, 8] voxels"."""
    from ctan.evaluation import evaluate
    from ctan.intake.build import preprocess
    from ctan.intake.ingest import ingest

    config = small_config(data={"num_folds": 2}, promotion={"min_cases": 2})
    spacing = (16.0, 16.0, 16.0) if grid == (4, 8, 8) else (8.0, 8.0, 8.0)
    other = small_config(data={"num_folds": 2}, preprocess={"grid_shape": grid, "grid_spacing_mm": spacing})
    champion, challenger = site.train(seed=0, config=other), site.train(seed=1, config=config)
    site.promote(champion, dice=0.5, dose=4.0)

    source, manifest = "phantom:train=2,validation=2,seed=0", site.folder / "manifest"
    pointers = {}
    for model, settings in ((champion, other), (challenger, config)):  # each in a store of its own grid
        ingest(source, manifest / model.name, settings)
        pointers[model] = preprocess(source, manifest / model.name, str(site.store_root), settings)
    pointer = pointers[challenger]
    dice, dose = {}, {}
    for model, settings in ((champion, other), (challenger, config)):
        evaluate(pointers[model], model, site.folder / f"evaluation-{model.name}", settings)
        rows = pq.read_table(site.folder / f"evaluation-{model.name}" / "cases.parquet").to_pylist()
        rows = [row for row in rows if row["role"] == "evaluation"]
        by_case: dict[str, list[float]] = {row["case_id"]: [] for row in rows}
        for row in rows:
            by_case[row["case_id"]] += [row["value"]] if row["metric"] == "dice" else []
        dice[model] = np.mean([np.mean(values) for values in by_case.values()])
        dose[model] = np.mean([row["value"] for row in rows if row["metric"] == "dose_score"])

    names = {"store_key": pointer.key, "data_hash": pointer.data_hash, "evaluation_hash": "n" * 64}
    comparison = site.compare(challenger, **names)
    shutil.copy(site.folder / f"evaluation-{challenger.name}" / "cases.parquet", comparison)
    decision = promote(pointer, comparison, [challenger], config, LINEAGE)
    tasks = decision.numbers["tasks"]
    assert tasks["contours"]["percent"] == pytest.approx(100 * (dice[challenger] - dice[champion]))
    assert tasks["dose"]["percent"] == pytest.approx(100 * (dose[champion] - dose[challenger]) / 7.9)
    assert decision.champion_before == "1"
    assert decision.looks == 1


def test_a_lock_that_is_held_makes_others_wait_and_one_that_expired_is_taken(site: Site) -> None:
    numbers = itertools.count()
    with promotion_lock(site.client, NAME, lease_seconds=60) as confirm:
        confirm()
        impatient = promotion_lock(site.client, NAME, wait_seconds=1)
        with pytest.raises(TrackingError, match="another promotion of ctan-openkbp is under way"), impatient:
            next(numbers)
    with promotion_lock(site.client, NAME, lease_seconds=-1) as confirm:
        with promotion_lock(site.client, NAME, wait_seconds=5):
            next(numbers)
        with pytest.raises(TrackingError, match="lost its lock"):
            confirm()
    assert next(numbers) == 1
    assert site.client.search_registered_models() == []


LOCKING = """
import os, signal, sys, mlflow
from ctan.tracking.registry import promotion_lock
with promotion_lock(mlflow.MlflowClient(sys.argv[1]), sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_process_that_was_killed_here_is_taken_at_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, the next promotion waited without a word until it expired: 167 s were seen."""
    command = [sys.executable, "-c", LOCKING, site.client.tracking_uri, NAME]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert [model.name for model in site.client.search_registered_models()] == [f"{NAME}.lock"]
    with promotion_lock(site.client, NAME, wait_seconds=30) as confirm:
        confirm()
    assert site.client.search_registered_models() == []


def test_who_waits_for_a_lock_says_so_at_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with promotion_lock(site.client, NAME, lease_seconds=60):
        impatient = promotion_lock(site.client, NAME, wait_seconds=0)
        with pytest.raises(TrackingError), impatient:
            pass
    assert "another promotion of ctan-openkbp is under way on" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_promotions_at_once_all_come_through(site: Site) -> None:
    """Each in a thread: what takes long in ten processes is importing MLflow ten times."""
    jobs = [(model := site.train(seed=seed), site.compare(model, dose=4.0 - seed / 10)) for seed in range(10)]
    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        decisions = list(pool.map(lambda job: site.promote(*job), jobs))
    print(f"ten promotions took {time.monotonic() - started:.1f} s")
    assert len(site.ledger()) == len(decisions) == 10
    for before, after in itertools.pairwise(site.ledger()):
        assert after["champion_before"] == before["champion_after"]


def _promote_in_a_process(folder: str, model_dir: str, comparison: str) -> tuple[bool, str | None]:
    site = Site(Path(folder))
    decision = site.promote(Path(model_dir), Path(comparison))
    return decision.promoted, decision.version


@pytest.mark.slow
def test_promotions_at_the_same_time_happen_one_after_the_other(site: Site) -> None:
    site.promote(site.train(seed=0), dice=0.5, dose=4.0)
    jobs = []
    for seed, dose in ((1, 3.0), (2, 2.0)):
        model = site.train(seed=seed)
        jobs.append((str(site.folder), str(model), str(site.compare(model, dose=dose))))
    assert os.environ["CTAN_WORKSPACE"]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_promote_in_a_process, jobs)
    entries = site.ledger()
    assert len(entries) == 3
    for before, after in itertools.pairwise(entries):
        assert after["champion_before"] == before["champion_after"]
    best = next(entry["version"] for entry in entries if entry["seed"] == 2)
    assert site.aliases()["champion"] == best


def test_an_alias_that_another_process_set_in_the_same_moment_is_set_again(site: Site) -> None:
    """MLflow on PostgreSQL: of two that set an alias for the first time at once one gets a raw `UniqueViolation`."""
    from mlflow.exceptions import MlflowException

    from ctan.tracking.registry import set_aliases

    assert site.promote(site.train(0)).version == "1"
    client = site.client
    client.delete_registered_model_alias(NAME, "champion")
    real, problems = client.set_registered_model_alias, ["(psycopg2.errors.UniqueViolation) duplicate key"]

    def fails_once(*arguments: str) -> None:
        if problems:
            raise MlflowException(problems.pop())
        real(*arguments)

    client.set_registered_model_alias = fails_once
    set_aliases(client, NAME, champion="1", challenger=None)
    assert site.aliases()["champion"] == "1"
    problems.append("the server has burned down")
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(MlflowException, match="burned down"):
        set_aliases(client, NAME, champion="1", challenger=None)
