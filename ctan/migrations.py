"""Settings of earlier versions, brought to the present form.

A file of settings says its `schema_version`; one without any may be of the first version or written today: each
migration changes only what it finds in the old form.
"""

from __future__ import annotations

from typing import Any

from ctan.config import SETTINGS_VERSION
from ctan.errors import ConfigError


def migrate_settings(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return settings in the present form.

    Args:
        values: as read from YAML or JSON.
        where: they come from, for messages.

    Raises:
        ConfigError: when they were written by a later ctan.
    """
    version = values.get("schema_version", 1)
    if not isinstance(version, int) or not 1 <= version <= SETTINGS_VERSION:
        raise ConfigError(
            f"{where}: schema_version {version!r}; this ctan reads 1 to {SETTINGS_VERSION}, use the ctan that wrote it"
        )
    return _dicom_to_options({name: value for name, value in values.items() if name != "schema_version"})


def _dicom_to_options(values: dict[str, Any]) -> dict[str, Any]:
    """`data.dicom` (version 1) held the settings of one data set, whichever was used: now `data.options`."""
    data = values.get("data")
    if not isinstance(data, dict) or "dicom" not in data:
        return values
    left = {name: value for name, value in data.items() if name != "dicom"}
    if left.get("dataset") == "prostate" and isinstance(data["dicom"], dict):
        left["options"] = {**data["dicom"], **left.get("options", {})}
    return {**values, "data": left}
