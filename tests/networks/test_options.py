"""An architecture's own options: found under its name, refused when it has none such, recorded in full."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import pytest
from pydantic import Field

from ctan.config import NetworkConfig, NoOptions, Settings
from ctan.errors import ConfigError
from ctan.migrations import migrate_settings
from ctan.networks import Network, build_network, options_of, with_options
from ctan.networks.ctan import CTANOptions
from ctan.networks.mtan import MTANOptions
from ctan.settings import config_from_values, load_config
from tests.helpers.networks import CHANNELS, DENSE, small


def test_options_reach_the_architecture_and_no_other() -> None:
    config = load_config("smoke", ["network.options.ctan.ctae=false", "network.options.mtan.mask_down=pool"])
    assert config.network.options == {"ctan": {"ctae": False}, "mtan": {"mask_down": "pool"}}
    assert options_of("ctan", config.network) == CTANOptions(ctae=False)
    assert options_of("mtan", config.network) == MTANOptions(mask_down="pool")
    assert options_of("stl", config.network) == NoOptions()
    assert not hasattr(config.network, "ctae"), "what one architecture has is no setting of all"


def test_options_of_a_profile_and_of_the_command_are_merged(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("profile: smoke\nnetwork: {options: {ctan: {ctab: false}}}\n")
    config = load_config(str(tmp_path / "mine.yaml"), ["network.options.ctan.ctae_exchange=gate"])
    assert config.network.options == {"ctan": {"ctab": False, "ctae_exchange": "gate"}}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "network.options.ctan.ctae_exchnge=gate",
            ["network.options.ctan.ctae_exchnge: unknown setting", "did you mean 'ctae_exchange'?", "ctab_heads"],
        ),
        ("network.options.ctan.decoder_attention=true", ["network.options.ctan.decoder_attention", "ctae_residual"]),
        ("network.options.stl.keep=1", ["network.options.stl.keep: unknown setting; there are none here"]),
        ("network.options.ctan.ctae_exchange=swap", ["network.options.ctan.ctae_exchange: allowed: 'add', 'gate'"]),
        ("network.options.ctam.ctae=true", ["network.options: unknown 'ctam'", "did you mean", "allowed: ctan, hps"]),
        ("network.options.ctan=3", ["network.options.ctan: allowed: a valid dictionary (found 3)"]),
    ],
)
def test_a_wrong_option_is_an_error_that_names_the_field_and_what_is_allowed(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", [override])
    for part in parts:
        assert part in str(caught.value)


def test_no_architecture_is_imported_for_settings_that_set_no_option() -> None:
    code = (
        "import sys; from ctan.settings import load_config; "
        "load_config('smoke', ['architectures=[mtan,ctan]', 'network.options.ctan={{}}'{more}]); "
        "print('torch' in sys.modules)"
    )
    for more, imported in (("", "False"), (", 'network.options.ctan.ctae=false'", "True")):
        command = [sys.executable, "-c", code.format(more=more)]
        assert subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip() == imported


def test_settings_of_version_1_move_to_the_architectures_that_had_them() -> None:
    old = {
        "network": {
            "base_width": 8,
            "mask_reduction": 2,
            "mask_down": "stride",
            "decoder_attention": True,
            "ctae": True,
            "ctae_exchange": "gate",
            "ctab_heads": 4,
            "ctab_ffn": False,
        }
    }
    new = migrate_settings(old, "old.yaml")
    assert new == {
        "network": {
            "base_width": 8,
            "options": {
                "mtan": {"mask_reduction": 2, "decoder_attention": True},
                "ctan": {"mask_reduction": 2, "ctae_exchange": "gate"},
            },
        }
    }
    assert migrate_settings(new, "new.yaml") == new
    defaults = {"network": {"ctae": True, "ctab_pos": "none", "mask_down": "stride"}}
    assert migrate_settings(defaults, "old.yaml") == {"network": {"options": {}}}


def test_what_is_set_in_the_present_form_wins_over_the_old_one() -> None:
    values = {"network": {"ctae_exchange": "gate", "options": {"ctan": {"ctae_exchange": "none"}}}}
    assert config_from_values(values, "mixed.yaml").network.options == {"ctan": {"ctae_exchange": "none"}}


def test_an_old_field_on_the_command_line_still_works_and_a_wrong_value_names_the_present_one() -> None:
    assert load_config("smoke", ["network.ctae=false"]).network.options == {"ctan": {"ctae": False}}
    with pytest.raises(ConfigError, match=r"network\.options\.ctan\.ctae_exchange: allowed: 'add'.* \(found 'swap'\)"):
        load_config("smoke", ["network.ctae_exchange=swap"])


def test_options_are_recorded_in_full_for_the_one_architecture() -> None:
    recorded = with_options("ctan", small(ctae_exchange="gate", decoder_attention=True)).options
    assert recorded == {"ctan": CTANOptions(ctae_exchange="gate", ctab_heads=2).model_dump(mode="json")}
    assert set(recorded["ctan"]) == set(CTANOptions.model_fields)
    assert with_options("hps", small()).options == {}


def test_a_built_network_has_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_network("ctan", DENSE, CHANNELS, small(ctab=False)).options == CTANOptions(ctab=False, ctab_heads=2)
    assert build_network("hps", DENSE, CHANNELS, small()).options == NoOptions()
    config = NetworkConfig(num_stages=2, base_width=4, options={"ctan": {"ctab_haeds": 2}})
    with pytest.raises(ConfigError, match=r"network\.options\.ctan\.ctab_haeds: unknown setting; did you mean"):
        build_network("ctan", DENSE, CHANNELS, config)


def test_an_architecture_without_options_says_so_by_saying_nothing() -> None:
    class Plain(Network):
        pass

    class Own(Settings):
        width: int = Field(3, ge=1)

    class Fancy(Network):
        Options: ClassVar[type[Settings]] = Own

    config = small()
    assert Plain(DENSE, CHANNELS, config).options == NoOptions()
    assert Fancy(DENSE, CHANNELS, config).options == Own()
    assert Fancy(DENSE, CHANNELS, config, Own(width=5)).options == Own(width=5)
