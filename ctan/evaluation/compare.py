"""Architectures side by side: scores with intervals, improvement over STL, baselines, and the choice of the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ctan.cases import SPLIT_TRAIN
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.evaluation.baselines import GRID_FLOOR, Simple
from ctan.evaluation.cases import CASES_FILE, EVALUATION, SCHEMA, TUNING, read_cases, write_cases
from ctan.evaluation.evaluate import evaluation_cases, evaluation_hash
from ctan.evaluation.improvement import relative_improvement, score
from ctan.evaluation.subgroups import known_facts, subgroups
from ctan.evaluation.summary import describe_selection_error, scores, selection_error
from ctan.metrics import MIN_SEEDS
from ctan.records import (
    ArchitectureEntry,
    BaselineEntry,
    Choice,
    ComparisonRecord,
    EvaluationRecord,
    Interval,
    ModelEntry,
    ModelRecord,
    SubgroupEntry,
)
from ctan.store import Store, StorePointer, open_store
from ctan.tasks import MetricSpec, Task

REFERENCE_ARCH = "stl"
ROLES = (TUNING, EVALUATION)


@dataclass(frozen=True)
class _Model:
    """One evaluated model: its description and its per-case rows."""

    record: ModelRecord
    cases: pa.Table

    def rows(self, role: str) -> pa.Table:
        return self.cases.filter(pc.field("role") == role)


def compare(
    pointer: StorePointer, evaluation_dirs: list[Path], output_dir: Path, config: RunConfig
) -> ComparisonRecord:
    """Compare evaluated models and choose the best by the tuning cases.

    Args:
        pointer: the store they were evaluated on.
        evaluation_dirs: what `evaluate` wrote, one a model.
        output_dir: receives `comparison.json` and `cases.parquet`.
        config: coverage of the intervals.

    Returns:
        What `comparison.json` holds.

    Raises:
        DataError: without models, for a missing or damaged file, a model that is given twice, an evaluation on another
            store, or models that were not scored on the same cases.
    """
    if not evaluation_dirs:
        raise DataError("nothing to compare: give at least one folder that `ctan evaluate` wrote")
    models = [_read(folder, pointer) for folder in evaluation_dirs]
    _check_unique(models, evaluation_dirs)
    store, tasks = open_store(pointer), _all_tasks(models)
    simple = Simple(store, tasks, config.evaluation)
    train_ids = store.case_ids(split=SPLIT_TRAIN, not_fold=models[0].record.fold)
    simple_rows = simple.rows(train_ids, evaluation_cases(store)) if train_ids else []  # sealed: nothing to learn from
    simple_cases = pa.Table.from_pylist(simple_rows, SCHEMA)
    in_grid = pc.field("arch") == GRID_FLOOR
    compared = _compare(models, tasks, config)
    comparison = ComparisonRecord(
        dataset=pointer.dataset,
        store_key=pointer.key,
        data_hash=pointer.data_hash,
        evaluation_hash=evaluation_hash(store),
        confidence=config.evaluation.confidence,
        num_tuning_cases=len(pc.unique(pa.concat_tables([m.rows(TUNING) for m in models])["case_id"])),
        num_evaluation_cases=len(evaluation_cases(store)),
        **compared,
        subgroups=_subgroups([m for m in models if m.record.name == compared["best"].arch], store, tasks, config),
        tasks=tasks,
        baselines=_baselines(simple_cases, simple.labels, tasks),
        grid_floor=scores(simple_cases.filter(in_grid), tasks),
    )
    kept = simple_cases.filter(~in_grid)
    write_cases(pa.concat_tables([*(model.cases for model in models), kept]), output_dir / CASES_FILE)
    comparison.save(output_dir)
    return comparison


def _read(folder: Path, pointer: StorePointer) -> _Model:
    record, summary = ModelRecord.load(folder), EvaluationRecord.load(folder)
    if summary.store_key != pointer.key:
        raise DataError(
            f"{folder}: evaluated on store {summary.store_key}, to be compared on store {pointer.key}; "
            f"evaluate the model again on that store"
        )
    return _Model(record, read_cases(summary.check_file(folder, CASES_FILE)))


def _check_unique(models: list[_Model], folders: list[Path]) -> None:
    """Raise when a training is given twice: its cases would count twice."""
    seen: dict[tuple[Any, ...], Path] = {}
    for model, folder in zip(models, folders, strict=True):
        training = (model.record.name, model.record.fold, model.record.seed)
        if training in seen:
            arch, fold, seed = training
            raise DataError(f"{seen[training]} and {folder} both hold {arch}, fold {fold}, seed {seed}; give it once")
        seen[training] = folder


def _all_tasks(models: list[_Model]) -> tuple[Task, ...]:
    """Return every task that a model has, by name in the order of appearance."""
    tasks: dict[str, Task] = {}
    for model in models:
        for task in model.record.tasks:
            tasks.setdefault(task.name, task)
    return tuple(tasks.values())


def _compare(models: list[_Model], tasks: tuple[Task, ...], config: RunConfig) -> dict[str, Any]:
    """Return the entries of `comparison.json` that are about models."""
    archs: dict[str, list[_Model]] = {}
    for model in models:
        archs.setdefault(model.record.name, []).append(model)
    reference = REFERENCE_ARCH if REFERENCE_ARCH in archs else next(iter(archs))
    roles = [role for role in ROLES if any(model.rows(role).num_rows for model in models)]
    trained = [group for group in archs.values() if not group[0].record.members]
    num_seeds = min((len({m.record.seed for m in group}) for group in trained), default=1)
    entries = [
        ModelEntry.of(model.record, {role: scores(model.rows(role), tasks) for role in roles}) for model in models
    ]
    architectures = [
        ArchitectureEntry(
            arch=arch,
            scores={role: _scores(group, role, tasks, config) for role in roles},
            structures=_structures(group),
            relative_improvement={}
            if arch == reference
            else {
                role: _improvement(group, archs[reference], role, tasks, config)
                for role in roles
                if all(any(model.rows(role).num_rows for model in one) for one in (group, archs[reference]))
            },
        )
        for arch, group in archs.items()
    ]
    return {
        "reference_arch": reference,
        "excludes_training_variance": num_seeds < MIN_SEEDS,
        "models": entries,
        "architectures": architectures,
        "best": _best(models, tasks),
    }


def _scores(
    group: list[_Model], role: str, tasks: tuple[Task, ...], config: RunConfig
) -> dict[str, dict[str, Interval]]:
    """Return the scores by task and metric, the mean over folds and seeds."""
    tables = [model.rows(role) for model in group]
    found: dict[str, dict[str, Interval]] = {}
    for task in tasks:
        for metric in task.metrics:
            if (scored := _scored(tables, task, metric, config)) is not None:
                found.setdefault(task.name, {})[metric.name] = scored
    return found


def _scored(tables: list[pa.Table], task: Task, metric: MetricSpec, config: RunConfig) -> Interval | None:
    estimate = score(tables, task, metric)
    if estimate is None:
        return None
    return Interval.model_validate(estimate.interval(config.evaluation.confidence, metric.bounds))


def _subgroups(
    group: list[_Model], store: Store, tasks: tuple[Task, ...], config: RunConfig
) -> tuple[SubgroupEntry, ...]:
    """Return how the chosen architecture does in groups of the evaluation cases: those that the gate looks at, or all.

    Groups of fewer than `promotion.min_subgroup_cases` patients have no intervals.
    """
    evaluated = store.manifest.filter(pc.field("case_id").isin(evaluation_cases(store)))
    wanted = config.promotion.subgroups or known_facts(evaluated, store.spec)
    found = []
    for name, case_ids in subgroups(evaluated, wanted).items():
        keep = pc.field("case_id").isin(sorted(case_ids))
        tables = [model.rows(EVALUATION).filter(keep) for model in group]
        scores: dict[str, dict[str, Interval]] = {}
        for task in tasks:
            scored = _scored(tables, task, task.primary_metric, config)
            if scored is not None and (scored.patients or 0) < config.promotion.min_subgroup_cases:
                scored = Interval(value=scored.value, patients=scored.patients)
            if scored is not None:
                scores[task.name] = {task.primary_metric.name: scored}
        num_patients = len(pc.unique(evaluated.filter(keep)["group_id"]))
        found.append(SubgroupEntry(name=name, patients=num_patients, scores=scores))
    return tuple(found)


def _improvement(
    group: list[_Model], reference: list[_Model], role: str, tasks: tuple[Task, ...], config: RunConfig
) -> dict[str, Interval]:
    new, old = ([model.rows(role) for model in models] for models in (group, reference))
    gains = relative_improvement(tasks, new, old, config.evaluation.confidence)
    return {name: Interval.model_validate(gain) for name, gain in gains.items()}


def _structures(group: list[_Model]) -> dict[str, float]:
    """Return the mean Dice of every structure on the evaluation cases."""
    rows = pa.concat_tables([model.rows(EVALUATION) for model in group]).filter(pc.field("metric") == "dice")
    means = rows.group_by("structure", use_threads=False).aggregate([("value", "mean")])
    return dict(zip(means["structure"].to_pylist(), means["value_mean"].to_pylist(), strict=True))


def _baselines(simple: pa.Table, labels: Mapping[str, str], tasks: tuple[Task, ...]) -> list[BaselineEntry]:
    found = []
    for arch, label in labels.items():
        rows = simple.filter(pc.field("arch") == arch)
        if rows.num_rows:
            found.append(BaselineEntry(arch=arch, label=label, scores={EVALUATION: scores(rows, tasks)}))
    return found


def _best(models: list[_Model], tasks: tuple[Task, ...]) -> Choice:
    """Choose the architecture by the tuning cases alone, then among its seeds; of equals the cheaper.

    Folds tune on different cases: that one has the lowest error says how easy its cases are. The first fold is taken.
    """
    together = [index for index, model in enumerate(models) if model.record.members]
    if together:
        return _best_together(models, together, tasks)
    if len(models) == 1:
        only = models[0].record
        reason = f"{only.name} is the only architecture"
        return Choice(arch=only.name, fold=only.fold, seed=only.seed, model_index=0, reason=reason)
    errors = [selection_error(scores(model.rows(TUNING), tasks), tasks) for model in models]
    by_arch: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        by_arch.setdefault(model.record.name, []).append(index)
    ranking = sorted(
        (sum(errors[i] for i in found) / len(found), min(_cost(models[i]) for i in found), arch)
        for arch, found in by_arch.items()
    )
    arch = ranking[0][2]
    folds = {models[i].record.fold for i in by_arch[arch]}
    same_fold = [i for i in by_arch[arch] if models[i].record.fold == min(folds)]
    index = min((errors[i], _cost(models[i]), i) for i in same_fold)[2]
    ranked = ", ".join(f"{name} {error:.4f}" for error, _, name in ranking)
    reason = f"{arch} has the lowest error on the tuning cases, the mean of {describe_selection_error(tasks)}: {ranked}"
    if len(ranking) == 1:
        reason = f"{arch} is the only architecture"
    elif ranking[0][0] == ranking[1][0]:
        reason += f"; of those with the lowest it is {'the cheapest' if ranking[0][1] < ranking[1][1] else 'the first'}"
    if len(folds) > 1:
        reason += f"; of its {len(folds)} folds, which tune on different cases, the first is taken"
    chosen = models[index].record
    return Choice(arch=arch, fold=chosen.fold, seed=chosen.seed, model_index=index, reason=reason)


def _best_together(models: list[_Model], together: list[int], tasks: tuple[Task, ...]) -> Choice:
    """Choose among single trainings, then the ensemble of the chosen architecture where there is one.

    Every case that tuned one member was learned by another: ensembles have no tuning cases of their own.
    """
    alone = [index for index, model in enumerate(models) if not model.record.members]
    best = _best([models[index] for index in alone], tasks) if alone else None
    for index in together:
        record = models[index].record
        runs = {member.run_id for member in record.members}
        chosen = [models[i].record for i in alone if models[i].record.name == best.arch] if best else []
        if best is None or {one.run_id for one in chosen} == runs:
            found = f"the ensemble of {len(record.members)} trainings of {record.arch} is judged as one model"
            reason = f"{best.reason.partition('; of its')[0]}; {found}" if best else found
            return Choice(arch=record.name, fold=record.fold, seed=record.seed, model_index=index, reason=reason)
    assert best is not None
    return best.model_copy(update={"model_index": alone[best.model_index]})


def chosen_trainings(pointer: StorePointer, evaluation_dirs: list[Path]) -> list[Path]:
    """Return the evaluations of all trainings of the architecture that the tuning cases choose, see `compare`."""
    models = [_read(folder, pointer) for folder in evaluation_dirs]
    _check_unique(models, evaluation_dirs)
    best = _best(models, _all_tasks(models))
    return [folder for folder, model in zip(evaluation_dirs, models, strict=True) if model.record.name == best.arch]


def _cost(model: _Model) -> tuple[float, float]:
    """Return multiply-accumulates a case and number of parameters, what of equal models decides."""
    return float(model.record.macs_per_case), float(model.record.num_parameters)
