"""What every task of a pipeline gets: a name people read, modest resources, and whether KFP may reuse it."""

from kfp import dsl, kubernetes

from components import IMAGE
from components.close import close

# A run that waits for ever (an image that cannot be pulled, say) ends then. A values file sets another.
LIMITS = dsl.PipelineConfig(active_deadline_seconds=7 * 86400)
_USER = _GROUP = 1000  # of the image; without them a namespace that enforces Pod Security `restricted` refuses the pods


def prepared(
    task: dsl.PipelineTask, name: str, cpu: str = "1", memory: str = "2G", cached: bool = False
) -> dsl.PipelineTask:
    """Name a task, ask for modest resources and say who it runs as.

    Args:
        task: of the pipeline.
        name: shown in the graph.
        cpu, memory: requests; values files set others.
        cached: whether KFP may take the outputs of an earlier run with the same inputs. Only for steps that get hashes
            of data, settings and code, and whose outputs are whole: KFP's cache knows a folder by its name, and a
            store, a checkpoint or the registry not at all.
    """
    task = kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_GROUP, run_as_non_root=True)
    return (
        task.set_display_name(name)
        .set_cpu_request(cpu)
        .set_memory_request(memory)
        .set_env_variable("CTAN_IMAGE", IMAGE)  # which MLflow's runs record; rewritten together with the image
        .set_caching_options(enable_caching=cached)
    )


def knows_its_run(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Tell a task the id of its run by the label of its pod; some backends leave KFP's placeholder as it is."""
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


def closed(pipeline: str) -> dsl.ExitHandler:
    """Return the context of a pipeline's tasks after which `close` runs, however they ended.

    Args:
        pipeline: its name.
    """
    task = prepared(close(pipeline=pipeline, pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER), "Close", memory="1G")
    return dsl.ExitHandler(knows_its_run(task), name="the run")
