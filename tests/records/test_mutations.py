"""What we wrote is checked when we read it: a changed file is refused by name, or says the very same."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import CtanError
from ctan.inference import load_network
from ctan.records import ComparisonRecord, EvaluationRecord, ModelRecord, Record
from tests.helpers.mutation import mutated
from tests.helpers.records import model_record
from tests.helpers.tracking import TASKS, small_config, write_model

COMPARISON_0_1 = Path(__file__).parents[1] / "data" / "comparisons" / "0.1"
NUMBER = int(os.environ.get("CTAN_MUTATIONS", "150"))  # 2,000 in `make test-hard`


def write_record(kind: type[Record], folder: Path) -> Record:
    if kind is ModelRecord:
        config: RunConfig = small_config()
        record: Record = model_record("ctan", get_dataset("openkbp").spec, TASKS, config, run_id="r" * 32)
    elif kind is EvaluationRecord:
        scores = {"tuning": {"dose": {"dose_score": 3.25, "dvh_score": None}}}
        record = EvaluationRecord(scores=scores, num_cases={"tuning": 2}, seconds=1.5, store_key="k")
    else:
        record = ComparisonRecord.load(COMPARISON_0_1)
    record.save(folder)
    return kind.load(folder)


@pytest.mark.parametrize("kind", [ModelRecord, EvaluationRecord, ComparisonRecord])
def test_no_mutation_of_a_record_is_read_with_other_numbers(kind: type[Record], tmp_path: Path) -> None:
    """Before, a changed digit in `model.json` or `summary.json` was taken for the truth."""
    rng = random.Random(0)
    written = write_record(kind, tmp_path).to_json()
    path = tmp_path / kind.file
    content, refused = path.read_bytes(), 0
    for number in range(NUMBER):
        path.write_bytes(mutated(content, rng))
        try:
            found = kind.load(tmp_path).to_json()
        except CtanError as error:
            refused += kind.file in str(error)
        else:
            assert found == written, number
    assert refused > NUMBER / 2, "each by the name of the file"


def test_no_mutation_of_weights_is_loaded(tmp_path: Path) -> None:
    """Before, a flipped bit in a weight gave other predictions without a word."""
    rng = random.Random(0)
    path = write_model(tmp_path, small_config()) / "model.safetensors"
    content = path.read_bytes()
    load_network(tmp_path)
    for _ in range(min(NUMBER, 400)):
        path.write_bytes(mutated(content, rng))
        if path.read_bytes() != content:
            with pytest.raises(CtanError, match=r"model\.safetensors: not the file that model\.json was written with"):
                load_network(tmp_path)
