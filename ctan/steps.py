"""One function a pipeline step: plain values and paths in, metrics out.

Both the pipeline's components and the `ctan` command call these. `resolve` fixes settings and data version; ingestion
writes them beside the manifest, and each later step reads them there. Imports of the heavy libraries happen inside the
steps: every step is a new process.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.files import atomic_path, write_json, write_text
from ctan.settings import config_from_text, read_config, resolve_config
from ctan.step_environment import step
from ctan.workspace import workspace

if TYPE_CHECKING:
    from ctan.store import StorePointer

Metrics = dict[str, float]
Metadata = dict[str, Any]  # of an artifact of the pipeline


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Metrics:
    """Return the finite numbers of a nested mapping, flat, with names that KFP and MLflow both take."""
    flat: Metrics = {}
    for key, value in values.items():
        name = f"{prefix}{key}".rstrip(".")  # the total among the losses has no name of its own
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            flat[name] = float(value)
    return flat


def resolve(source: str, config: RunConfig, store_root: str = "") -> tuple[str, str, str]:
    """Fix what a run starts from: settings, the version of the data as it is now, and the side of every case.

    Args:
        source: folder of raw files, `s3://bucket/prefix`, `dvc:REPOSITORY@REVISION` or
            `phantom:train=N,validation=N,seed=N`.
        config: settings, see `resolve_config`.
        store_root: folder or `s3://bucket/prefix` of the stores and the table of sides; empty: in the workspace.

    Returns:
        The source pinned to that version, the settings as YAML, and `ctan.sources.origin.Origin` as JSON.
    """
    from ctan.sources.places import recorded

    with step("resolve", recorded(source)):
        from ctan.intake.sides import in_words, settle
        from ctan.sources.origin import Origin

        origin = settle(Origin.of(source, config), config, store_root)
        data, settings, code, _ = (value.removesuffix(".dir")[:40] for value in origin.hashes)
        print(f"data {data}, settings {settings[:12]}, code {code[:12]}")
        print(in_words(origin.sides))
    return origin.source, config.to_yaml(), origin.to_json()


def check(model_name: str, settings: str, origin: str, finding: str) -> str:
    """Say whether training again could give another model than the registry has already.

    Args:
        model_name: registered model; empty for that of the settings.
        settings: second value of `resolve`.
        origin: third value of `resolve`.
        finding: JSON file that receives what was found.

    Returns:
        `"retrain"` or `"unchanged"`.
    """
    with step("check", model_name):
        from ctan.sources.origin import Origin
        from ctan.tracking.retraining import check as check_registry

        name = model_name or config_from_text(settings).model_name
        verdict = check_registry(name, Origin.from_json(origin))
        write_json(Path(finding), vars(verdict))
        print(verdict)
    return "retrain" if verdict.needed else "unchanged"


def ingest(
    settings: str, origin: str, manifest_dir: str, num_workers: int | None = None, contact_sheet: str = ""
) -> Metrics:
    """Read and measure every raw case; broken ones go to quarantine.

    Args:
        settings: second value of `resolve`.
        origin: third value of `resolve`; names the source.
        manifest_dir: receives the tables, the settings and the origin.
        num_workers: processes; None for one a core.
        contact_sheet: HTML file that receives pictures of a few cases of each split; empty: none.
    """
    from ctan.sources.origin import Origin
    from ctan.sources.places import recorded

    started_from = Origin.from_json(origin)
    source = started_from.source
    with step("ingest", recorded(source)) as clock:
        from ctan.intake.ingest import ingest as ingest_source

        clock.loaded()
        config = config_from_text(settings)
        summary = ingest_source(source, Path(manifest_dir), config, num_workers, started_from.sides)
        replace(started_from, synthetic=summary.synthetic).save(Path(manifest_dir))
        print(summary)
        if contact_sheet:
            from ctan.intake.look import show_few

            show_few(source, Path(manifest_dir), Path(contact_sheet), config)
    return _numbers(vars(summary))


def validate(
    manifest_dir: str,
    validated_dir: str,
    report: str,
    metrics: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Check a manifest against the expectations of its data set.

    Args:
        manifest_dir: output of `ingest`.
        validated_dir: receives the same tables with the failed cases in quarantine.
        report: HTML file.
        metrics: receives the numbers of cases.
        overrides: settings to change for this step.

    Returns:
        The verdict, for `gate`.
    """
    with step("validate") as clock:
        from ctan.sources.origin import read_origin
        from ctan.validation import validate as validate_manifest

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        started_from = read_origin(manifest_dir)
        summary = validate_manifest(Path(manifest_dir), Path(validated_dir), Path(report), config)
        started_from.save(Path(validated_dir))
        print(summary)
        if metrics is not None:
            metrics.update(_numbers(vars(summary)))
    return summary.verdict


