"""A step opens ctan's bucket by names of our own: those of S3's clients would be KFP's launcher's too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctan.cluster.values import load_values
from ctan.step_environment import OWN_NAMES
from tests.helpers.s3 import ACCESS_KEY, SECRET_KEY, S3Server

pytest_plugins = ["tests.helpers.storage"]

INFRA = Path(__file__).parents[2] / "infra" / "values"
STEP = """
import sys
from ctan import steps
from ctan.config import RunConfig
print("returned", steps.resolve(sys.argv[1], RunConfig())[0])
"""


def resolved(source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step that reads a bucket, in a process that has none of the usual variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_S3"))}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true"} | variables
    command = [sys.executable, "-c", STEP, source]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_a_step_reads_a_bucket_with_our_names_alone(server: S3Server, bucket: str) -> None:
    server.put(bucket, {"raw/train-pats/pt_1/ct.csv": b"1,2\n"})
    ours = {
        "CTAN_S3_ACCESS_KEY_ID": ACCESS_KEY,
        "CTAN_S3_SECRET_ACCESS_KEY": SECRET_KEY,
        "CTAN_S3_ENDPOINT_URL": server.endpoint,
        "CTAN_S3_REGION": "us-east-1",
    }
    done = resolved(f"s3://{bucket}/raw", **ours)
    assert f"returned s3://{bucket}/raw" in done.stdout, done.stderr
    wrong = {"AWS_ACCESS_KEY_ID": "launcher", "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ENDPOINT_URL": server.endpoint}
    assert resolved(f"s3://{bucket}/raw", **wrong).returncode != 0
    assert resolved(f"s3://{bucket}/raw", **wrong, **ours).returncode == 0, "ours win in the step's process"


@pytest.mark.parametrize("path", sorted(INFRA.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_values_file_of_ours_hands_a_pod_the_usual_names(path: Path) -> None:
    values = load_values(path)
    sources = (*values.defaults.secrets, *values.defaults.config_maps)
    variables = {variable for source in sources for variable in source.keys.values()} | set(values.defaults.env)
    assert {
        "CTAN_S3_ACCESS_KEY_ID",
        "CTAN_S3_SECRET_ACCESS_KEY",
        "CTAN_S3_ENDPOINT_URL",
    } <= variables & OWN_NAMES.keys()
    assert not [name for name in variables if name.startswith("AWS_")]


HELD = """
import sys
from pathlib import Path

import numpy as np
{before}
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
volume = np.ones((64, 512, 512))
del volume
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(
    ("before", "keeps"),
    [("", False), ("from ctan.step_environment import prepare_step; prepare_step()", True)],
    ids=["a process", "a step"],
)
def test_a_step_keeps_the_memory_of_a_volume_that_it_is_done_with(before: str, keeps: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD.format(before=before)], capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) > 64 * 512 * 512 * 4) == keeps
