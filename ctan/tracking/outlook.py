"""What promotion will be able to decide, said before training: the champion, its data, and how many cases remain."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.cases import SPLIT_VALIDATION, DataSpec
from ctan.errors import ConfigError, DataError
from ctan.records import Grid, ModelRecord
from ctan.store.manifest import MANIFEST_FILE, SCHEMA, read_manifest
from ctan.tracking import registry
from ctan.tracking.lineage import SYNTHETIC, is_synthetic, lineage_tags
from ctan.tracking.reference import NotComparableError, download_model
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig


def outlook(manifest_dir: Path, config: RunConfig) -> list[str]:
    """Say what the gate will find, a sentence each.

    Args:
        manifest_dir: output of the validation.
        config: settings of the run, promotion switched on.

    Raises:
        ConfigError: when the champion can never be compared with what this run trains, and nobody has decided that a
            new line of models starts.
        TrackingError: when the registry cannot be used.
    """
    tags = lineage_tags(manifest_dir)
    name = config.name_of(tags.get(SYNTHETIC) == "true")
    uri = prepare()
    client = connect()
    spec = DataSpec.load(manifest_dir)
    rows = read_manifest(manifest_dir / MANIFEST_FILE, SCHEMA(spec)).select(["group_id", "split"]).to_pylist()
    groups = {row["group_id"] for row in rows if row["split"] == SPLIT_VALIDATION}
    with tracking_errors(uri, f"looking for the champion of {name}"):
        champion = registry.get_alias(client, name, registry.CHAMPION)
        if champion is None:
            said = [f"{name} has no champion yet"]
        elif is_synthetic(champion.tags) and not is_synthetic(tags):
            said = [f"the champion of {name}, version {champion.version}, learned from synthetic data, does not count"]
        else:
            said, groups = _against(champion, spec, groups, config)
    if len(groups) < config.promotion.min_cases:
        said.append(
            f"{len(groups)} evaluation cases are too few for a decision, {config.promotion.min_cases} are needed "
            f"(promotion.min_cases): the model will be registered, not promoted"
        )
    return said


def _against(champion: ModelVersion, spec: DataSpec, groups: set[str], config: RunConfig) -> tuple[list[str], set[str]]:
    """Return what is to be said of a champion, and the evaluation patients that it has not learned from."""
    named = f"the champion of {champion.name}, version {champion.version}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = ModelRecord.load(download_model(champion, Path(folder)))
        problem = _problem(record, spec, config)
    except NotComparableError as error:
        record, problem = None, str(error)
    if problem and not config.promotion.new_line:
        raise ConfigError(
            f"{named}, cannot be compared with what this run trains: {problem}. Choose another promotion.model_name, "
            f"or start a new line of models, judged by baselines alone, with promotion.new_line=true"
        )
    if problem or record is None:
        return [
            f"a new line of models starts, as promotion.new_line says: {named}, cannot be compared ({problem})"
        ], groups
    said, left = [f"{named}, is to be beaten"], groups
    if record.grid != Grid.of(config.preprocess):
        said.append(f"it works on a grid of {record.grid} and will be scored on that")
    if record.seen is not None:
        left = {group for group in groups if not record.seen.holds(group)}
        if len(left) < len(groups):
            said.append(
                f"it learned from {len(groups) - len(left)} of {len(groups)} evaluation cases, which do not count"
            )
    return said, left


def _problem(record: ModelRecord, spec: DataSpec, config: RunConfig) -> str:
    """Return why a model cannot be scored on data of this description; empty when it can."""
    from ctan.cases import check_same_spec

    try:
        check_same_spec(record.spec, spec, "these data", "")
    except DataError as error:
        return str(error).rstrip("; ")
    if record.grid != Grid.of(config.preprocess) and not spec.keeps_native:
        return f"it works on a grid of {record.grid}, and the store keeps no native images to bring to that"
    return ""
