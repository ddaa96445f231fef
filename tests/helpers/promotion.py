"""A workspace in which models are trained, compared and promoted, with real databases and models.

A module says `pytest_plugins = ["tests.helpers.promotion"]` and gets the fixture `site`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctan.config import RunConfig
from ctan.evaluation.cases import write_cases
from ctan.records import ModelEntry, ModelRecord
from ctan.tracking import Decision, promote, tracking_uri, training_run
from ctan.tracking.ledger import Ledger
from tests.helpers.tracking import make_database, pointer_at, small_config, write_model

NAME = "ctan-openkbp"
CASES = [f"pt_{i}" for i in range(201, 221)]
LINEAGE = {
    "data_source": "/data/openkbp",
    "data_version": "files:" + "a" * 32,
    "settings_hash": "5" * 64,
    "pipeline_code_hash": "c" * 64,
    "validation": "20 cases passed 14 expectations",
}
BASELINES = {"baseline-mean": 21.0, "baseline-distance": 8.0}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("database"))


@dataclass
class Site:
    """A workspace in which models are trained, compared and promoted."""

    folder: Path

    @property
    def store_root(self) -> Path:
        return self.folder / "workspace" / "store"

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(tracking_uri())

    def train(
        self,
        seed: int,
        arch: str = "ctan",
        config: RunConfig | None = None,
        lineage: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> Path:
        config = config or small_config()
        with training_run(config, pointer_at(self.store_root), arch, 0, seed, run_id, lineage) as run:
            model_dir = write_model(self.folder / f"model-{arch}-{seed}", config, arch, seed, run.run_id)
            run.log_model(model_dir)
        return model_dir

    def compare(
        self,
        model_dir: Path,
        dice: float = 0.5,
        dose: float = 4.0,
        spread: float = 0.1,
        evaluation_hash: str = "h" * 64,
        data_hash: str = "d" * 64,
        baselines: Mapping[str, float] | None = None,
        **changes: Any,
    ) -> Path:
        """Write what the comparison step would, for one model with these mean scores on the evaluation cases."""
        described = ModelRecord.load(model_dir)
        key = {"arch": described.name, "fold": described.fold, "seed": described.seed}
        offsets = np.linspace(-spread, spread, len(CASES))  # between patients, the same for every model
        rows = []
        for case_id, offset in zip(CASES, offsets, strict=True):
            base = key | {"role": "evaluation", "case_id": case_id, "group_id": case_id}
            for structure, shift in (("Brainstem", spread / 2), ("RightParotid", -spread / 2)):
                value = dice + offset + shift
                rows.append(base | {"task": "contours", "metric": "dice", "structure": structure, "value": value})
            score = {"task": "dose", "metric": "dose_score", "structure": "", "value": dose * (1 + offset), "count": 99}
            rows.append(base | score)
            rows.append(base | score | {"role": "tuning", "value": 1e6})  # must not matter
        names = BASELINES if baselines is None else baselines
        for arch, gy in names.items():
            for case_id, offset in zip(CASES, offsets, strict=True):
                base = {"arch": arch, "fold": -1, "seed": -1, "role": "evaluation"}
                base |= {"case_id": case_id, "group_id": case_id}
                score = {"task": "dose", "metric": "dose_score", "structure": "", "value": gy * (1 + offset)}
                rows.append(base | score | {"count": 99})
        scores = {"contours": {"dice_mean": dice}, "dose": {"dose_score": dose}}
        folder = self.folder / f"comparison-{len(list(self.folder.glob('comparison-*')))}"
        folder.mkdir()
        write_cases(rows, folder / "cases.parquet")
        comparison = {
            "dataset": "openkbp",
            "store_key": "k" * 64,
            "data_hash": data_hash,
            "evaluation_hash": evaluation_hash,
            "confidence": 0.95,
            "num_tuning_cases": len(CASES),
            "num_evaluation_cases": len(CASES),
            "reference_arch": key["arch"],
            "excludes_training_variance": True,
            "models": [ModelEntry.of(described, {"evaluation": scores, "tuning": scores}).model_dump(mode="json")],
            "architectures": [],
            "grid_floor": {},
            "baselines": [
                {"arch": arch, "label": arch, "scores": {"evaluation": {"dose": {"dose_score": value}}}}
                for arch, value in names.items()
            ],
            "best": key | {"model_index": 0, "reason": "best on the tuning cases"},
        }
        (folder / "comparison.json").write_text(json.dumps(comparison | changes))
        return folder

    def promote(
        self, model_dir: Path, comparison: Path | None = None, lineage: Mapping[str, str] | None = None, **more: Any
    ) -> Decision:
        scores = {name: more.pop(name) for name in ("dice", "dose", "evaluation_hash", "data_hash") if name in more}
        pointer = pointer_at(self.store_root, scores.get("data_hash", "d" * 64))
        return promote(
            pointer,
            comparison or self.compare(model_dir, **scores),
            [model_dir],
            small_config(**more),
            LINEAGE if lineage is None else {"validation": LINEAGE["validation"], **lineage},
        )

    def ledger(self) -> list[dict[str, Any]]:
        return Ledger(str(self.store_root), NAME).entries()

    def aliases(self) -> dict[str, str]:
        found: dict[str, str] = self.client.get_registered_model(NAME).aliases
        return {alias: str(version) for alias, version in found.items()}

    def versions(self) -> list[str]:
        return sorted(str(version.version) for version in self.client.search_model_versions(f"name='{NAME}'"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Site:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    shutil.copytree(empty_database, tmp_path / "workspace")
    return Site(tmp_path)
