"""Registry -> whether to train again."""

from kfp import dsl

from components import IMAGE


# One unnamed output parameter: run locally, kfp 2.17.0 takes a condition on a named one for false without a word.
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check(
    model_name: str,
    settings: str,
    origin: str,
    finding: dsl.Output[dsl.Artifact],
) -> str:
    """Compare data version, settings and code with those of the versions that were decided about.

    Args:
        model_name: Registered model; empty for that of the settings.
        settings: All settings, YAML.
        origin: Version of the data and hashes of settings and code, JSON.
        finding: What was found, JSON.

    Returns:
        retrain or unchanged.
    """
    from ctan import steps

    return steps.check(model_name, settings, origin, finding.path)
