"""The search as a pipeline, run by kfp here: every step a process, every trial a training; run again it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp")

from ctan.pipelines_client import run_local
from ctan.settings import load_config
from tests.helpers.compiled import TUNE
from tests.helpers.small import SMALL

pytestmark = pytest.mark.slow

PARAMETERS: dict[str, Any] = {
    "source": "phantom:train=4,validation=1,seed=0",
    "arch": "hps",
    "search": ["training.learning_rate=1e-4..1e-2"],
    "overrides": [*SMALL, "training.epochs=1"],
}


def search(root: Path, trials: int) -> tuple[Path, str]:
    """Return the profile that a run ends with, and what its steps printed."""
    given = PARAMETERS | {"trials": trials, "store_root": str(root), "checkpoint_root": str(root / "checkpoints")}
    result = run_local(given, TUNE, show=lambda _: None)
    (profile,) = (path for path in result.run_dir.glob("**/tune/tuned") if path.is_file())
    return profile, (result.run_dir / "run.log").read_text()


def test_the_pipeline_ends_with_a_profile_and_run_again_goes_on(tmp_path: Path, own_workspace: Path) -> None:
    _, said = search(tmp_path, trials=1)
    assert "1 trials" in said
    profile, said = search(tmp_path, trials=2)
    assert "2 trials" in said
    assert "trial 2 of 2" in said
    assert "trial 1 of 2" not in said, "done before"
    profile.with_suffix(".yaml").write_bytes(profile.read_bytes())
    config = load_config(str(profile.with_suffix(".yaml")))
    assert config.training.epochs == 1
    assert 1e-4 <= config.training.learning_rate <= 1e-2
    (study,) = (tmp_path / "checkpoints" / "tuning").iterdir()
    assert [path.name for path in study.iterdir()] == ["study.journal"], "checkpoints of trials that ended are gone"
