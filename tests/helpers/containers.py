"""Servers, folders, and kfp's DockerRunner, told the truth about how containers end.

kfp 2.17.0 starts containers that remove themselves and, when one is gone before it has asked, takes it for a success:
about one failure in thirty. Here a container stays until its exit code has been read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctan.progress import STEP_PREFIX


@dataclass(frozen=True)
class Ran:
    """A container that has ended: the step, as it says itself, how it was run, and what it printed."""

    step: str
    exit_code: int
    image_id: str
    user: str
    read_only: bool
    output: str


def run_in_containers(
    pipeline: Path, parameters: Mapping[str, Any], pipeline_root: Path, ran: list[Ran], **options: Any
) -> None:
    """Run a compiled pipeline, every step in a container.

    Args:
        pipeline: compiled YAML.
        parameters: of the pipeline.
        pipeline_root: folder that the image's user can write to; receives all outputs.
        ran: receives each container as it ends, also when the run fails.
        options: of the containers, such as `read_only=True`: see docker's `containers.run`.

    Raises:
        RuntimeError: when a step fails.
    """
    from kfp import components, local
    from kfp.local import docker_task_handler

    def run_container(client: Any, image: str, command: list[str], volumes: dict, **arguments: Any) -> int:
        container = client.containers.run(image=image, command=command, volumes=volumes, detach=True, **arguments)
        try:
            output = "".join(_printed(line.decode(errors="replace")) for line in container.logs(stream=True))
            exit_code = int(container.wait()["StatusCode"])
            container.reload()
            found = container.attrs
            (step,) = re.findall(f"{STEP_PREFIX}(?!done)(.*)", output) or ["(said nothing)"]
            facts = found["Image"], found["Config"]["User"], found["HostConfig"]["ReadonlyRootfs"]
            ran.append(Ran(step, exit_code, *facts, output))
        finally:
            container.remove(force=True)
        return exit_code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docker_task_handler, "run_docker_container", run_container)
        local.init(local.DockerRunner(**options), pipeline_root=str(pipeline_root), raise_on_error=True)
        components.load_component_from_file(str(pipeline))(**parameters)


def _printed(line: str) -> str:
    print(line, end="")
    return line


def writable_by_all(folder: Path) -> Path:
    """Make a folder that the image's user may write to, whoever runs the tests."""
    folder.mkdir()
    folder.chmod(0o777)  # mkdir would cut it by the umask
    return folder