def gate(verdict: str) -> None:
    """Raise `GateError` unless validation passed.

    Args:
        verdict: of `validate`.
    """
    with step("gate"):
        from ctan.validation import stop_unless_passed

        stop_unless_passed(verdict)


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
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.
        overrides: settings to change for this step.
        num_workers: processes; None for one a core.
    """
    with step("preprocess") as clock:
        from ctan.intake.build import preprocess as preprocess_source

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        root = store_root or str(workspace() / "store")
        result = preprocess_source(source, Path(manifest_dir), root, config, num_workers)
        result.save(Path(pointer))
        print(f"store {result.key}: {result.num_cases} cases, data {result.data_hash[:12]}")
    return {"num_cases": float(result.num_cases)}


def plan(manifest_dir: str) -> list[dict[str, str]]:
    """List the trainings, and say what promotion will be able to decide about them.

    Args:
        manifest_dir: output of `validate`.

    Raises:
        ConfigError: when it will never be able to compare them with the champion.
    """
    with step("plan"):
        from ctan.intake.planning import plan as plan_trainings
        from ctan.intake.sides import in_words
        from ctan.sources.origin import read_origin

        print(in_words(read_origin(manifest_dir).sides))
        config = read_config(manifest_dir)
        items = plan_trainings(config)
        for item in items:
            print("train {arch}, fold {fold}, seed {seed}".format_map(item))
        if config.promotion.enabled:
            from ctan.tracking.outlook import outlook

            print("\n".join(outlook(Path(manifest_dir), config)))
    return items


def train(
    pointer: str,
    manifest_dir: str,
    arch: str,
    fold: int,
    seed: int,
    model_dir: str,
    checkpoint_root: str = "",
    pipeline_run: str = "",
    metadata: Metadata | None = None,
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
        checkpoint_root: folder or `s3://bucket/prefix` of the checkpoints; empty: in the workspace.
        pipeline_run: id of the pipeline's run, recorded with the training.
        metadata: receives the address of the MLflow run.
        overrides: settings to change for this step.
    """
    with step("train", f"{arch}, fold {fold}, seed {seed}") as clock:
        from ctan.tracking.lineage import lineage_tags
        from ctan.training import train as train_network

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        checkpoints = checkpoint_root or workspace() / "checkpoints"
        summary = train_network(
            _store(pointer, manifest_dir),
            arch,
            fold,
            seed,
            config,
            checkpoints,
            Path(model_dir),
            lineage_tags(manifest_dir, pipeline_run),
        )
        _point_to_run(metadata, model_dir)
        print(
            f"{arch}: {summary.epochs} epochs, loss {summary.losses['']:.4f}, "
            f"{summary.num_parameters:,} parameters, {summary.step_seconds:.3f} s a step, run {summary.run_id}"
        )
    return _numbers(vars(summary))


