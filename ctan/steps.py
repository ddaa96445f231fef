"""One function a pipeline step: plain values and paths in, metrics out.

Both the pipeline's components and the `ctan` command call these. Each reads the settings beside the manifest that it is
given, so that ingestion is the only step that resolves a profile. Imports of the heavy libraries happen inside the
steps: every step is a new process.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.config import RunConfig, config_from_yaml, load_config
from ctan.errors import DataError
from ctan.files import atomic_path, write_json
from ctan.workspace import workspace

if TYPE_CHECKING:
    from ctan.datasets import Case, Dataset

Metrics = dict[str, float]

DEFAULT_SOURCE = "phantom:train=12,validation=4,seed=0"
DEFAULT_PROFILE = "smoke"
STEP_PREFIX = "ctan step: "  # the first line a step prints; `pipelines_client` shows a step's output from here on
CONFIG_FILE = "config.yaml"
_NUM_SHOWN = 2  # cases of each split on the contact sheet


def resolve_config(
    profile: str = DEFAULT_PROFILE,
    *,
    dataset: str = "",
    architectures: Sequence[str] = (),
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (),
    epochs: int = 0,
    batch_size: int = 0,
    learning_rate: float = 0.0,
    task_weighting: str = "",
    inputs: str = "",
    max_train_cases: int = 0,
    max_evaluation_cases: int = 0,
    model_name: str = "",
    promote: bool = True,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Resolve a profile and the pipeline's parameters into settings; an empty value or 0 leaves the profile's.

    Args:
        profile: a packaged profile or the path of a YAML file.
        promote: False turns promotion off; True leaves what the profile says.
        overrides: `FIELD=VALUE`; they win over all others.

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    values: dict[str, Any] = {
        "data.dataset": dataset,
        "architectures": list(architectures),
        "folds": list(folds),
        "seeds": list(seeds),
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.task_weighting": task_weighting,
        "data.inputs": inputs,
        "data.max_train_cases": max_train_cases,
        "data.max_evaluation_cases": max_evaluation_cases,
        "promotion.model_name": model_name,
    }
    chosen = {field: value for field, value in values.items() if value}
    if not promote:
        chosen["promotion.enabled"] = False
    return load_config(profile, [f"{field}={json.dumps(value)}" for field, value in chosen.items()] + list(overrides))


def read_config(manifest_dir: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings that ingestion wrote beside a manifest.

    Args:
        manifest_dir: output of ingestion or validation.
        overrides: `FIELD=VALUE` to change for one step.

    Raises:
        ConfigError: when the file is missing or does not hold valid settings.
    """
    path = Path(manifest_dir) / CONFIG_FILE
    config = config_from_yaml(path)
    return load_config(str(path), [*overrides, f"profile={json.dumps(config.profile)}"]) if overrides else config


class _Clock:
    """Tells a step's time for loading libraries from its time for work."""

    def __init__(self) -> None:
        self.start = self.loaded_at = time.monotonic()

    def loaded(self) -> None:
        self.loaded_at = time.monotonic()


@contextmanager
def _step(name: str, what: str = "") -> Iterator[_Clock]:
    from ctan.telemetry import disable_telemetry

    disable_telemetry()
    print(f"{STEP_PREFIX}{name} {what}".rstrip(), flush=True)
    clock = _Clock()
    yield clock
    loading, working = clock.loaded_at - clock.start, time.monotonic() - clock.loaded_at
    print(f"{STEP_PREFIX}done, {loading:.1f} s loading libraries, {working:.1f} s work", flush=True)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Metrics:
    """Return the finite numbers of a nested mapping, flat, with names that KFP and MLflow both take."""
    flat: Metrics = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            flat[name] = float(value)
    return flat


def ingest(
    source: str, manifest_dir: str, config: RunConfig, num_workers: int | None = None, contact_sheet: str = ""
) -> Metrics:
    """Read and measure every raw case; broken ones go to quarantine.

    Args:
        source: folder of raw files, or `phantom:train=N,validation=N,seed=N`.
        manifest_dir: receives the tables and the settings.
        config: settings, see `resolve_config`.
        num_workers: processes; None for one a core.
        contact_sheet: HTML file that receives pictures of a few cases of each split; empty: none.
    """
    with _step("ingest", source) as clock:
        from ctan.datasets.ingest import ingest as ingest_source

        clock.loaded()
        summary = ingest_source(source, Path(manifest_dir), config, num_workers)
        print(summary)
        if contact_sheet:
            from ctan.datasets.contact_sheet import write_contact_page

            with _read_cases(source, _few_of_each_split(Path(manifest_dir)), config) as (cases, dataset):
                write_contact_page(cases, dataset, Path(contact_sheet))
    return _numbers(vars(summary))


