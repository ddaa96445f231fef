"""The whole journey: raw files in, architectures trained and compared, best model promoted.

Compile with `make pipeline`. Inside the loop only pipeline parameters, artifacts and fields of the loop item may be
used: run locally, kfp 2.17.0 replaces another task's output parameter by the loop item without a word.
"""

import sys
from functools import wraps
from pathlib import Path

from kfp import compiler, dsl
from kfp.dsl import PIPELINE_JOB_ID_PLACEHOLDER
from kfp.dsl.pipeline_channel import PipelineParameterChannel

from components.compare import compare
from components.evaluate import evaluate
from components.gate import gate
from components.ingest import ingest
from components.plan import plan
from components.preprocess import preprocess
from components.promote import promote as promote_best
from components.resolve import resolve
from components.train import train
from components.validate import validate
from pipelines.tasks import LIMITS, closed, knows_its_run, prepared

NAME = "ctan"
COMPILED = Path(__file__).with_suffix(".yaml")


def journey(
    source: str = "phantom:train=12,validation=4,seed=0",
    profile: str = "smoke",
    dataset: str = "",
    architectures: list[str] = [],  # noqa: B006
    folds: list[int] = [],  # noqa: B006
    seeds: list[int] = [],  # noqa: B006
    epochs: int = 0,
    batch_size: int = 0,
    learning_rate: float = 0.0,
    task_weighting: str = "",
    inputs: str = "",
    max_train_cases: int = 0,
    max_evaluation_cases: int = 0,
    store_root: str = "",
    checkpoint_root: str = "",
    model_name: str = "",
    promote: bool = True,
    overrides: list[str] = [],  # noqa: B006
):
    """Train STL, HPS, MTAN and CTAN on raw patients, compare them and promote the best.

    Args:
        source: Raw files: a folder that every step can read, s3://bucket/prefix, a version that DVC pins
            (dvc:REPOSITORY@REVISION), or phantom:train=N,validation=N,seed=N (synthetic).
        profile: Settings to start from: smoke, cpu, gpu, gpu-short or the path of a YAML file.
        dataset: Data set, the raw format of the source: folder, ham10000, openkbp, openkbp2d, prostate, stoic. Empty:
            openkbp.
        architectures: Architectures to train: stl, hps, mtan, ctan; with settings of its own as 'ctan
            network.base_width=8'. Empty: from the profile.
        folds: Folds to train; fold f of the training cases is left out for tuning. Empty: from the profile.
        seeds: Seeds to train with. Empty: from the profile.
        epochs: Passes over the training cases. 0: from the profile.
        batch_size: Cases a training step. 0: from the profile.
        learning_rate: Learning rate of AdamW after warm-up. 0: from the profile.
        task_weighting: How task losses are summed (equal, dwa, uncertainty) or task gradients (upgrad, pcgrad, mgda,
            cagrad, imtl_g, aligned_mtl). Empty: from the profile.
        inputs: What the networks see: ct, ct+targets or oracle. Empty: from the profile.
        max_train_cases: Use only N training cases. 0: from the profile.
        max_evaluation_cases: Use only N evaluation cases. 0: from the profile.
        store_root: Folder or s3://bucket/prefix of the stores, the table of sides and the ledger, seen by every step.
            Empty: in the workspace.
        checkpoint_root: Folder or s3://bucket/prefix of the checkpoints, seen by every step. Empty: in the workspace.
        model_name: Registered model. Empty: ctan-<dataset>; synthetic data add -phantom.
        promote: Whether the best model is registered and may become champion; without it models are only compared.
        overrides: Any other setting as FIELD=VALUE, such as training.ema_decay=0.99. These win over all others. Empty:
            none.
    """
    resolved = prepared(
        resolve(
            source=source,
            profile=profile,
            dataset=dataset,
            architectures=architectures,
            folds=folds,
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            task_weighting=task_weighting,
            inputs=inputs,
            max_train_cases=max_train_cases,
            max_evaluation_cases=max_evaluation_cases,
            store_root=store_root,
            checkpoint_root=checkpoint_root,
            model_name=model_name,
            promote=promote,
            overrides=overrides,
        ),
        "Resolve settings and data version",
        memory="1G",
    )
    ingested = prepared(
        ingest(settings=resolved.outputs["settings"], origin=resolved.outputs["origin"]), "Read raw files", cached=True
    )
    validated = prepared(validate(manifest=ingested.outputs["manifest"]), "Validate", cached=True)
    manifest = validated.outputs["validated"]
    passed = prepared(gate(verdict=validated.outputs["Output"]), "Gate", memory="1G")
    stored = prepared(
        preprocess(source=resolved.outputs["source"], store_root=store_root, manifest=manifest), "Preprocess"
    ).after(passed)
    store = stored.outputs["store"]
    planned = prepared(plan(manifest=manifest), "Plan", memory="1G").after(passed)

    with dsl.ParallelFor(planned.output, name="architecture, fold, seed", parallelism=1) as item:
        trained = prepared(
            train(
                arch=item.arch,
                fold=item.fold,
                seed=item.seed,
                checkpoint_root=checkpoint_root,
                pipeline_run=PIPELINE_JOB_ID_PLACEHOLDER,
                manifest=manifest,
                store=store,
            ),
            "Train",
            memory="4G",
        )
        knows_its_run(trained)
        evaluated = prepared(
            evaluate(manifest=manifest, store=store, model=trained.outputs["model"]), "Evaluate", memory="4G"
        )

    compared = prepared(
        compare(
            manifest=manifest,
            store=store,
            evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
        ),
        "Compare",
    )
    with dsl.If(promote == True, name="promotion wanted"):  # noqa: E712 - builds a condition
        promoted = prepared(
            promote_best(
                pipeline_run=PIPELINE_JOB_ID_PLACEHOLDER,
                manifest=manifest,
                store=store,
                comparison=compared.outputs["comparison"],
                best=compared.outputs["best"],
                report=compared.outputs["report"],
            ),
            "Promote",
        )
        knows_its_run(promoted)


@dsl.pipeline(name=NAME, display_name="ctan: train, compare, promote", pipeline_config=LIMITS)
@wraps(journey)
def ctan(*parameters: PipelineParameterChannel):
    with closed(NAME):
        journey(*parameters)


def main(output: Path = COMPILED) -> None:
    """Compile the pipeline to YAML."""
    compiler.Compiler().compile(ctan, str(output))


if __name__ == "__main__":
    main(*[Path(argument) for argument in sys.argv[1:]])
