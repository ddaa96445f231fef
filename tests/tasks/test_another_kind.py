"""A kind of task of another package, known by its entry point alone, goes from the target to the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ctan import plugins
from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.evaluation import compare, evaluate
from ctan.inference import save_network
from ctan.inputs import Inputs
from ctan.networks import build_network
from ctan.report import write_report
from ctan.store import StorePointer, open_store
from ctan.tasks import Task, task_from_json
from ctan.training.data import TrainingCases

MODULE = '''
"""Predicts the grey value of every voxel, in thousands."""

from dataclasses import dataclass

import numpy as np

from ctan.html import element
from ctan.tasks import Baselines, MetricSpec, Section, Task, mean_of_rows, rows_of

GREY = MetricSpec("grey_error", False, "kHU", "Grey error")


@dataclass(frozen=True)
class Greys(Task):
    thousand: float = 1000.0

    kind = "greys"
    head = "dense"
    case_rows = "grey"
    sections = (Section("Grey values", "other_package:section"),)
    metrics = property(lambda self: (GREY,))
    num_outputs = property(lambda self: 1)

    def target(self, stored, structures):
        return {"grey": stored.image["ct"][None].astype(np.float32) / self.thousand}

    def loss(self, output, target):
        return (output.float() - target["grey"]).abs().mean()

    def activate(self, output):
        return output.float()

    def error(self, output, target):
        return self.loss(output, target).item()

    def truth(self, stored, structures):
        return self.target(stored, structures)["grey"]

    def rows(self, native, reference, spec, config):
        value = np.abs(native[0] - reference.images["ct"] / self.thousand).mean()
        return [{"metric": "grey", "structure": "", "value": float(value), "count": 1}]

    def patient_metric(self, cases, metric, patients):
        return mean_of_rows(rows_of(cases, self, "grey"), patients)

    def baselines(self, spec):
        return MeanGrey(self)


class MeanGrey(Baselines):
    labels = {"baseline-mean-grey": "One grey everywhere"}

    def __init__(self, task):
        self.task, self.means = task, []

    def learn(self, case):
        self.means.append(self.task.truth(case, ()).mean())

    def predict(self, reference, resample):
        return {"baseline-mean-grey": np.full((1, *reference.shape), np.mean(self.means))}


def section(data, task):
    return element("p", f"{task.name} of {len(data.archs)} architectures")
'''


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    """Install another package for a moment; return its task."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "other_package.py").write_text(MODULE)
    about = folder / "other_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ctan.tasks]\ngreys = other_package:Greys\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        plugins._found.cache_clear()
        yield task_from_json({"kind": "greys", "name": "grey"})
    plugins._found.cache_clear()


@pytest.fixture(scope="module")
def evaluated(
    greys: Task, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Evaluate two untrained networks that predict it."""
    folders, inputs, store = [], Inputs.of(tiny_config.data), open_store(tiny_pointer)
    channels = inputs.num_channels(store.spec)
    for arch in ("stl", "hps"):
        network = build_network(arch, (greys,), channels, tiny_config.network)
        model_json = {
            "arch": arch,
            "fold": 0,
            "seed": 0,
            "dataset": "openkbp",
            "tasks": [greys.to_json()],
            "in_channels": channels,
            "spec": store.spec.to_json(),
            "inputs": inputs.to_json(),
            "config": tiny_config.model_dump(mode="json"),
            "store_key": tiny_pointer.key,
            "data_hash": tiny_pointer.data_hash,
            "code_hash": "",
            "config_hash": "",
            "run_id": arch,
            "run_url": "",
            "tracking_uri": "",
            "epochs": 1,
            "step_seconds": 1.0,
            "device": "cpu",
            "precision": "fp32",
            "num_parameters": 1,
            "macs_per_case": 1,
        }
        folder = tmp_path_factory.mktemp(arch)
        save_network(folder / "model", network.state_dict(), model_json)
        evaluate(tiny_pointer, folder / "model", folder / "evaluation", tiny_config)
        folders.append(folder / "evaluation")
    return folders


def test_it_is_known_by_name_after_the_built_in_kinds(greys: Task) -> None:
    assert plugins.names(plugins.TASKS) == ("classification", "dose", "regression", "segmentation", "greys")
    assert (greys.name, greys.kind, greys.version) == ("grey", "greys", 1)
    assert task_from_json(greys.to_json()) == greys


def test_it_learns_from_the_cases_of_a_store(greys: Task, tiny_pointer: StorePointer, tiny_config: RunConfig) -> None:
    store = open_store(tiny_pointer)
    (case_id, *_) = store.case_ids(split="train")
    item = TrainingCases(store, [case_id], (greys,), tiny_config, None)[0]
    batch = {name: torch.as_tensor(value)[None] for name, value in item["targets"]["grey"].items()}
    output = torch.zeros(1, 1, *tiny_config.preprocess.grid_shape, requires_grad=True)
    loss = greys.loss(output, batch)
    loss.backward()
    assert loss.item() == pytest.approx(store.load(case_id).image["ct"].mean() / 1000, rel=1e-5)
    assert output.grad is not None


def test_it_is_scored_compared_with_its_baseline_and_shown_in_the_report(
    greys: Task, evaluated: list[Path], tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    content = compare(tiny_pointer, evaluated, tmp_path / "comparison", tiny_config)
    store = open_store(tiny_pointer)
    mean = np.mean([store.load(case_id).image["ct"].mean() for case_id in store.case_ids(split="train", not_fold=0)])
    by_hand = [np.abs(store.reference(case_id).images["ct"] - mean).mean() for case_id in store.case_ids("validation")]
    (baseline,) = content["baselines"]
    assert (baseline["arch"], baseline["label"]) == ("baseline-mean-grey", "One grey everywhere")
    scored = baseline["scores"]["evaluation"]["grey"]["grey_error"]
    assert scored == pytest.approx(np.mean(by_hand) / 1000, rel=1e-4)
    assert 0 < content["grid_floor"]["grey"]["grey_error"] < scored
    assert content["architectures"][0]["scores"]["evaluation"]["grey"]["grey_error"]["value"] > 0
    assert [task_from_json(task) for task in content["tasks"]] == [greys]
    write_report(content, evaluated, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Grey values</h2>" in page
    assert "grey of 2 architectures" in page
    assert "Grey error (kHU) ↓" in page


def test_a_kind_that_no_package_brings_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"kind of the task 'x': unknown 'doze'; did you mean 'dose'\? allowed: cla"):
        task_from_json({"kind": "doze", "name": "x"})


def test_fields_of_another_version_are_refused_by_the_task_s_name() -> None:
    with pytest.raises(DataError, match=r"task 'x': not the description of a task of kind 'dose' .*'scale'"):
        task_from_json({"kind": "dose", "name": "x", "scale": 60.0})
