"""The values file: what it allows, and that a mistake is told with the field and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctan.cluster.values import Values, load_values, num_bytes, num_cores
from ctan.errors import ConfigError

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra" / "values"
RAW_DATA = {"resolve", "ingest", "preprocess", "check"}  # `check`: incoming cases, for drift
DIGEST = "registry.example.org:5000/ctan@sha256:" + "0a" * 32


def load(tmp_path: Path, content: Any) -> Values:
    path = tmp_path / "values.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_values(path)


def test_a_step_takes_what_it_does_not_set_from_the_defaults() -> None:
    values = Values.model_validate(
        {"defaults": {"cpu_limit": 4, "env": {"A": "1"}}, "steps": {"train": {"cpu_limit": None, "env": {"B": "2"}}}}
    )
    assert values.for_step("ingest").cpu_limit == "4"
    assert values.for_step("train").cpu_limit is None
    assert values.for_step("train").env == {"B": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"defaults": {"cpu_limits": 4}},
            "defaults.cpu_limits: unknown setting; did you mean 'cpu_limit'? allowed: cpu_r",
        ),
        ({"steps": {"train": {"gpu": 1}}}, "steps.train.gpu: unknown setting; did you mean 'gpus'?"),
        ({"defaults": {"claims": [{"name": "a", "path": "/a"}]}}, "defaults.claims.0.path: unknown setting; "),
        ({"defaults": {"memory_limit": "8 GB"}}, "defaults.memory_limit: expected bytes, such as 8Gi (found '8 GB')"),
        ({"defaults": {"cpu_request": "half"}}, "defaults.cpu_request: expected cores, such as 2 or 500m"),
        (
            {"defaults": {"retry": {"count": 1, "backoff_duration": "1 week"}}},
            "retry.backoff_duration: expected a whole",
        ),
        (
            {"defaults": {"retry": {"count": 1, "backoff_factor": 1.5}}},
            "retry.backoff_factor: expected a valid integer",
        ),
        ({"defaults": {"retry": {"count": 1}}}, "retry: needs timeout_seconds"),
        (
            {"defaults": {"retry": {"count": 2, "backoff_max_duration": "1h"}, "timeout_seconds": 7200}},
            "retry.backoff_max_duration 1h: is counted from the first start and would stop a later try; expected at "
            "least 23400s: 3 tries of 7200 s and 600 s until a pod is there",
        ),
        (
            {"deadline_seconds": 60, "defaults": {"timeout_seconds": 90}},
            "deadline_seconds 60: is below timeout_seconds 90",
        ),
        ({"image": "ctan"}, "image: expected name:tag or name@sha256:"),
        ({"image": "ctan@sha256:abc"}, "image: expected name:tag or name@sha256:"),
        (
            {"defaults": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}},
            "AWS_SECRET_ACCESS_KEY: would stand in the pipeline for",
        ),
        ({"defaults": {"cpu_request": "1500m", "cpu_limit": 1}}, "cpu_request 1500m is above cpu_limit 1"),
        (
            {"defaults": {"memory_limit": "1Gi"}, "steps": {"train": {"shared_memory": "2Gi"}}},
            "steps.train, with defaults",
        ),
        ({"steps": {"train": {"gpus": -1}}}, "steps.train.gpus: expected greater than or equal to 0 (found -1)"),
        ("- a list", "expected a mapping of settings, found list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_names_the_field_and_what_is_allowed(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    assert message in str(caught.value)
    assert str(tmp_path / "values.yaml") in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_values(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("image", ["ctan:0.1.0", "registry.example.org:5000/team/ctan:v1.2-cuda", DIGEST])
def test_an_image_is_named_by_tag_or_digest(tmp_path: Path, image: str) -> None:
    assert load(tmp_path, {"image": image}).image == image


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Values()


def test_quantities_are_those_of_kubernetes() -> None:
    assert [num_cores(text) for text in ("2", "500m", "0.5", ".25")] == [2, 0.5, 0.5, 0.25]
    assert [num_bytes(text) for text in ("17", "3K", "3Ki", "8Gi", "2G")] == [17, 3000, 3072, 8 * 2**30, 2 * 10**9]


def test_only_files_for_gpus_ask_for_gpus_and_none_for_claims() -> None:
    """A pod with a GPU limit or a claim that the cluster does not have waits for ever; a new claim belongs to root."""
    settings = {path.stem: load_values(path) for path in INFRA.glob("*.yaml")}
    assert set(settings) == {"cpu", "gpu", "multi-node"}
    for name, values in settings.items():
        steps = [values.for_step(step) for step in ("ingest", *values.steps)]
        assert any(step.gpus for step in steps) == (name != "cpu"), name
        assert not any(step.claims for step in steps), name
        roots = {values.parameters.get("store_root", ""), values.parameters.get("checkpoint_root", "")}
        assert all(root.startswith("s3://") for root in roots) == (name != "cpu"), name


def test_what_fails_for_good_is_not_tried_again_and_no_later_try_is_stopped_early() -> None:
    for path in INFRA.glob("*.yaml"):
        values = load_values(path)
        tries = {step: values.for_step(step).retry for step in ("ingest", "train", *values.steps)}
        assert {step for step, retry in tries.items() if retry and retry.count == 0} == {"gate", "check", "promote"}
        assert all(retry and retry.backoff_max_duration is None for retry in tries.values())


def test_every_packaged_secret_is_optional_and_every_step_runs_without_root() -> None:
    for path in INFRA.glob("*.yaml"):
        values = load_values(path)
        for step in [values.for_step(name) for name in ("ingest", *values.steps)]:
            assert step.secrets, path
            assert all(source.optional for source in (*step.secrets, *step.config_maps)), path
            assert step.security_context is not None
            assert step.security_context.run_as_non_root, path


def test_every_credential_that_the_library_reads_reaches_the_steps_that_use_it_and_no_other() -> None:
    """Found by their names in the sources, so that the next one is noticed."""
    named = re.compile(r'"(CTAN_(?:\w*KEY\w*|\w*TOKEN|\w*USER|\w*PASSWORD|NOTIFY_(?:WEBHOOK|SMTP)|DVC_REMOTE))"')
    read = {name for path in (ROOT / "ctan").rglob("*.py") for name in named.findall(path.read_text("utf-8"))}
    assert {"CTAN_DEID_KEY", "CTAN_DICOMWEB_TOKEN", "CTAN_S3_SECRET_ACCESS_KEY", "CTAN_NOTIFY_SMTP"} <= read
    only_for_a_time = {"CTAN_S3_SESSION_TOKEN"}  # a secret that expires is the user's own to add
    for path in INFRA.glob("*.yaml"):
        values = load_values(path)
        reached = {
            step: {
                variable
                for source in (*values.for_step(step).secrets, *values.for_step(step).config_maps)
                for variable in source.keys.values()
            }
            for step in (path.parent.name for path in (ROOT / "components").glob("*/__init__.py"))
        }
        assert read - only_for_a_time <= set().union(*reached.values()), path
        assert {step for step, known in reached.items() if "CTAN_DEID_KEY" in known} == RAW_DATA, path
        assert {step for step, known in reached.items() if "CTAN_DICOMWEB_TOKEN" in known} == RAW_DATA, path
        assert all("CTAN_S3_SECRET_ACCESS_KEY" in known for known in reached.values())
