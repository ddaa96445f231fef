"""From a prepared store to a judged model: see `ctan.steps`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import DataError
from ctan.files import atomic_path, put_beside, write_json, write_text
from ctan.settings import of_training, read_config
from ctan.sources.places import recalled
from ctan.step_environment import step
from ctan.steps.data import CONTACT_PAGE, VALIDATION_PAGE
from ctan.steps.numbers import Metrics, numbers_of
from ctan.variants import architecture_of
from ctan.workspace import workspace

if TYPE_CHECKING:
    from ctan.config import RunConfig
    from ctan.records import ModelRecord
    from ctan.store import StorePointer

Metadata = dict[str, Any]  # of an artifact of the pipeline


def train_supervised(metadata: Metadata | None = None, overrides: Sequence[str] = (), **given: Any) -> Metrics:
    """Do what `train` does in a child process that is started again from its checkpoint when it crashes.

    What the step of the pipeline and the command call; not where `torchrun` started this process: it supervises itself.

    Args:
        metadata: receives the address of the MLflow run.
        overrides: settings to change for this step.
        given: the other arguments of `train`.
    """
    from ctan.supervise import supervised

    config = of_training(read_config(given["manifest_dir"], overrides), given["arch"])
    most = config.training.max_restarts
    is_one_of_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    arguments = {**given, "overrides": list(overrides)}
    if config.training.num_nodes > 1 and not is_one_of_several:
        metrics, found = _train_on_nodes(arguments, config)
    elif not most or is_one_of_several:
        return train(metadata=metadata, overrides=overrides, **given)
    else:
        metrics, found = supervised("ctan.steps.models:_train_and_tell", arguments, most)
    if metadata is not None:
        metadata.update(found)
    return dict(metrics)


def _train_on_nodes(arguments: dict[str, Any], config: RunConfig) -> tuple[Metrics, Metadata]:
    with step("train", f"{arguments['arch']}, on {config.training.num_nodes} nodes") as clock:
        from ctan.cases import DataSpec
        from ctan.nodes import train_on_nodes
        from ctan.tasks import tasks_of
        from ctan.training.checkpoint import CheckpointKey

        clock.loaded()
        arch, fold, seed, manifest_dir = (arguments[name] for name in ("arch", "fold", "seed", "manifest_dir"))
        tasks, pointer = tasks_of(DataSpec.load(Path(manifest_dir))), store_of(arguments["pointer"], manifest_dir)
        key = CheckpointKey.of(pointer, architecture_of(arch), tasks, fold, seed, config)
        return train_on_nodes(arguments, config, key.folder)


def _train_and_tell(**given: Any) -> tuple[Metrics, Metadata]:
    """Return what `train` returns and what it fills in."""
    metadata: Metadata = {}
    return train(metadata=metadata, **given), metadata


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
    micro_batches: Sequence[tuple[int, int, int]] | None = None,
) -> Metrics:
    """Train one architecture; goes on from its last checkpoint.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings.
        arch: architecture, and what it has other than the run, see `ctan.variants`.
        fold: left out for tuning.
        seed: of initialisation, order and augmentation.
        model_dir: receives weights, description and history.
        checkpoint_root: folder or `s3://bucket/prefix` of the checkpoints; empty: in the workspace.
        pipeline_run: id of the pipeline's run, recorded with the training.
        metadata: receives the address of the MLflow run.
        overrides: settings to change for this step.
        micro_batches: to follow, of a training that is done again; None: decided here.
    """
    with step("train", f"{arch}, fold {fold}, seed {seed}") as clock:
        from ctan.evaluation.ahead import evaluate_ahead
        from ctan.tracking.lineage import lineage_tags
        from ctan.training import train as train_network

        clock.loaded()
        config = of_training(read_config(manifest_dir, overrides), arch)
        checkpoints = checkpoint_root or workspace() / "checkpoints"
        summary = train_network(
            store_of(pointer, manifest_dir),
            architecture_of(arch),
            fold,
            seed,
            config,
            checkpoints,
            Path(model_dir),
            lineage_tags(manifest_dir, pipeline_run),
            micro_batches,
        )
        _point_to_run(metadata, model_dir)
        if config.evaluation.in_training_pod:
            evaluate_ahead(store_of(pointer, manifest_dir), Path(model_dir), config)
        print(
            f"{arch}: {summary.epochs} epochs, loss {summary.losses['']:.4f}, "
            f"{summary.num_parameters:,} parameters, {summary.step_seconds:.3f} s a step, run {summary.run_id}"
        )
    return numbers_of(vars(summary))


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
        evaluation_dir: receives the scores a case, DVH curves, figures and the weights: what is collected over all
            trainings is one argument of `compare`, so that it is one artifact a training.
        metadata: receives the address of the MLflow run.
        overrides: settings to change for this step.
    """
    from ctan.records import WEIGHTS_FILE, ModelRecord

    record = ModelRecord.load(Path(model_dir))
    with step("evaluate", f"{record.name}, fold {record.fold}, seed {record.seed}") as clock:
        from ctan.evaluation.ahead import evaluated_ahead
        from ctan.evaluation.words import scores_in_words
        from ctan.ranks import is_main_process

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        summary = evaluated_ahead(store_of(pointer, manifest_dir), Path(model_dir), Path(evaluation_dir), config)
        scores = numbers_of(summary.scores)
        if is_main_process():
            put_beside(Path(model_dir) / WEIGHTS_FILE, Path(evaluation_dir) / WEIGHTS_FILE)
            _log_evaluation(Path(evaluation_dir), record)
        _point_to_run(metadata, model_dir)
        print(scores_in_words(summary.scores, record.tasks))
    return scores


