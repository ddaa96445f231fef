"""Scheduled retraining: look at data, settings and code; when something changed, run the whole journey.

Compile with `make pipeline`. The journey is `pipelines/ctan.py`, nested: it promotes through the same gate.
"""

import sys
from pathlib import Path

from kfp import compiler, dsl

from components.check import check
from components.resolve import resolve
from pipelines.ctan import NAME as INNER
from pipelines.ctan import journey
from pipelines.tasks import LIMITS, closed, prepared

NAME = "ctan-retrain"

COMPILED = Path(__file__).with_suffix(".yaml")

# Not the pipeline `ctan` itself: a run is closed once.
train_compare_promote = dsl.pipeline(name=INNER, display_name="ctan: train, compare, promote")(journey)


@dsl.pipeline(name=NAME, display_name="ctan: retrain when something changed", pipeline_config=LIMITS)
def retrain(
    source: str,
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
    """Stop at once when the registry has a model of this data version, these settings and this code; else train.

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
    with closed(NAME):
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
        checked = prepared(
            check(model_name=model_name, settings=resolved.outputs["settings"], origin=resolved.outputs["origin"]),
            "Look for a reason to train again",
        )
        with dsl.If(checked.outputs["Output"] == "retrain", name="something changed"):
            train_compare_promote(
                source=resolved.outputs["source"],
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
            ).set_display_name("Train, compare, promote")


def main(output: Path = COMPILED) -> None:
    """Compile the pipeline to YAML."""
    compiler.Compiler().compile(retrain, str(output))


if __name__ == "__main__":
    main(*[Path(argument) for argument in sys.argv[1:]])
