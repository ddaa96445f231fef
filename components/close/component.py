"""End of the run -> MLflow, and a message to whoever wants one."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close(pipeline: str, pipeline_run: str, status: dsl.PipelineTaskFinalStatus):
    """Run last, whatever happened: end what was left open, write down how the run ended, and tell.

    Args:
        pipeline: Name of the pipeline.
        pipeline_run: Id of the pipeline's run.
        status: How it ended, as far as KFP says.
    """
    from ctan import ending

    ending.end(pipeline, pipeline_run, status.state, status.error_message or "")
