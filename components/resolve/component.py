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
    store_root: str,
    checkpoint_root: str,
    model_name: str,
    promote: bool,
    overrides: list[str],
) -> NamedTuple("Resolved", source=str, settings=str, origin=str):  # type: ignore[valid-type]
    """Find out which settings and which version of the data are meant now; all later steps use these.

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
            source=source,
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
        store_root,
        checkpoint_root,
    )
