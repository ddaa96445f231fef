"""Several settings of one architecture in one run, from the plan to what promotion reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.evaluation import compare, evaluate
from ctan.evaluation.cases import read_cases
from ctan.intake.planning import plan
from ctan.records import ModelRecord
from ctan.records.comparison import Choice
from ctan.report import write_report
from ctan.settings import load_config, of_training
from ctan.store import StorePointer
from ctan.tracking.comparison import read_comparison
from ctan.tracking.runs import run_name
from ctan.variants import architecture_of, variant_of
from tests.helpers.evaluation import write_network

ITEM = "ctan network.options.ctan.ctab=false"


def test_an_item_of_the_plan_says_what_its_training_has_other() -> None:
    config = load_config("smoke", {"architectures": ["ctan", ITEM, "ctan training.epochs=3  network.base_width=8"]})
    items = [item["arch"] for item in plan(config)]
    assert items == ["ctan", ITEM, "ctan training.epochs=3 network.base_width=8"]
    settings = [of_training(config, item) for item in items]
    assert [one.variant for one in settings] == ["", "ctab=false", "epochs=3, base_width=8"]
    assert settings[0] == config
    assert settings[1].network.options == {"ctan": {"ctab": False}}
    assert (settings[2].training.epochs, settings[2].network.base_width) == (3, 8)
    assert run_name(settings[1], "ctan", 0, 0) == "ctan, ctab=false"
    assert len({one.hash() for one in settings}) == 3


def test_equal_last_parts_of_fields_are_written_in_full() -> None:
    item = "stl network.options.mtan.mask_down=stride network.options.ctan.mask_down=pool training.epochs=2"
    assert variant_of(item) == ("network.options.mtan.mask_down=stride, network.options.ctan.mask_down=pool, epochs=2")
    assert architecture_of(item) == "stl"


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("ctan evaluation.hd95=true", "expected FIELD=VALUE of network., training., data.inputs"),
        ("ctan training.epochs", "expected FIELD=VALUE of"),
        ("nothing training.epochs=3", "unknown 'nothing'"),
        ("ctan training.epoch=3", "did you mean 'epochs'"),
        ("ctan training.epochs=30", "changes nothing, these are the settings of the run"),
        ("ctan network.options.ctan.nope=1", "network.options.ctan.nope: unknown setting"),
    ],
)
def test_what_cannot_differ_is_refused_before_anything_is_read(item: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config("smoke", {"architectures": ["ctan", item]})


def test_trainings_with_other_settings_stand_apart_and_can_be_chosen(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    models, folders = [], []
    for number, item in enumerate(("ctan", ITEM)):
        config = of_training(tiny_config, item)
        # both have fold 0 and seed 0; weights of 0 everywhere are the worse network
        model = write_network(
            tmp_path / f"model-{number}", tiny_pointer, config, fill=None if number else 0.0, variant=config.variant
        )
        models.append(model)
        folders.append(tmp_path / f"evaluation-{number}")
        evaluate(tiny_pointer, model, folders[-1], config)
    assert set(read_cases(folders[1] / "cases.parquet")["arch"].to_pylist()) == {"ctan, ctab=false"}
    found = compare(tiny_pointer, folders, tmp_path / "comparison", tiny_config)
    assert [entry.arch for entry in found.architectures] == ["ctan", "ctan, ctab=false"]
    assert found.architectures[1].relative_improvement["evaluation"]
    write_report(found, folders, tmp_path / "report.html")
    assert "CTAN, ctab=false" in (tmp_path / "report.html").read_text(encoding="utf-8")
    candidate = read_comparison(tmp_path / "comparison", models, tiny_pointer).candidate
    assert candidate.arch == found.best.arch
    assert candidate.record == ModelRecord.load(models[found.best.model_index])
    assert candidate.record.arch == "ctan"
    assert set(candidate.cases["arch"].to_pylist()) == {found.best.arch}


def test_an_ensemble_is_of_no_single_fold() -> None:
    given = {"fold": 1, "seed": 2, "model_index": 0, "reason": "it is best"}
    assert Choice(arch="ctan", **given).title == "ctan, fold 1, seed 2"
    assert Choice(arch="ctan, ensemble of 2", **given).title == "ctan, ensemble of 2"
