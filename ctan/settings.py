"""The settings of a run: resolved once from a profile and parameters, then handed from step to step as YAML.

Errors name the field and what is allowed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ctan import plugins
from ctan.cases import DataSpec
from ctan.cases.sides import unpaired
from ctan.config import PLANNED, PLANNED_FIELDS, DataConfig, NetworkConfig, RunConfig, Settings
from ctan.config_errors import explain
from ctan.datasets import get_dataset, is_described_by_source, naming_another
from ctan.errors import ConfigError
from ctan.goals import Goal
from ctan.migrations import migrate_settings
from ctan.parameters import DEFAULT_PROFILE, PROFILES, overrides_of
from ctan.seals import check_folder
from ctan.variants import architecture_of, changes_of, name_of, variant_of

CONFIG_FILE = "config.yaml"
# Sections that decide manifest and store, with the settings among them that a later step may change.
_AFTER_INGESTION = {"data": ("inputs", "signed_distance", "reading"), "preprocess": ()}


def resolve_config(profile: str = DEFAULT_PROFILE, **parameters: Any) -> RunConfig:
    """Resolve a profile and the pipeline's parameters into settings; an empty value or 0 leaves the profile's.

    Args:
        profile: a packaged profile or the path of a YAML file.
        parameters: those of `ctan.parameters`; `overrides` win over all others, `source` is for data sets that are
            described by their source.

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    return load_config(profile, overrides_of(parameters), str(parameters.get("source") or ""))


def read_config(manifest_dir: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings that ingestion wrote beside a manifest.

    Args:
        manifest_dir: output of ingestion or validation.
        overrides: `FIELD=VALUE` to change for one step.

    Raises:
        ConfigError: when the file is missing or does not hold valid settings, or a step would change what decided the
            manifest and the store, which it would then take for something else than they are.
        DataError: when any file beside the manifest was changed after it was written.
    """
    path = Path(manifest_dir) / CONFIG_FILE
    if not path.parent.is_dir() or not any(path.parent.iterdir()):
        raise ConfigError(
            f"{path.parent}: the output of an earlier step is empty. On Kubeflow that step was taken from the cache, "
            "which does not look whether its files exist: somebody deleted them from the pipeline root. Run every step "
            "again with `ctan submit --no-cache`, or `cache: false` under `defaults:` of the values file"
        )
    check_folder(path.parent)
    config = config_from_yaml(path)
    if not overrides:
        return config
    changed = load_config(str(path), [*overrides, f"profile={json.dumps(config.profile)}"])
    _check_decided(config, changed)
    return changed


def load_config(
    profile: str = "cpu", overrides: dict[str, Any] | list[str] | None = None, source: str = ""
) -> RunConfig:
    """Resolve a profile and overrides into settings.

    A packaged profile comes first, then its part for pictures or volumes, then what the data set says of the profile,
    then a file of one's own, then the overrides.

    Args:
        profile: a packaged profile (`smoke`, `cpu`, `gpu`) or the path of a YAML file, which may name a packaged
            one to start from under the key `profile`.
        overrides: dotted fields and values, `{"training.epochs": 5}` or `["training.epochs=5"]` (values are YAML).
        source: of raw files; opened only for a data set that its source describes (`Dataset.options_from`).

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    where, chosen = f"profile {profile!r}", dict(_parse_overrides(overrides))
    own = migrate_settings(_own_values(profile), where)
    chosen |= _options_of_source(_with(own, chosen).get("data"), source)
    base = profile if profile in PROFILES else own.get("profile")
    own["profile"] = profile if profile in PROFILES else Path(profile).stem
    if base in PROFILES:
        data = {field: value for field, value in chosen.items() if field.partition(".")[0] == "data"}
        own = _merge(_profile_values(base, _with(own, data), where), own)
    return _build(_with(own, chosen), where)


def _options_of_source(data: Any, source: str) -> dict[str, Any]:
    """Return the field `data.options` as the source makes it; nothing for data sets that it does not describe.

    Args:
        data: section of the settings, as far as it is given.
        source: of raw files; empty for none.
    """
    name = data.get("dataset") if isinstance(data, dict) else None
    if not source or not isinstance(name, str) or not is_described_by_source(name):
        return {}
    from ctan.sources import open_source

    dataset = get_dataset(name)
    with open_source(source, dataset) as folder, naming_another(name, folder):
        return {"data.options": dataset.options_from(folder, data.get("options") or {})}


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


def config_from_values(values: Mapping[str, Any], where: str) -> RunConfig:
    """Return settings that were recorded as plain values, maybe by an earlier ctan.

    Args:
        values: what `RunConfig.model_dump` returned.
        where: they come from, for messages.

    Raises:
        ConfigError: when they are not settings that this ctan knows.
    """
    return _build(dict(values), where)


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str], where: str) -> RunConfig:
    """Return settings that were recorded as plain values, some of them changed.

    Args:
        values: what `RunConfig.model_dump` returned, maybe in an earlier ctan.
        overrides: `FIELD=VALUE`.
        where: they come from, for messages.

    Raises:
        ConfigError: naming the field and what is allowed.
    """
    return _build(_with(migrate_settings(dict(values), where), _parse_overrides(list(overrides))), where)


