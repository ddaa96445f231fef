"""Records are written as JSON, read back as they were, and refused by name when they are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.files import sha256_of_json
from ctan.records import ComparisonRecord, EvaluationRecord, Interval, ModelEntry, ModelRecord, Record
from ctan.settings import load_config
from ctan.tasks import tasks_of
from tests.helpers.records import model_record

COMPARISON_0_1 = Path(__file__).parents[1] / "data" / "comparisons" / "0.1"


@pytest.fixture(scope="module")
def model() -> ModelRecord:
    spec = get_dataset("prostate").spec
    settings = {"data.dataset": "prostate", "training.precision": "bf16", "network.options.ctan.ctab": False}
    return model_record("ctan", spec, tasks_of(spec), load_config("smoke", settings), seed=3)


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_model_is_read_back_as_it_was_written(model: ModelRecord, tmp_path: Path) -> None:
    model.save(tmp_path)
    written = strict((tmp_path / "model.json").read_text())
    assert strict(json.dumps(ModelRecord.load(tmp_path).to_json())) == {n: written[n] for n in written if n != "sha256"}
    assert written["format_version"] == 4
    assert (model.compute_precision, model.dataset, model.grid.shape) == ("bf16", "prostate", (48, 64, 48))
    assert written["network"]["options"]["ctan"]["ctab"] is False
    assert "ctae_exchange" in written["network"]["options"]["ctan"], "options that were not set are recorded too"


def test_the_order_of_settings_survives(model: ModelRecord, tmp_path: Path) -> None:
    """Masks are in the order of the structures in the settings: sorted names would train another network again."""
    structures = {"Rectum": ["r"], "Bladder": ["b"], "PTV": ["p"]}
    config = {"data": {"options": {"structures": structures}}}
    model.model_copy(update={"config": config}).save(tmp_path)
    assert list(ModelRecord.load(tmp_path).config["data"]["options"]["structures"]) == ["Rectum", "Bladder", "PTV"]


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    infinite = {"dose": {"dose_score": float("inf"), "dvh_score": float("nan"), "other": 1.5}}
    record = EvaluationRecord(scores={"tuning": infinite}, num_cases={"tuning": 2}, seconds=1.0, store_key="k")
    record.save(tmp_path)
    expected = {"tuning": {"dose": {"dose_score": None, "dvh_score": None, "other": 1.5}}}
    assert strict((tmp_path / "summary.json").read_text())["scores"] == expected
    assert EvaluationRecord.load(tmp_path) == record
    assert Interval(value=float("-inf"), low=1.0) == Interval(value=None, low=1.0, high=None)


def test_an_entry_of_a_comparison_holds_what_the_model_cost(model: ModelRecord) -> None:
    entry = ModelEntry.of(model, {"tuning": {"dose": {"dose_score": 3.0}}})
    for name in set(ModelEntry.model_fields) - {"scores"}:
        assert getattr(entry, name) == getattr(model, name)
    assert entry.scores == {"tuning": {"dose": {"dose_score": 3.0}}}


def test_a_comparison_of_release_0_1_is_read_and_means_the_same() -> None:
    content = json.loads((COMPARISON_0_1 / "comparison.json").read_text())
    assert "format_version" not in content
    record = ComparisonRecord.load(COMPARISON_0_1)
    assert record.architectures[0].scores["evaluation"]["dose"]["dose_score"].patients is None
    read = json.loads(json.dumps(record.to_json()).replace(', "patients": null', ""))
    assert read == content | {"format_version": 1, "tasks": [], "files": {}, "subgroups": []}
    assert record.best_model.arch == record.best.arch == content["best"]["arch"]
    assert sha256_of_json(content) == "734715f41d5347b952a981cf4fdb245bedbb093b0d096050cb5b3f3c171cd651", (
        "what names a decision in the ledger stays"
    )


@pytest.mark.parametrize("record", [ModelRecord, EvaluationRecord, ComparisonRecord])
def test_what_cannot_be_read_is_named_with_what_to_do(record: type[Record], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"nowhere: no such folder; {record.advice}"):
        record.load(tmp_path / "nowhere")
    path = tmp_path / record.file
    for content, reason in (
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[]", f"expected {record.what}, found list"),
        (f'{{"format_version": {record.version}}}', f"not {record.what}: lacks "),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError) as caught:
            record.load(tmp_path)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert str(caught.value).endswith(record.advice)
    for version in (record.version + 1, 0, "2"):
        path.write_text(json.dumps({"format_version": version}))
        with pytest.raises(DataError, match=r"this ctan reads 1 to .; use the ctan that wrote it"):
            record.load(tmp_path)
