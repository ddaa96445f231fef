"""The settings of a run: resolved once from a profile and parameters, then handed from step to step as YAML.

Errors name the field and what is allowed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ctan.config import PLANNED, PLANNED_FIELDS, RunConfig
from ctan.errors import ConfigError

PROFILES = ("smoke", "cpu", "gpu")
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
    if not path.parent.is_dir() or not any(path.parent.iterdir()):
        raise ConfigError(
            f"{path.parent}: the output of an earlier step is empty. On Kubeflow that step was taken from the cache, "
            "which does not look whether its files exist: somebody deleted them from the pipeline root. Run every step "
            "again with `ctan submit --no-cache`, or `cache: false` under `defaults:` of the values file"
        )
    config = config_from_yaml(path)
    return load_config(str(path), [*overrides, f"profile={json.dumps(config.profile)}"]) if overrides else config


def load_config(profile: str = "cpu", overrides: dict[str, Any] | list[str] | None = None) -> RunConfig:
    """Resolve a profile and overrides into settings.

    Args:
        profile: a packaged profile (`smoke`, `cpu`, `gpu`) or the path of a YAML file, which may name a packaged
            one to start from under the key `profile`.
        overrides: dotted fields and values, `{"training.epochs": 5}` or `["training.epochs=5"]` (values are YAML).

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    chosen = _parse_overrides(overrides)
    values = _read_profile(profile, chosen.get("data.dataset"))
    for field, value in chosen.items():
        _set(values, field, value)
    return _build(values, f"profile {profile!r}")


def config_from_yaml(path: Path) -> RunConfig:
    """Read settings that `RunConfig.to_yaml` wrote.

    Raises:
        ConfigError: when the file is missing, is not YAML or does not hold valid settings.
    """
    return _build(_read_yaml(path), str(path))


def config_from_text(text: str, where: str = "settings") -> RunConfig:
    """Read settings that `RunConfig.to_yaml` returned.

    Args:
        text: the settings.
        where: they come from, for messages.

    Raises:
        ConfigError: when the text is not YAML or does not hold valid settings.
    """
    return _build(_parse_yaml(text, where), where)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _read_profile(profile: str, dataset: Any = None) -> dict[str, Any]:
    """Return the values of a profile for a data set; packaged profiles have a section for each that differs."""
    if profile in PROFILES:
        text = resources.files("ctan").joinpath(f"profiles/{profile}.yaml").read_text(encoding="utf-8")
        values: dict[str, Any] = {"profile": profile, **(yaml.safe_load(text) or {})}
        sections = values.pop("datasets", {})
        return _merge(values, sections.get(dataset, {}))
    if not profile.endswith((".yaml", ".yml")):
        raise ConfigError(f"profile: unknown {profile!r}; allowed: {', '.join(PROFILES)}, or the path of a YAML file")
    values = _read_yaml(Path(profile))
    base, data = values.pop("profile", None), values.get("data")
    own = data.get("dataset") if isinstance(data, dict) else None
    start = _read_profile(base, dataset or own) if base in PROFILES else {}
    return _merge(start, values) | {"profile": Path(profile).stem}


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse_overrides(overrides: dict[str, Any] | list[str] | None) -> dict[str, Any]:
    if isinstance(overrides, dict):
        return overrides
    parsed: dict[str, Any] = {}
    for item in overrides or []:
        field, equals, text = item.partition("=")
        if not equals or not field.strip():
            raise ConfigError(f"override {item!r}: expected FIELD=VALUE, such as training.epochs=5")
        try:
            parsed[field.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {item!r}: the value is not valid YAML: {error}") from error
    return parsed


def _set(values: dict[str, Any], field: str, value: Any) -> None:
    *parents, last = field.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{field}: {parent} is not a group of settings")
    values[last] = value


def _build(values: dict[str, Any], where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(_without_planned(values))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error


def _without_planned(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is planned: a field that is not set."""
    sections = {section: [name for of, name in PLANNED_FIELDS if of == section] for section, _ in PLANNED_FIELDS}
    left = dict(values)
    for section, names in sections.items():
        if isinstance(values.get(section), dict):
            left[section] = {k: v for k, v in values[section].items() if v != PLANNED or k not in names}
    return left


def unknown_setting(field: str, known: list[str]) -> str:
    """Return the message for a setting that does not exist: the likely one, and all there are."""
    close = difflib.get_close_matches(field.rpartition(".")[2], known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{field}: unknown setting; {hint}allowed: {', '.join(known)}"


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_setting(field, _fields_beside(problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{field}: {message} (found {problem['input']!r})" if field else message


def _fields_beside(location: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