def evaluate(
    pointer: str,
    manifest_dir: str,
    model_dir: str,
    evaluation_dir: str,
    metadata: Metadata | None = None,
    overrides: Sequence[str] = (),
) -> Metrics:
    """Score one model on its tuning cases and on the evaluation split.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        model_dir: output of `train`.
        evaluation_dir: receives the scores a case, DVH curves and figures.
        metadata: receives the address of the MLflow run.
        overrides: settings to change for this step.
    """
    from ctan.records import CASES_FILE, ModelRecord

    record = ModelRecord.load(Path(model_dir))
    with step("evaluate", f"{record.arch}, fold {record.fold}, seed {record.seed}") as clock:
        from ctan.evaluation import evaluate as evaluate_model
        from ctan.tracking import log_results

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        summary = evaluate_model(_store(pointer, manifest_dir), Path(model_dir), Path(evaluation_dir), config)
        scores = _numbers(summary.scores)
        log_results(record.run_id, scores, [Path(evaluation_dir) / CASES_FILE])
        _point_to_run(metadata, model_dir)
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
    metadata: Metadata | None = None,
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
        metadata: receives the address of the chosen model's MLflow run.
        overrides: settings to change for this step.
    """
    with step("compare", f"{len(evaluation_dirs)} models") as clock:
        from ctan.evaluation import compare as compare_evaluations
        from ctan.evaluation.words import in_words
        from ctan.report import write_report

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        evaluations = [Path(folder) for folder in evaluation_dirs]
        comparison = compare_evaluations(_store(pointer, manifest_dir), evaluations, Path(comparison_dir), config)
        write_report(comparison, evaluations, Path(report))
        best = comparison.best
        shutil.rmtree(best_dir, ignore_errors=True)  # of an earlier comparison in the same folder
        with atomic_path(Path(best_dir)) as folder:
            shutil.copytree(model_dirs[best.model_index], folder)
        _point_to_run(metadata, best_dir)
        print(in_words(comparison))
    return _numbers(comparison.best_model.scores)


def promote(
    pointer: str,
    manifest_dir: str,
    comparison_dir: str,
    best_dir: str,
    decision: str,
    pipeline_run: str = "",
    metadata: Metadata | None = None,
    overrides: Sequence[str] = (),
    report: str = "",
    decided: str = "",
) -> Metrics:
    """Register the chosen model; it becomes champion when it beats the present one.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        comparison_dir: output of `compare`.
        best_dir: the chosen model, output of `compare`.
        decision: JSON file that receives what was decided, with the numbers.
        pipeline_run: id of the pipeline's run, recorded with the version.
        metadata: receives the address of the registered version and of its MLflow run.
        overrides: settings to change for this step.
        report: HTML page that `compare` wrote.
        decided: HTML file that receives the same page with the decision, and goes to the model's MLflow run.
    """
    with step("promote") as clock:
        from ctan.records import ModelRecord
        from ctan.report.decision import with_decision
        from ctan.tracking import promote as promote_model
        from ctan.tracking.lineage import lineage_tags
        from ctan.tracking.runs import log_page

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        tags = lineage_tags(manifest_dir, pipeline_run)
        result = promote_model(_store(pointer, manifest_dir), Path(comparison_dir), [Path(best_dir)], config, tags)
        write_json(Path(decision), vars(result))
        if report:
            page = with_decision(Path(report).read_text(encoding="utf-8"), vars(result))
            write_text(Path(decided), page)
            if result.version is not None:
                log_page(ModelRecord.load(Path(best_dir)).run_id, page, "results/report.html")
        _point_to_run(metadata, best_dir)
        if metadata is not None:
            metadata["mlflow_model_version"] = result.where
        print(result)
    return _numbers(vars(result))


def _store(pointer: str, manifest_dir: str) -> StorePointer:
    """Return a pointer to a store that this machine sees, built again where it does not."""
    from ctan.intake.build import build_again
    from ctan.store import StorePointer

    named = StorePointer.load(Path(pointer))
    from ctan.cases import DataSpec

    asked = DataSpec.load(Path(manifest_dir))
    if named.spec_hash != asked.sha256:
        raise DataError(
            f"{pointer}: names a store of other data than {manifest_dir} holds (their descriptions differ); run "
            f"`ctan data preprocess` on this manifest"
        )
    if named.is_reachable:
        return named
    from ctan.sources.origin import read_origin

    return build_again(named, read_origin(manifest_dir).source, Path(manifest_dir), read_config(manifest_dir))


def _point_to_run(metadata: Metadata | None, model_dir: str) -> None:
    """Let an artifact of the pipeline name the MLflow run of a model."""
    if metadata is not None:
        from ctan.records import ModelRecord

        record = ModelRecord.load(Path(model_dir))
        metadata["mlflow_run_id"], metadata["mlflow_run_url"] = record.run_id, record.run_url


__all__ = [
    "check",
    "compare",
    "evaluate",
    "gate",
    "ingest",
    "plan",
    "preprocess",
    "promote",
    "resolve",
    "resolve_config",
    "train",
    "validate",
]