def show(source: str, case_ids: Sequence[str], output: Path, config: RunConfig) -> None:
    """Draw cases as their raw files say, see `ctan.datasets.contact_sheet`.

    Args:
        source: see `ingest`.
        case_ids: which cases.
        output: PNG of one case, or HTML page of any number.
        config: settings of the data set.

    Raises:
        DataError: when the source has no such case.
    """
    from ctan.datasets.contact_sheet import write_contact_sheet

    with _read_cases(source, case_ids, config) as (cases, dataset):
        write_contact_sheet(cases, dataset, output)


@contextmanager
def _read_cases(source: str, case_ids: Sequence[str], config: RunConfig) -> Iterator[tuple[Iterator[Case], Dataset]]:
    """Yield cases of a source, read one by one, and their data set."""
    from ctan.datasets import get_dataset, open_source

    dataset = get_dataset(config.data)
    with open_source(source, dataset) as raw_dir:
        found = {raw.case_id: raw for raw in dataset.find(raw_dir)}
        absent = [case_id for case_id in case_ids if case_id not in found]
        if absent:
            some = ", ".join(list(found)[:5])
            raise DataError(f"{', '.join(absent)}: not among the {len(found)} cases of the source: {some}, ...")
        yield (dataset.read(found[case_id]) for case_id in case_ids), dataset


def _few_of_each_split(manifest_dir: Path) -> list[str]:
    from ctan.store.manifest import MANIFEST_FILE, read_manifest

    rows = read_manifest(manifest_dir / MANIFEST_FILE).select(["case_id", "split"]).to_pylist()
    splits = dict.fromkeys(row["split"] for row in rows)
    of_split = {split: [row["case_id"] for row in rows if row["split"] == split] for split in splits}
    return [case_id for ids in of_split.values() for case_id in ids[:_NUM_SHOWN]]


def validate(manifest_dir: str, validated_dir: str, report: str, overrides: Sequence[str] = ()) -> Metrics:
    """Check a manifest against the expectations of its data set.

    Args:
        manifest_dir: output of `ingest`.
        validated_dir: receives the same tables with the failed cases in quarantine.
        report: HTML file, written also when the gate stops.
        overrides: settings to change for this step.
    """
    with _step("validate") as clock:
        from ctan.validation import validate as validate_manifest

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        summary = validate_manifest(Path(manifest_dir), Path(validated_dir), Path(report), config)
        print(summary)
    return _numbers(vars(summary))


def preprocess(
    source: str,
    manifest_dir: str,
    pointer: str,
    store_root: str = "",
    overrides: Sequence[str] = (),
    num_workers: int | None = None,
) -> Metrics:
    """Pack the cases of a manifest into a store; nothing is done when the store holds them already.

    Args:
        source: what was ingested.
        manifest_dir: output of `validate`.
        pointer: JSON file that receives the pointer to the store.
        store_root: folder of the stores; empty: in the workspace.
        overrides: settings to change for this step.
        num_workers: processes; None for one a core.
    """
    with _step("preprocess") as clock:
        from ctan.store import preprocess as preprocess_source

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        root = store_root or str(workspace() / "store")
        result = preprocess_source(source, Path(manifest_dir), root, config, num_workers)
        result.save(Path(pointer))
        print(f"store {result.key}: {result.num_cases} cases, data {result.data_hash[:12]}")
    return {"num_cases": float(result.num_cases)}


def plan(manifest_dir: str) -> list[dict[str, str]]:
    """List the trainings.

    Args:
        manifest_dir: output of `validate`.
    """
    with _step("plan"):
        from ctan.planning import plan as plan_trainings

        items = plan_trainings(read_config(manifest_dir))
        for item in items:
            print("train {arch}, fold {fold}, seed {seed}".format_map(item))
    return items


