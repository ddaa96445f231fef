"""A registered version trained again from its raw files: with its threads and precision, and what differs is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ctan import steps
from ctan.records import ModelRecord
from ctan.reproduce import reproduce
from ctan.settings import load_config
from ctan.tracking.lineage import lineage_tags
from ctan.tracking.runs import find_logged_model
from ctan.tracking.server import connect
from tests.helpers.small import SMALL

pytestmark = pytest.mark.slow
SOURCE, NAME = "phantom:train=4,validation=1,seed=3", "ctan-tiny"
CTAN = str(Path(sys.executable).with_name("ctan"))


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[ModelRecord]:
    """A version that was trained with three threads and in bf16, which the machine would not choose by itself."""
    config = load_config("smoke", [*SMALL, "training.epochs=1", "training.precision=bf16"])
    _, settings, origin = steps.resolve(SOURCE, config, "")
    places = [str(tmp_path / name) for name in ("manifest", "validated", "pointer.json", "model")]
    steps.ingest(settings, origin, places[0], num_workers=0)
    steps.validate(places[0], places[1], str(tmp_path / "page.html"))
    steps.preprocess(SOURCE, places[1], places[2], num_workers=1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    steps.train(places[2], places[1], "stl", 0, 0, places[3])
    torch.set_num_threads(1)
    record = ModelRecord.load(tmp_path / "model")
    client: Any = connect()
    client.create_registered_model(NAME)
    model = find_logged_model(client, client.get_run(record.run_id))
    client.create_model_version(NAME, f"models:/{model}", record.run_id, tags=lineage_tags(places[1]))
    yield record
    torch.set_num_threads(before)


def test_threads_and_precision_are_those_of_then_and_what_cannot_be_is_named(registered: ModelRecord) -> None:
    """Before: "134 tensors differ", and not why."""
    assert registered.machine.keys() == {"threads", "instructions", "processor", "torch"}
    assert (registered.machine["threads"], registered.precision) == ("3", "bf16")

    again = reproduce(f"models:/{NAME}/1")
    assert again.same_weights, str(again)
    assert (again.num_differing, again.remarks) == (0, ())
    new = ModelRecord.load(again.folder)
    assert (new.machine, new.precision) == (registered.machine, "bf16")
    assert torch.get_num_threads() == 1

    # The same machine with an older processor's instructions: cannot be set back, so it is named.
    said = subprocess.run(
        [CTAN, "reproduce", f"models:/{NAME}/1"],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    same = "the same weights, byte by byte" in said.stdout
    assert said.returncode == (0 if same else 1), said.stderr
    assert f"instructions was {registered.machine['instructions']}, is now " in said.stdout
    assert "threads was" not in said.stdout
    assert "precision was" not in said.stdout
