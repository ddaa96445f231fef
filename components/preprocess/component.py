"""Raw files and manifest -> store."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preprocess(
    source: str,
    store_root: str,
    manifest: dsl.Input[dsl.Dataset],
    store: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Crop, resample and pack the cases of the manifest; nothing is done when the store already holds them.

    Args:
        source: The source that was ingested.
        store_root: Where stores lie; empty for the workspace.
        manifest: Validated manifest.
        store: Small JSON pointer to the store.
        metrics: Cases stored and bytes written.
    """
    from ctan import steps

    metrics.metadata.update(steps.preprocess(source, manifest.path, store.path, store_root))