def train(
    pointer: str,
    manifest_dir: str,
    arch: str,
    fold: int,
    seed: int,
    model_dir: str,
    checkpoint_root: str = "",
    overrides: Sequence[str] = (),
) -> Metrics:
    """Train one architecture; goes on from its last checkpoint.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        arch: architecture.
        fold: left out for tuning.
        seed: of initialisation, order and augmentation.
        model_dir: receives weights, description and history.
        checkpoint_root: folder of the checkpoints; empty: in the workspace.
        overrides: settings to change for this step.
    """
    with _step("train", f"{arch}, fold {fold}, seed {seed}") as clock:
        from ctan.store import StorePointer
        from ctan.training import train as train_network

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        checkpoints = Path(checkpoint_root) if checkpoint_root else workspace() / "checkpoints"
        summary = train_network(
            StorePointer.load(Path(pointer)), arch, fold, seed, config, checkpoints, Path(model_dir)
        )
        print(
            f"{arch}: {summary.epochs} epochs, loss {summary.losses['']:.4f}, "
            f"{summary.num_parameters:,} parameters, {summary.step_seconds:.3f} s a step, run {summary.run_id}"
        )
    return _numbers(vars(summary))


def evaluate(
    pointer: str, manifest_dir: str, model_dir: str, evaluation_dir: str, overrides: Sequence[str] = ()
) -> Metrics:
    """Score one model on its tuning cases and on the evaluation split.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        model_dir: output of `train`.
        evaluation_dir: receives the scores a case, DVH curves and figures.
        overrides: settings to change for this step.
    """
    described = json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))
    with _step("evaluate", "{arch}, fold {fold}, seed {seed}".format_map(described)) as clock:
        from ctan.evaluation import evaluate as evaluate_model
        from ctan.store import StorePointer
        from ctan.tracking import log_results

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        summary = evaluate_model(StorePointer.load(Path(pointer)), Path(model_dir), Path(evaluation_dir), config)
        log_results(described["run_id"], _numbers(summary["scores"]), [Path(evaluation_dir) / "cases.parquet"])
        scores = _numbers(summary["scores"])
        for name, value in scores.items():
            print(f"{name}: {value:.4g}")
    return scores


def compare(
    pointer: str,
    manifest_dir: str,
    model_dirs: Sequence[str],
    evaluation_dirs: Sequence[str],
    comparison_dir: str,
    report: str,
    best_dir: str,
    overrides: Sequence[str] = (),
) -> Metrics:
    """Put the architectures side by side and choose the best by the tuning cases.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        model_dirs: outputs of `train`.
        evaluation_dirs: outputs of `evaluate`, in the same order.
        comparison_dir: receives `comparison.json` and all scores.
        report: HTML file.
        best_dir: receives a copy of the chosen model.
        overrides: settings to change for this step.
    """
    with _step("compare", f"{len(evaluation_dirs)} models") as clock:
        from ctan.evaluation import compare as compare_evaluations
        from ctan.store import StorePointer

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        compare_evaluations(
            StorePointer.load(Path(pointer)),
            [Path(folder) for folder in evaluation_dirs],
            Path(comparison_dir),
            Path(report),
            config,
        )
        comparison = json.loads((Path(comparison_dir) / "comparison.json").read_text(encoding="utf-8"))
        best = comparison["best"]
        shutil.rmtree(best_dir, ignore_errors=True)  # of an earlier comparison in the same folder
        with atomic_path(Path(best_dir)) as folder:
            shutil.copytree(model_dirs[best["model_index"]], folder)
        print("best: {arch}, fold {fold}, seed {seed} ({reason})".format_map(best))
    return _numbers(comparison["models"][best["model_index"]]["scores"])


def promote(
    pointer: str,
    manifest_dir: str,
    comparison_dir: str,
    best_dir: str,
    decision: str,
    overrides: Sequence[str] = (),
) -> Metrics:
    """Register the chosen model; it becomes champion when it beats the present one.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        comparison_dir: output of `compare`.
        best_dir: the chosen model, output of `compare`.
        decision: JSON file that receives what was decided, with the numbers.
        overrides: settings to change for this step.
    """
    with _step("promote") as clock:
        from ctan.store import StorePointer
        from ctan.tracking import promote as promote_model

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        result = promote_model(StorePointer.load(Path(pointer)), Path(comparison_dir), [Path(best_dir)], config)
        write_json(Path(decision), vars(result))
        print(result)
    return _numbers(vars(result))
