"""Scores of all models -> comparison and report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare(
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Input[dsl.Dataset],
    evaluations: dsl.Input[list[dsl.Artifact]],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    best: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Put the architectures side by side and choose the best by the tuning cases.

    Args:
        manifest: Validated manifest, which holds the settings.
        store: Pointer to the store.
        evaluations: Outputs of evaluate, in the order of the plan, each with its model.
        comparison: Scores with intervals, and the best model.
        report: Table, curves and slices.
        best: Copy of the chosen model; kfp cannot hand collected models on into a condition.
        metrics: Scores of the best model.
    """
    from ctan import steps

    metrics.metadata.update(
        steps.compare(
            store.path,
            manifest.path,
            [evaluation.path for evaluation in evaluations],
            comparison.path,
            report.path,
            best.path,
            best.metadata,
        )
    )
