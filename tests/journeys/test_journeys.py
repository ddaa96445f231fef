"""Data sets go from phantoms in their raw format to a registered model; OpenKBP does in test_retrain_journey.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = {
    "prostate": "phantom:train=6,validation=2,seed=0",
    "ham10000": "phantom:train=24,validation=8,seed=0",
    "stoic": "phantom:train=12,validation=4,seed=0",
}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SOURCES)
def test_a_data_set_goes_from_raw_files_to_a_registered_model(dataset: str, own_workspace: Path) -> None:
    command = [str(Path(sys.executable).with_name("ctan")), "run", "--source", SOURCES[dataset], "--dataset", dataset]
    command += ["--promote", "--profile", "smoke", "--epochs", "1", "--arch", "stl", "--arch", "ctan"]
    environment = os.environ | {"CTAN_DEID_KEY": "a key for the tests alone, 32 letters"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    (run_dir,) = (own_workspace / "runs").iterdir()
    comparison = json.loads((run_dir / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["dataset"] == dataset
    assert [entry["arch"] for entry in comparison["architectures"]] == ["stl", "ctan"]
    for entry in comparison["architectures"]:
        assert all(score["value"] >= 0 for task in entry["scores"]["evaluation"].values() for score in task.values())
    decision = json.loads((run_dir / "decision.json").read_text(encoding="utf-8"))
    assert (decision["model_name"], bool(decision["version"])) == (f"ctan-{dataset}-phantom", True)
    assert "cases are too few for a decision, 10 are needed" in decision["reason"]
    for page in ("report.html", "validation.html", "contact-sheet.html"):
        text = (run_dir / page).read_text(encoding="utf-8")
        assert "<img" in text
        assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing is loaded from anywhere
