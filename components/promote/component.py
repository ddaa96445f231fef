"""Best model -> registry."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    pipeline_run: str,
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Input[dsl.Dataset],
    comparison: dsl.Input[dsl.Artifact],
    best: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.HTML],
    decision: dsl.Output[dsl.Artifact],
    decided: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Register the best model; it becomes champion only when it beats the present one on the evaluation split.

    Args:
        pipeline_run: Id of the pipeline's run, recorded with the version.
        manifest: Validated manifest, which holds the settings.
        store: Pointer to the store.
        comparison: Output of compare.
        best: The model that compare chose.
        report: The page that compare wrote.
        decision: What was decided, with the numbers.
        decided: The same page with the decision.
        metrics: The numbers of the decision.
    """
    from ctan import steps

    metrics.metadata.update(
        steps.promote(
            store.path,
            manifest.path,
            comparison.path,
            best.path,
            decision.path,
            pipeline_run,
            decision.metadata,
            report=report.path,
            decided=decided.path,
        )
    )
