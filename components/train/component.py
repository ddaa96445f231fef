"""Store -> model."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    arch: str,
    fold: str,
    seed: str,
    checkpoint_root: str,
    pipeline_run: str,
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train one architecture on one fold with one seed; goes on from its last checkpoint.

    Args:
        arch: Architecture.
        fold: Fold of the training patients that is left out for tuning.
        seed: Seed of initialisation, order and augmentation.
        checkpoint_root: Where checkpoints lie; empty for the workspace.
        pipeline_run: Id of the pipeline's run, recorded with the training.
        manifest: Validated manifest, which holds the settings.
        store: Pointer to the store.
        model: Weights, description and history.
        metrics: Losses and speed.
    """
    from ctan import steps

    metrics.metadata.update(
        steps.train_supervised(
            model.metadata,
            pointer=store.path,
            manifest_dir=manifest.path,
            arch=arch,
            fold=int(fold),
            seed=int(seed),
            model_dir=model.path,
            checkpoint_root=checkpoint_root,
            pipeline_run=pipeline_run,
        )
    )
