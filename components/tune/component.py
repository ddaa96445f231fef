"""Store -> the best settings of a search, a profile."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def tune(
    arch: str,
    fold: int,
    seed: int,
    trials: int,
    search: list[str],
    checkpoint_root: str,
    pipeline_run: str,
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Input[dsl.Dataset],
    tuned: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Search settings of one architecture by the error on its tuning cases; goes on with the search it finds.

    Args:
        arch: Architecture.
        fold: Fold of the training patients whose error decides.
        seed: Seed of the trainings and of the search.
        trials: Trainings of the search, those of earlier runs included.
        search: What is searched, FIELD=LOW..HIGH or FIELD=[A, B] each; none for learning rate, width, weighting and
            augmentation.
        checkpoint_root: Where the search and its checkpoints lie; empty for the workspace.
        pipeline_run: Id of the pipeline's run, recorded with the trainings.
        manifest: Validated manifest, which holds the settings.
        store: Pointer to the store.
        tuned: The settings, a YAML file that a run takes for its profile.
        metrics: Tuning error, and how many trials there were.
    """
    from ctan import steps

    metrics.metadata.update(
        steps.tune(
            pointer=store.path,
            manifest_dir=manifest.path,
            arch=arch,
            fold=fold,
            seed=seed,
            num_trials=trials,
            search=search,
            checkpoint_root=checkpoint_root,
            profile=tuned.path,
            pipeline_run=pipeline_run,
        )
    )
