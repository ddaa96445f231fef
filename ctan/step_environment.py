"""What a step's process sets up first: threads, memory, libraries that keep quiet, the bucket's credentials.

In a pod KFP's launcher shares the container's environment: `AWS_*` there would also be what it opens its own artifacts
with, where its root says `fromEnv`. Values files therefore hand a step the credentials of ctan's bucket by names of our
own, which only the step's process turns into those that boto3, MLflow and DVC read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

from ctan.files import storage_faults
from ctan.progress import STEP_PREFIX

PARENT_VARIABLE = "CTAN_PARENT_RUN"  # the MLflow run that the trainings of a pipeline run belong to
OWN_NAMES = {
    "CTAN_S3_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "CTAN_S3_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
    "CTAN_S3_SESSION_TOKEN": "AWS_SESSION_TOKEN",
    "CTAN_S3_ENDPOINT_URL": "AWS_ENDPOINT_URL",
    "CTAN_S3_REGION": "AWS_DEFAULT_REGION",
}


def prepare_step() -> None:
    """Set up this process for a step; where one of our names is set it wins over the usual one."""
    from ctan.limits import limit_threads
    from ctan.memory import keep_freed_memory
    from ctan.telemetry import disable_telemetry

    limit_threads()
    keep_freed_memory()
    disable_telemetry()
    os.environ.update({usual: os.environ[own] for own, usual in OWN_NAMES.items() if os.environ.get(own)})


class Clock:
    """Tells a step's time for loading libraries from its time for work."""

    def __init__(self) -> None:
        self.start = self.loaded_at = time.monotonic()

    def loaded(self) -> None:
        self.loaded_at = time.monotonic()


@contextmanager
def step(name: str, what: str = "") -> Iterator[Clock]:
    """Prepare the process, announce a step, and say at its end how long it took.

    Of several processes that `torchrun` started for one step only the first speaks.
    """
    prepare_step()
    # Kubeflow's plugin hands every step the same run: trainings that went on in it would write into one another.
    if shared := os.environ.pop("MLFLOW_RUN_ID", ""):
        os.environ[PARENT_VARIABLE] = shared
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        print(f"{STEP_PREFIX}{name} {what}".rstrip(), flush=True)
        clock = Clock()
        with storage_faults():  # of writing that is not ours, such as MLflow's of artifacts
            yield clock
        loading, working = clock.loaded_at - clock.start, time.monotonic() - clock.loaded_at
        print(f"{STEP_PREFIX}done, {loading:.1f} s loading libraries, {working:.1f} s work", flush=True)
