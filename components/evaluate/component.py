"""Model -> scores a case."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Score one model at native resolution on its tuning cases and on the evaluation split.

    Args:
        manifest: Validated manifest, which holds the settings.
        store: Pointer to the store.
        model: Output of train.
        evaluation: Scores a case, DVH curves and figures.
        metrics: Mean scores.
    """
    from ctan import steps

    metrics.metadata.update(steps.evaluate(store.path, manifest.path, model.path, evaluation.path, evaluation.metadata))