def _log_evaluation(evaluation_dir: Path, record: ModelRecord) -> None:
    """Add scores, the table of cases and pictures to the MLflow run of a model."""
    from ctan.records import CASES_FILE, EvaluationRecord
    from ctan.report.shown import case_pictures
    from ctan.tracking import log_results
    from ctan.tracking.review import keyed, log_cases

    found = EvaluationRecord.load(evaluation_dir).scores
    log_results(record.run_id, keyed(found, record.tasks), [evaluation_dir / CASES_FILE])
    cases, shown = case_pictures(evaluation_dir, record)
    log_cases(record.run_id, cases, record.tasks, shown)


def compare(
    pointer: str,
    manifest_dir: str,
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
        evaluation_dirs: outputs of `evaluate`, which hold their models.
        comparison_dir: receives `comparison.json` and all scores.
        report: HTML file.
        best_dir: receives a copy of the chosen model.
        metadata: receives the address of the chosen model's MLflow run.
        overrides: settings to change for this step.
    """
    with step("compare", f"{len(evaluation_dirs)} models") as clock, tempfile.TemporaryDirectory() as scratch:
        from ctan.evaluation import compare as compare_evaluations
        from ctan.evaluation.words import in_words
        from ctan.records import HISTORY_FILE, MODEL_FILE, WEIGHTS_FILE
        from ctan.report import write_report
        from ctan.tracking.review import log_comparison, log_pages

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        evaluations = [Path(folder) for folder in evaluation_dirs]
        if config.evaluation.ensemble:
            evaluations += _ensemble(store_of(pointer, manifest_dir), manifest_dir, evaluations, Path(scratch), config)
        comparison = compare_evaluations(store_of(pointer, manifest_dir), evaluations, Path(comparison_dir), config)
        write_report(comparison, evaluations, Path(report))
        log_comparison(comparison, Path(report).read_text(encoding="utf-8"))
        found = [path for name in (VALIDATION_PAGE, CONTACT_PAGE) if (path := Path(manifest_dir) / name).is_file()]
        pages = {f"data/{path.name}": path.read_text(encoding="utf-8") for path in found}
        log_pages(comparison.best_model.run_id, pages)
        best = comparison.best
        shutil.rmtree(best_dir, ignore_errors=True)  # of an earlier comparison in the same folder
        with atomic_path(Path(best_dir)) as folder:
            folder.mkdir()
            chosen = evaluations[best.model_index]
            if not (chosen / WEIGHTS_FILE).exists():
                raise DataError(f"{chosen}: holds no {WEIGHTS_FILE}; evaluate the model again")
            for name in (MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE):
                if (chosen / name).exists():
                    put_beside(chosen / name, folder / name)
        _point_to_run(metadata, best_dir)
        print(in_words(comparison))
    return numbers_of(comparison.best_model.scores)


def _ensemble(
    pointer: StorePointer, manifest_dir: str, evaluations: list[Path], scratch: Path, config: RunConfig
) -> list[Path]:
    """Return the evaluation of the chosen architecture's trainings as one model; nothing of a single training."""
    from ctan.evaluation import evaluate as score
    from ctan.evaluation.compare import chosen_trainings
    from ctan.records import EVALUATION, WEIGHTS_FILE
    from ctan.tracking.ensemble import log_ensemble
    from ctan.tracking.lineage import lineage_tags

    members = chosen_trainings(pointer, evaluations)
    if len(members) < 2:
        return []
    model_dir, evaluation_dir = scratch / "model", scratch / "evaluation"
    record = log_ensemble(pointer, members, model_dir, lineage_tags(manifest_dir, ""))
    score(pointer, model_dir, evaluation_dir, config, (EVALUATION,))  # what tuned one was learned by another
    put_beside(model_dir / WEIGHTS_FILE, evaluation_dir / WEIGHTS_FILE)
    _log_evaluation(evaluation_dir, record)
    print(f"{record.name}: scored as one model, run {record.run_id}")
    return [evaluation_dir]


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
        from ctan.tracking.review import log_decision, log_page

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        tags = lineage_tags(manifest_dir, pipeline_run)
        result = promote_model(store_of(pointer, manifest_dir), Path(comparison_dir), [Path(best_dir)], config, tags)
        write_json(Path(decision), vars(result))
        run_id, page = ModelRecord.load(Path(best_dir)).run_id, ""
        if report:
            page = with_decision(Path(report).read_text(encoding="utf-8"), vars(result))
            write_text(Path(decided), page)
            if result.version is not None:
                log_page(run_id, page, "results/report.html")
        log_decision(run_id, vars(result), page)
        _point_to_run(metadata, best_dir)
        if metadata is not None:
            metadata["mlflow_model_version"] = result.where
        print(result)
    return numbers_of(vars(result))


def store_of(pointer: str, manifest_dir: str) -> StorePointer:
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

    source = read_origin(manifest_dir).source
    if not recalled(source):
        raise DataError(
            f"store {named.key}: is not on this machine ({named.folder}), which does not know the folder that was "
            f"ingested either ({source}); give all steps one store_root (a volume or s3://bucket/prefix)"
        )
    return build_again(named, source, Path(manifest_dir), read_config(manifest_dir))


def _point_to_run(metadata: Metadata | None, model_dir: str) -> None:
    """Let an artifact of the pipeline name the MLflow run of a model."""
    if metadata is not None:
        from ctan.records import ModelRecord

        record = ModelRecord.load(Path(model_dir))
        metadata["mlflow_run_id"], metadata["mlflow_run_url"] = record.run_id, record.run_url
