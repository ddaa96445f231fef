"""One training after the other, by ctan's own training and evaluation; what is done already is not done again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks.study.data import Prepared
from benchmarks.study.decisive import decisive, is_still
from benchmarks.study.results import Results
from benchmarks.study.table import Overrides, Table
from benchmarks.study.widths import matched
from ctan import versions
from ctan.config import NetworkConfig, RunConfig
from ctan.evaluation import evaluate
from ctan.evaluation.cases import read_cases
from ctan.evaluation.summary import scores, selection_error
from ctan.files import sha256_of_json
from ctan.inputs import Inputs
from ctan.networks import build_network, count_macs
from ctan.provenance import git_commit
from ctan.records import CASES_FILE, TUNING
from ctan.store import open_store
from ctan.tasks import Task, tasks_of
from ctan.tracking.server import connect
from ctan.training import train

FOR_RATE, FOR_SCORE = "rate", "score"


@dataclass(frozen=True)
class Training:
    """One of the table's trainings."""

    data: str
    run: str
    seed: int
    rate: float
    purpose: str


@dataclass
class Study:
    """The trainings of a table on data that are prepared.

    Attributes:
        table: what is to be done.
        prepared: by the name of the data.
        results: what is done, and where it is kept.
        work: holds checkpoints and models.
    """

    table: Table
    prepared: Mapping[str, Prepared]
    results: Results
    work: Path

    def trainings(self) -> Iterator[Training]:
        """Yield what is to be trained, the seeds of all runs in turn, so that comparisons are paired early.

        Rates are chosen on the way: a training follows from those that were done before it.
        """
        for seed in self.table.seeds:
            for data in self.prepared:
                for name, run in self.table.runs.items():
                    chooser = run.rate_of or name
                    if len(self.table.rates) > 1:
                        for rate in self.table.rates:
                            yield Training(data, chooser, self.table.rate_seed, rate, FOR_RATE)
                    yield Training(data, name, seed, self.rate(data, chooser), FOR_SCORE)

    def rate(self, data: str, run: str) -> float:
        """Return the best learning rate of a run, by the error on the tuning cases; all were tried."""
        if len(self.table.rates) == 1:
            return self.table.rates[0]
        errors = {}
        for rate in self.table.rates:
            key = self.key(Training(data, run, self.table.rate_seed, rate, FOR_RATE))
            errors[rate] = self.results.training(key)["tuning_error"]
        return min(errors, key=errors.__getitem__)

    def run_all(self) -> Iterator[Training]:
        """Do what is not done, and yield each training when it is."""
        for training in self.trainings():
            key = self.key(training)
            if not self.results.holds(key):
                self._do(training, key)
                yield training

    def config(self, training: Training) -> RunConfig:
        """Return the settings of a training."""
        run = self.table.runs[training.run]
        overrides: Overrides = {**run.settings, "training.learning_rate": training.rate}
        if run.macs_of:
            overrides |= self._widths(training.data, training.run)
        return self.prepared[training.data].config(overrides)

    def key(self, training: Training) -> str:
        """Return the name of a training's results: made of all that decides them but the version of the code."""
        decides, arch = self._decides(training), self.table.runs[training.run].arch
        default = decisive(RunConfig(), arch)
        for row in self.results.trainings():
            if is_still(json.loads(row["decides"]), decides, default):
                return str(row["key"])
        return sha256_of_json(decides)[:16]

    def _decides(self, training: Training) -> dict[str, Any]:
        arch = self.table.runs[training.run].arch
        return decisive(self.config(training), arch) | {
            "arch": arch,
            "seed": training.seed,
            "fold": self.table.fold,
            "roles": self._roles(training),
            "data_hash": self.prepared[training.data].pointer.data_hash,
        }

    def _roles(self, training: Training) -> list[str]:
        return [TUNING] if training.purpose == FOR_RATE else list(self.table.roles)

    def _widths(self, data: str, name: str) -> Overrides:
        run = self.table.runs[name]
        other = self.table.runs[run.macs_of]
        base, wanted = self.prepared[data].config(run.settings), self.prepared[data].config(other.settings)
        found = self._found.get((data, name))
        if found is None:
            spec = self._spec(data)
            shape = (1, Inputs.of(base.data).num_channels(spec), *base.preprocess.grid_shape)

            def macs(arch: str, config: NetworkConfig) -> int:
                with torch.device("meta"):
                    return count_macs(build_network(arch, self.tasks(data), shape[1], config), shape)

            found = matched(base.network, macs(other.arch, wanted.network), lambda own: macs(run.arch, own))
            self._found[data, name] = found
        return {"network.base_width": found.base_width, "network.max_width": found.max_width}

    @cached_property
    def _found(self) -> dict[tuple[str, str], NetworkConfig]:
        return {}

    def _spec(self, data: str) -> Any:
        return open_store(self.prepared[data].pointer).spec

    def tasks(self, data: str) -> tuple[Task, ...]:
        """Return what is learned of the data."""
        return tuple(tasks_of(self._spec(data)))

    def _do(self, training: Training, key: str) -> None:
        run, config, prepared = self.table.runs[training.run], self.config(training), self.prepared[training.data]
        print(f"{training.data}: {training.run}, seed {training.seed}, learning rate {training.rate:g}", flush=True)
        model_dir, scored_dir = self.work / "models" / key, self.work / "scores" / key
        load, wall, cpu = os.getloadavg()[0], time.monotonic(), time.process_time()
        summary = train(
            prepared.pointer, run.arch, self.table.fold, training.seed, config, self.work / "checkpoints", model_dir
        )
        trained = time.monotonic()
        record = evaluate(prepared.pointer, model_dir, scored_dir, config, wanted=self._roles(training))
        tasks = self.tasks(training.data)
        cases = _scored(read_cases(scored_dir / CASES_FILE), tasks)
        tuned = scores(cases.filter(pc.field("role") == TUNING), tasks)
        row = {
            "key": key,
            "data": training.data,
            "run": training.run,
            "purpose": training.purpose,
            "arch": run.arch,
            "seed": training.seed,
            "fold": self.table.fold,
            "learning_rate": training.rate,
            "tuning_error": selection_error(tuned, tasks),
            "settings": json.dumps(run.settings),
            "decides": json.dumps(self._decides(training)),
            "tasks": json.dumps([task.to_json() for task in tasks]),
            "base_width": config.network.base_width,
            "max_width": config.network.max_width,
            "parameters": summary.num_parameters,
            "macs": summary.macs_per_case,
            "epochs": summary.epochs,
            "step_seconds": summary.step_seconds,
            "train_seconds": trained - wall,
            "evaluate_seconds": record.seconds,
            "cpu_seconds": time.process_time() - cpu,
            "load_before": load,
            "load_after": os.getloadavg()[0],
            "threads": torch.get_num_threads(),
            "data_hash": prepared.pointer.data_hash,
            "code": versions.sha256_of(versions.of_training(run.arch, tasks)),
            "commit": git_commit(),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.results.add(row, cases, _curves(summary.run_id))
        error = row["tuning_error"]
        print(
            f"  tuning error {error:.4f}, {row['train_seconds'] / 60:.1f} min, load {row['load_after']:.1f}", flush=True
        )


def _scored(cases: pa.Table, tasks: tuple[Task, ...]) -> pa.Table:
    """Return the rows that primary metrics are made of; a structure that is nowhere in a slice has no Dice."""
    kept = None
    for task in tasks:
        own = pc.field("task") == task.name
        if task.case_rows:
            own &= (pc.field("metric") == task.case_rows) & (pc.field("count") > 0)
        kept = own if kept is None else kept | own
    return cases.filter(kept)


def _curves(run_id: str) -> list[dict[str, Any]]:
    """Return what MLflow knows of every epoch: losses, weights, gradient norms and cosines, tuning errors."""
    mlflow, found = connect(), []
    for name in mlflow.get_run(run_id).data.metrics:
        if name.startswith("system/"):
            continue
        points = {point.step: point.value for point in mlflow.get_metric_history(run_id, name)}
        found += [{"epoch": epoch, "name": name, "value": float(np.float32(value))} for epoch, value in points.items()]
    return found
