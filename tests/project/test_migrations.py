"""Settings of earlier versions still load, and those of a later ctan are refused by their version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ctan.config import SETTINGS_VERSION
from ctan.datasets import get_dataset
from ctan.errors import ConfigError
from ctan.settings import config_from_yaml, load_config

BREAST = """
profile: smoke
data:
  dataset: prostate
  dicom:
    structures: {Heart: [heart], PTV: ['ptv.*']}
    targets: [PTV]
    mirrored_pairs: []
"""


def test_the_name_map_of_a_settings_file_of_version_1_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "breast.yaml"
    path.write_text(BREAST, encoding="utf-8")
    config = load_config(str(path))
    assert get_dataset(config.data).spec.structures == ("Heart", "PTV")
    assert config.schema_version == SETTINGS_VERSION


def test_an_override_of_version_1_still_reaches_its_setting(tmp_path: Path) -> None:
    (tmp_path / "breast.yaml").write_text(BREAST, encoding="utf-8")
    config = load_config(str(tmp_path / "breast.yaml"), ["data.dicom.sum_beams=true"])
    options = get_dataset(config.data).options.model_dump()
    assert options["sum_beams"] is True
    assert list(options["structures"]) == ["Heart", "PTV"]


def test_settings_that_version_1_wrote_in_full_are_read(tmp_path: Path) -> None:
    """Version 1 wrote the settings of planning data and of all architectures into every file."""
    path = tmp_path / "config.yaml"
    values = yaml.safe_load(load_config("smoke", {"data.dataset": "ham10000"}).to_yaml())
    del values["schema_version"], values["data"]["options"], values["network"]["options"]
    values["data"]["dicom"] = {"structures": {"Prostate": ["prostate"]}, "targets": ["PTV"]}
    values["network"] |= {"mask_reduction": 4, "ctae": True, "ctae_exchange": "gate", "ctab_heads": 4}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    config = config_from_yaml(path)
    assert config.data.options == {}
    assert config.network.options["ctan"] == {"ctae_exchange": "gate"}


@pytest.mark.parametrize("version", [SETTINGS_VERSION + 1, 0, "two"])
def test_settings_of_a_later_ctan_are_refused_by_their_version(version: object, tmp_path: Path) -> None:
    path = tmp_path / "later.yaml"
    path.write_text(yaml.safe_dump({"schema_version": version, "profile": "smoke"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"schema_version {version!r}; this ctan reads 1 to {SETTINGS_VERSION}"):
        load_config(str(path))
