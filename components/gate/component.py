"""Verdict of validate -> nothing, or a failed step."""

from kfp import dsl

from components import IMAGE


# A step of its own: what a failing step has written is lost on a cluster, the page that names the cases included.
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(verdict: str):
    """Stop the run when validation says so; the report is an output of validate.

    Args:
        verdict: Output of validate.
    """
    from ctan import steps

    steps.gate(verdict)
