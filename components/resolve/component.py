"""Parameters -> settings and data version, fixed for the whole run."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
    source: str,
    profile: str,
    dataset: str,
    architectures: list[str],
    folds: list[int],
    seeds: list[int],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    task_weighting: str,
    inputs: str,
    max_train_cases: int,
    max_evaluation_cases: int,
    model_name: str,
    promote: bool,
    overrides: list[str],
) -> NamedTuple("Resolved", source=str, settings=str, origin=str):  # type: ignore[valid-type]
    """Find out which settings and which version of the data are meant now; all later steps use these.

    Args:
        source: Folder, s3://bucket/prefix, dvc:REPOSITORY@REVISION, or phantom:train=N,validation=N,seed=N.
        profile: Settings to start from.
        dataset: Data set, the raw format of the source.
        architectures: Architectures to train; empty for those of the profile.
        folds: Folds to train; empty for those of the profile.
        seeds: Seeds to train; empty for those of the profile.
        epochs: Passes over the training cases; 0 for the profile's.
        batch_size: Cases a training step; 0 for the profile's.
        learning_rate: AdamW's learning rate after warm-up; 0 for the profile's.
        task_weighting: How task losses are summed; empty for the profile's.
        inputs: What the networks see; empty for the profile's.
        max_train_cases: Use only the first N training cases; 0 for the profile's.
        max_evaluation_cases: Use only the first N evaluation cases; 0 for the profile's.
        model_name: Registered model; empty for ctan-<dataset>.
        promote: Whether the best model may be registered and promoted.
        overrides: Any other setting as FIELD=VALUE.

    Returns:
        source: The source, pinned to the version it has now.
        settings: All settings, YAML.
        origin: Version of the data and hashes of settings and code, JSON. What later steps are cached by.
    """
    from ctan import steps

    return steps.resolve(
        source,
        steps.resolve_config(
            profile,
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
            model_name=model_name,
            promote=promote,
            overrides=overrides,
            source=source,
        ),
    )
