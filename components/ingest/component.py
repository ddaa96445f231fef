"""Raw files -> manifest."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    settings: str,
    origin: str,
    manifest: dsl.Output[dsl.Dataset],
    contact_sheet: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Read and measure every raw case, put broken ones into quarantine.

    Args:
        settings: All settings, YAML.
        origin: Source, version of the data and hashes of settings and code, JSON.
        manifest: One row a case, the quarantine table, settings and origin.
        contact_sheet: Pictures of a few cases of each split.
        metrics: Cases read and quarantined.
    """
    from ctan import steps

    metrics.metadata.update(steps.ingest(settings, origin, manifest.path, contact_sheet=contact_sheet.path))