def of_training(config: RunConfig, item: str) -> RunConfig:
    """Return the settings of an item of `architectures`, see `ctan.variants`.

    Raises:
        ConfigError: when it changes nothing, or to what is not allowed.
    """
    changes, where = changes_of(item), f"architectures: {item!r}"
    if not changes:
        return config
    alone = config.model_copy(update={"architectures": (architecture_of(item),)})
    changed = with_overrides(alone.model_dump(mode="json", exclude_unset=True), changes, where)
    if changed == alone:
        raise ConfigError(f"{where}: changes nothing, these are the settings of the run")
    return changed.model_copy(update={"variant": variant_of(item)})


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


def _own_values(profile: str) -> dict[str, Any]:
    """Return what a settings file says; nothing for a packaged profile."""
    if profile in PROFILES:
        return {}
    if not profile.endswith((".yaml", ".yml")):
        raise ConfigError(f"profile: unknown {profile!r}; allowed: {', '.join(PROFILES)}, or the path of a YAML file")
    return _read_yaml(Path(profile))


def _profile_values(profile: str, own: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a packaged profile for the data set that the settings name.

    One that is `like` another sets some of its values otherwise, those of the data set too.
    """
    text = resources.files("ctan").joinpath(f"profiles/{profile}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text) or {}
    like = values.pop("like", "")
    base = _profile_values(like, own, where) if like else {}
    of_dims = {2: values.pop("pictures", {}), 3: values.pop("volumes", {})}
    own_data = migrate_settings(own, where).get("data") or {}
    data = _validated(DataConfig, _merge(_merge(base, values).get("data", {}), own_data), where, "data")
    dataset = get_dataset(data)
    dims = dataset.spec.spatial_dims
    of_dataset = _merge(dict(dataset.profiles.get("*", {})), dict(dataset.profiles.get(profile, {})))
    values = _merge(_merge(base, values), {"network": {"spatial_dims": dims}})
    return _merge(_merge(values, of_dims[dims]), of_dataset)


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


def _with(values: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return settings with single fields replaced."""
    changed = copy.deepcopy(values)
    for field, value in chosen.items():
        _set(changed, field, value)
    return changed


def _set(values: dict[str, Any], field: str, value: Any) -> None:
    *parents, last = field.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{field}: {parent} is not a group of settings")
    values[last] = value


def _build(values: dict[str, Any], where: str) -> RunConfig:
    config = _validated(RunConfig, _without_planned(migrate_settings(values, where)), where)
    spec = get_dataset(config.data).spec
    _check_sides(spec, config, where)
    _check_goals(spec, config, where)
    _check_options(config.network)
    _check_variants(config)
    return config


def _check_variants(config: RunConfig) -> None:
    """Refuse what differs between architectures before anything is read."""
    names = [name_of(architecture_of(item), variant_of(item)) for item in config.architectures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"architectures: {', '.join(twice)} stands there twice")
    for item in config.architectures:
        if changes_of(item):
            of_training(config, item)


def _check_decided(written: RunConfig, changed: RunConfig) -> None:
    """Refuse settings of one step that differ in what ingestion and packing were done with."""
    for section, still_open in _AFTER_INGESTION.items():
        before, after = (getattr(config, section).model_dump(mode="json") for config in (written, changed))
        if differing := [name for name in after if after[name] != before[name] and name not in still_open]:
            fields = ", ".join(f"{section}.{name}" for name in differing)
            raise ConfigError(
                f"--set {fields}: decides what manifest and store hold, and these are made already; ingest and pack "
                f"with it (`ctan data ingest`, validate, preprocess), or start a run with it"
            )


def _check_sides(spec: DataSpec, config: RunConfig, where: str) -> None:
    """Refuse flips that would exchange the labels of left and right structures."""
    flips = config.training.flip_probability > 0 or config.evaluation.test_time_flip
    if flips and (alone := unpaired(spec)):
        raise ConfigError(
            f"{where}: mirrored_pairs: {', '.join(alone)} of one side without a partner: flips would exchange the "
            f"labels of left and right; add the pair (left, right) where the data are described "
            f"(data.options.mirrored_pairs), or set training.flip_probability to 0 and evaluation.test_time_flip to "
            f"false"
        )


def _check_goals(spec: DataSpec, config: RunConfig, where: str) -> None:
    """Refuse clinical goals of structures that the data do not have: nobody would miss their rows."""
    goals = [Goal.parse(goal) for goal in config.evaluation.clinical_goals]
    unknown = [str(goal) for goal in goals if goal.structure not in spec.structures]
    if goals and not spec.has_dose:
        raise ConfigError(f"{where}: evaluation.clinical_goals: the data set {spec.dataset} has no dose")
    if unknown:
        raise ConfigError(
            f"{where}: evaluation.clinical_goals: no such structure in {', '.join(map(repr, unknown))}; the data set "
            f"{spec.dataset} has {', '.join(spec.structures)}"
        )


def _check_options(network: NetworkConfig) -> None:
    """See that architectures have the options that are set; importing one imports torch, which takes seconds."""
    for arch, options in network.options.items():
        plugins.check(plugins.NETWORKS, arch, "network.options")
        if options:
            from ctan.networks import options_of

            options_of(arch, network)


_Model = TypeVar("_Model", bound=Settings)


def _validated(model: type[_Model], values: dict[str, Any], where: str, prefix: str = "") -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model, prefix)}") from error


def _without_planned(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is planned: a field that is not set."""
    sections = {section: [name for of, name in PLANNED_FIELDS if of == section] for section, _ in PLANNED_FIELDS}
    left = dict(values)
    for section, names in sections.items():
        if isinstance(values.get(section), dict):
            left[section] = {k: v for k, v in values[section].items() if v != PLANNED or k not in names}
    return left
