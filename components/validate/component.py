"""Manifest -> manifest of the cases that passed, and a report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    manifest: dsl.Input[dsl.Dataset],
    validated: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Check the manifest against the data set's expectations; `gate` stops the run when too many cases fail.

    Args:
        manifest: Output of ingest.
        validated: The same tables with failed cases moved to quarantine.
        report: Which expectation failed for which cases.
        metrics: Cases passed and quarantined.

    Returns:
        passed, or why the run has to stop.
    """
    from ctan import steps

    return steps.validate(manifest.path, validated.path, report.path, metrics.metadata)
