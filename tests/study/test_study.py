"""The study: what a table may say, that it goes on where it was, and that its intervals are right for few seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pytest
import torch

from benchmarks.study.__main__ import run
from benchmarks.study.decisive import decisive, is_still
from benchmarks.study.related import SHAPE, draw, write
from benchmarks.study.results import Results
from benchmarks.study.statistics import coverage
from benchmarks.study.table import Table
from benchmarks.study.widths import matched
from ctan.config import NetworkConfig, RunConfig
from ctan.datasets.openkbp.phantom import write_openkbp_phantoms
from ctan.errors import ConfigError
from ctan.evaluation.cases import SCHEMA
from ctan.networks import build_network, count_macs
from ctan.tasks import DoseRegression, Segmentation

TABLES = sorted((Path(__file__).parents[2] / "benchmarks/study/tables").glob("*.yaml"))
TINY = """
profile: smoke
data:
  openkbp2d:
    data.dataset: openkbp2d
    data.options: {slices: 1}
    data.num_folds: 2
    preprocess.grid_shape: [32, 32]
    network.base_width: 4
    network.max_width: 8
    network.num_stages: 2
    training.epochs: 1
    training.gradient_cosine: true
    evaluation.num_figure_cases: 0
seeds: [0]
runs:
  stl: {arch: stl}
"""


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_tables_that_are_here_can_be_read(path) -> None:
    assert Table.read(path).reference in Table.read(path).runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reference: ctan", "no such run: ctan; there are stl"),
        ("rate_seed: 0", "rate_seed 0 is one of the seeds"),
        ("seed: [0]", "seed"),
    ],
)
def test_what_a_table_may_not_say_is_named(tmp_path, change, message) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + change)
    with pytest.raises(ConfigError, match=message):
        Table.read(path)


def test_widths_give_the_same_number_of_operations() -> None:
    tasks = (Segmentation("contouring", ("a", "b")), DoseRegression("dose"))
    config = NetworkConfig(spatial_dims=2, num_stages=5, base_width=8, max_width=96)

    def macs(arch: str, own: NetworkConfig) -> int:
        with torch.device("meta"):
            return count_macs(build_network(arch, tasks, 3, own), (1, 3, 32, 32))

    wanted = macs("ctan", config)
    for arch in ("hps", "stl"):
        assert abs(macs(arch, config) / wanted - 1) > 0.03
        assert abs(macs(arch, matched(config, wanted, lambda own, arch=arch: macs(arch, own))) / wanted - 1) < 0.03


@pytest.mark.parametrize(("seeds", "patients", "deviation"), [(3, 34, 0.3), (3, 10, 1.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, patients, deviation) -> None:
    assert coverage(seeds, patients, deviation, samples=100) >= 91  # 95, less two standard errors of 100 samples


def test_results_that_a_kill_left_half_written_are_replaced(tmp_path) -> None:
    results = Results(tmp_path)
    row = {"role": "tuning", "case_id": "a", "group_id": "a", "task": "dose", "metric": "dose_score", "value": 1.0}
    cases = pa.Table.from_pylist([row], SCHEMA)
    results.add({"key": "one"}, cases, [])
    (tmp_path / "trainings.parquet").unlink()
    assert not results.holds("one")
    results.add({"key": "one"}, cases, [{"epoch": 1, "name": "train/loss", "value": 2.0}])
    results.add({"key": "two"}, cases, [])
    assert results.holds("one")
    assert results.cases(["one"]).num_rows == results.cases(["two"]).num_rows == 1
    assert results.curves(["one"])["value"].to_pylist() == [2.0]


def test_a_study_is_done_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)
    write_openkbp_phantoms(tmp_path / "raw", num_train=4, num_validation=1, seed=0)
    asked = (tmp_path / "tiny.yaml", {"openkbp2d": str(tmp_path / "raw")}, tmp_path / "work", tmp_path / "results")
    page = run(*asked)
    assert "openkbp2d: stl, seed 0" in capsys.readouterr().out
    (row,) = Results(tmp_path / "results").trainings()
    text = page.read_text()
    assert "| **stl** | 1 | 0.001 |" in text
    cases = Results(tmp_path / "results").cases([row["key"]])
    assert set(cases["task"].to_pylist()) <= {"contouring", "dose"}
    assert min(cases["count"].to_pylist()) > 0
    run(*asked)
    assert "seed 0" not in capsys.readouterr().out
    assert page.read_text() == text


def test_a_result_counts_where_new_settings_are_at_their_defaults() -> None:
    now = decisive(RunConfig(), "ctan")
    before = {name: value for name, value in now.items() if name != "training.label_share"}
    assert is_still(before, now, now)
    assert is_still(now | {"training.gone": 1}, now, now)
    assert not is_still(before, now | {"training.label_share.dose": 0.1}, now)
    assert not is_still(now | {"network.options.ctan.ctab": False}, now, now)
    assert not is_still(now | {"training.learning_rate": 0.5}, now, now)
    assert is_still(decisive(RunConfig(), "hps"), decisive(RunConfig(), "hps"), now)


def test_what_makes_training_faster_or_safer_makes_no_other_result() -> None:
    now = decisive(RunConfig(), "ctan")
    assert not {"training.num_workers", "training.max_restarts"} & set(now)
    assert now["network.options.ctan.ctae_exchange"] == "add"


def test_the_dial_changes_the_numbers_alone_and_not_their_spread(tmp_path) -> None:
    for relatedness in (0.0, 0.5, 1.0):
        write(tmp_path / str(relatedness), relatedness, cases=60, seed=1)
    drawn = [draw(np.random.default_rng([1, case])) for case in range(60)]
    numbers = {name: pv.read_csv(tmp_path / name / "table.csv")["number"].to_numpy() for name in ("0.0", "0.5", "1.0")}
    assert drawn[0][0].shape == drawn[0][1].shape == SHAPE
    assert numbers["1.0"] == pytest.approx([one[2] for one in drawn], abs=1e-6)
    assert numbers["0.0"] == pytest.approx([one[3] for one in drawn], abs=1e-6)
    assert 0.8 < numbers["0.5"].std() / numbers["0.0"].std() < 1.25
    for part in ("images/case_0007.png", "masks/case_0007.png"):
        assert (tmp_path / "0.0" / part).read_bytes() == (tmp_path / "1.0" / part).read_bytes()
