"""The settings of a run: resolved once from a profile and parameters, then handed from step to step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctan.config import RunConfig, config_from_yaml, load_config

DEFAULT_PROFILE = "smoke"
CONFIG_FILE = "config.yaml"


def resolve_config(
    profile: str = DEFAULT_PROFILE,
    *,
    dataset: str = "",
    architectures: Sequence[str] = (),
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (),
    epochs: int = 0,
    batch_size: int = 0,
    learning_rate: float = 0.0,
    task_weighting: str = "",
    inputs: str = "",
    max_train_cases: int = 0,
    max_evaluation_cases: int = 0,
    model_name: str = "",
    promote: bool = True,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Resolve a profile and the pipeline's parameters into settings; an empty value or 0 leaves the profile's.

    Args:
        profile: a packaged profile or the path of a YAML file.
        promote: False turns promotion off; True leaves what the profile says.
        overrides: `FIELD=VALUE`; they win over all others.

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    values: dict[str, Any] = {
        "data.dataset": dataset,
        "architectures": list(architectures),
        "folds": list(folds),
        "seeds": list(seeds),
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.task_weighting": task_weighting,
        "data.inputs": inputs,
        "data.max_train_cases": max_train_cases,
        "data.max_evaluation_cases": max_evaluation_cases,
        "promotion.model_name": model_name,
    }
    chosen = {field: value for field, value in values.items() if value}
    if not promote:
        chosen["promotion.enabled"] = False
    return load_config(profile, [f"{field}={json.dumps(value)}" for field, value in chosen.items()] + list(overrides))


def read_config(manifest_dir: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings that ingestion wrote beside a manifest.

    Args:
        manifest_dir: output of ingestion or validation.
        overrides: `FIELD=VALUE` to change for one step.

    Raises:
        ConfigError: when the file is missing or does not hold valid settings.
    """
    path = Path(manifest_dir) / CONFIG_FILE
    config = config_from_yaml(path)
    return load_config(str(path), [*overrides, f"profile={json.dumps(config.profile)}"]) if overrides else config
