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
