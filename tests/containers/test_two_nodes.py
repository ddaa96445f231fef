"""A TrainJob's nodes as two containers of the image, which meet over a network of their own as pods do."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ctan import nodes, steps
from ctan.settings import resolve_config
from tests.helpers.containers import writable_by_all
from tests.helpers.small import SMALL

SECONDS = 600
MOUNTED: tuple[str, ...] = ()  # options of all containers
SETTINGS = ["training.num_nodes=2", "training.gpus_per_node=0", "training.batch_size=2", "training.precision=fp32"]


def docker(*arguments: str, check: bool = True) -> str:
    """Return what a command of docker prints."""
    return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True).stdout.strip()


class Job:
    """What the launcher lays down for the nodes, and the nodes as containers.

    Args:
        image: to run.
        folder: that all containers see, at the same place.
        network: that they meet on.
        name: of the job.
    """

    def __init__(self, image: str, folder: Path, network: str, name: str) -> None:
        self.image, self.folder, self.network, self.name = image, folder, network, name
        self.root, self.names = folder / name / "jobs" / name, list[str]()
        given = {"arch": "hps", "fold": 0, "seed": 0, "pipeline_run": "", "overrides": []}
        given |= {"checkpoint_root": str(folder / name), "pointer": str(folder / "store.json")}
        nodes._ask(str(self.root), given | {"manifest_dir": str(folder / "manifest"), "model_dir": ""}, folder)
        subprocess.run(["chmod", "-R", "a+rwX", str(folder)], check=True)

    def start(self, num_nodes: int) -> None:
        """Start the nodes, with the variables by which Kubeflow Trainer tells torchrun who meets whom."""
        command = nodes.train_job(self.name, str(self.root), num_nodes, 0, lambda _: {})["spec"]["trainer"]["command"]
        self.names = [f"{self.network}-{self.name}-{rank}" for rank in range(num_nodes)]
        for rank, name in enumerate(self.names):
            told = {
                "PET_NNODES": str(num_nodes),
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": self.names[0],
                "PET_MASTER_PORT": "29500",
                "OMP_NUM_THREADS": "1",
                "CTAN_WORKSPACE": f"{self.folder}/{self.name}/workspace",
            }
            options = [option for key, value in told.items() for option in ("--env", f"{key}={value}")]
            place = ["--name", name, "--network", self.network, "--volume", f"{self.folder}:{self.folder}", *MOUNTED]
            docker("run", "--detach", *place, *options, self.image, *command)

    def wait(self) -> list[int]:
        """Return the exit codes of all nodes, and remove them."""
        codes = []
        for name in self.names:
            found = subprocess.run(
                ["docker", "wait", name], capture_output=True, text=True, timeout=SECONDS, check=True
            )
            codes.append(int(found.stdout))
            if codes[-1]:
                print(docker("logs", "--tail", "30", name, check=False))
        docker("rm", *self.names)
        return codes

    def weights(self) -> dict[str, Any]:
        """Return what was trained."""
        return dict(load_file(self.root / "model" / "model.safetensors"))


@pytest.fixture
def network() -> Iterator[str]:
    """Name of a network of docker that ends with all containers on it."""
    name = f"ctan-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    yield name
    if left := docker("ps", "--all", "--quiet", "--filter", f"network={name}").split():
        docker("rm", "--force", *left)
    docker("network", "rm", name)


def test_two_containers_train_as_one_process_and_go_on_when_one_was_killed(
    image: str, network: str, tmp_path: Path
) -> None:
    folder = writable_by_all(tmp_path / "shared")
    tmp_path.chmod(0o755)
    config = resolve_config(
        "smoke", overrides=[*SMALL, *SETTINGS, "training.epochs=6", "training.checkpoint_minutes=0"]
    )
    source, settings, origin = steps.resolve("phantom:train=6,validation=1,seed=1", config, str(folder / "root"))
    steps.ingest(settings, origin, str(folder / "manifest"), num_workers=0)
    steps.preprocess(source, str(folder / "manifest"), str(folder / "store.json"), str(folder / "root"), num_workers=1)

    whole, alone, killed = (Job(image, folder, network, name) for name in ("whole", "alone", "killed"))
    whole.start(2)
    assert whole.wait() == [0, 0]
    alone.start(1)
    assert alone.wait() == [0]
    for name, expected in alone.weights().items():
        assert (whole.weights()[name] - expected).abs().max() < 1e-2 * (1 + expected.abs().max()), name

    killed.start(2)
    deadline = time.monotonic() + SECONDS
    while not list((folder / "killed").glob("*/*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    docker("kill", killed.names[1])
    codes = killed.wait()
    assert codes[1] == 137
    assert codes[0] != 0, "the other node ends too"
    killed.start(2)
    assert killed.wait() == [0, 0]
    found, expected = killed.weights(), whole.weights()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items()), "as if never killed, to the bit"
