"""Raw files -> manifest."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
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
    manifest: dsl.Output[dsl.Dataset],
    contact_sheet: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Resolve the settings, read and measure every raw case, put broken ones into quarantine.

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
        manifest: One row a case, the quarantine table and the resolved settings.
        contact_sheet: Pictures of a few cases of each split.
        metrics: Cases read and quarantined.
    """
    from ctan import steps

    metrics.metadata.update(
        steps.ingest(
            source,
            manifest.path,
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
            ),
            contact_sheet=contact_sheet.path,
        )
    )
