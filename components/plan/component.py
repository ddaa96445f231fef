"""Settings -> what to train."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(manifest: dsl.Input[dsl.Dataset]) -> list[dict[str, str]]:
    """List the trainings: one item an architecture, fold and seed.

    Args:
        manifest: Validated manifest, which holds the settings.
    """
    from ctan import steps

    return steps.plan(manifest.path)
