"""Scoring a registered version on sealed test cases: a look that is counted, and that nothing else ever reads.

Test cases are in no store that trains, compares or promotes. Here they get a store of their own, packed as the model
wants it, and the model's scores at native resolution lie beside it, in the same tables and on the same page as those
of a comparison. Whoever looks often chooses by what is seen: every look is a line in `ledger/<model>.test.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ctan import steps
from ctan.cases import SPLIT_TEST
from ctan.errors import DataError
from ctan.evaluation import compare, evaluate
from ctan.evaluation.evaluate import evaluation_hash
from ctan.files import sha256_of_file
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.provenance import git_commit
from ctan.records import CASES_FILE, EVALUATION, MODEL_FILE, WEIGHTS_FILE, ModelRecord
from ctan.report import write_report
from ctan.settings import config_from_text, config_from_values
from ctan.sources.origin import Origin
from ctan.store import Store, open_store
from ctan.tracking.ledger import Ledger, plain
from ctan.tracking.registry import promotion_lock
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig

LEDGER_ENDING = ".test"
_NEEDED = ("version", "weights_sha256", "data_hash", "evaluation_hash", "look")


@dataclass(frozen=True)
class TestScores:
    """What a version scores on sealed cases.

    Attributes:
        version: `models:/NAME/VERSION`.
        num_cases: test cases.
        scores: by task and metric.
        look: the how-many-eth look of this line of models at these cases it was.
        folder: holds tables and report.
    """

    version: str
    num_cases: int
    scores: Mapping[str, Mapping[str, float | None]]
    look: int
    folder: Path

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        found = [
            f"{task}.{metric}: {value:.4g}"
            for task, metrics in self.scores.items()
            for metric, value in metrics.items()
            if value is not None
        ]
        often = "" if self.look == 1 else "; whoever looks often chooses by what is seen"
        said = f"{self.version} on {self.num_cases} sealed test cases, look {self.look} at them{often}"
        return "\n".join([said, *found, f"report in {self.report}"])


def score_on_test(reference: str, source: str, output_dir: Path | None = None, store_root: str = "") -> TestScores:
    """Score a registered version on the test cases of a source, and count the look.

    Args:
        reference: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        source: raw files with official test cases, or whose table of sides has some.
        output_dir: receives `evaluation/`, `comparison/` and `report.html`; None: `test/<name>-<version>` in the
            workspace.
        store_root: folder or `s3://bucket/prefix` of stores, table of sides and ledger; empty: in the workspace.

    Raises:
        DataError: when the source has no test case, one of them was trained on, or the model does not fit the data.
        TrackingError: when there is no such version.
    """
    from ctan.tracking.server import connect, prepare, tracking_errors

    uri, root = prepare(), store_root or str(workspace() / "store")
    client = connect()
    with TemporaryDirectory(prefix="ctan-test-") as folder, tracking_errors(uri, f"scoring {reference}"):
        version, model_dir = _fetched(client, reference, Path(folder))
        name = f"models:/{version.name}/{version.version}"
        output = output_dir or workspace() / "test" / f"{version.name}-{version.version}"
        store, config = _packed(source, ModelRecord.load(model_dir), root, Path(folder), name)
        ledger = Ledger(root, version.name + LEDGER_ENDING, needed=_NEEDED)
        ledger.check_writable()
        summary = evaluate(store.pointer, model_dir, output / "evaluation", config, (EVALUATION,))
        comparison = compare(store.pointer, [output / "evaluation"], output / "comparison", config)
        write_report(comparison, [output / "evaluation"], output / "report.html")
        scores = summary.scores[EVALUATION]
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": str(version.version),
            "weights_sha256": sha256_of_file(model_dir / WEIGHTS_FILE),
            "data_hash": store.pointer.data_hash,
            "evaluation_hash": evaluation_hash(store),
            "num_cases": summary.num_cases[EVALUATION],
            "scores": plain(scores),
            "cases_sha256": sha256_of_file(output / "evaluation" / CASES_FILE),
            "git_commit": git_commit(),
        }
        look = _counted(client, ledger, version, entry)
    return TestScores(name, summary.num_cases[EVALUATION], scores, look, output)


def _fetched(client: MlflowClient, reference: str, folder: Path) -> tuple[ModelVersion, Path]:
    from ctan.tracking.reference import NotComparableError, download_model
    from ctan.tracking.registry import named_version

    version = named_version(client, reference)
    try:
        return version, download_model(version, folder / "model")
    except NotComparableError as error:
        raise DataError(f"{reference}: was not registered by ctan and cannot be scored") from error


def _packed(source: str, record: ModelRecord, root: str, folder: Path, name: str) -> tuple[Store, RunConfig]:
    """Return a store of the test cases alone, on the model's grid, and the model's settings."""
    config = config_from_values(record.config, f"{name}: {MODEL_FILE}")
    data = config.data.model_copy(update={"max_evaluation_cases": None})
    _, settings, origin_text = steps.resolve(source, config.model_copy(update={"data": data}), root)
    config, origin = config_from_text(settings), Origin.from_json(origin_text)
    summary = ingest(origin.source, folder / "manifest", config, sides=origin.sides, only=(SPLIT_TEST,))
    print(summary)
    store = open_store(preprocess(origin.source, folder / "manifest", root, config, sides=(SPLIT_TEST,)))
    groups = {store.group_id(case_id) for case_id in store.case_ids()}
    seen = sorted(filter(record.seen.holds, groups)) if record.seen else []
    if seen:
        raise DataError(
            f"{name}: was trained on {len(seen)} of the {len(groups)} test groups ({', '.join(seen[:5])}); its scores "
            f"there would say nothing. Was it trained with another table of sides (data.sides, store_root)?"
        )
    return store, config


def _counted(client: MlflowClient, ledger: Ledger, version: ModelVersion, entry: dict[str, Any]) -> int:
    """Add the look to the ledger and to the version; return how many there were at these cases."""
    with promotion_lock(client, version.name) as confirm:
        earlier = [e for e in ledger.entries() if e["evaluation_hash"] == entry["evaluation_hash"]]
        confirm()
        ledger.append({**entry, "look": len(earlier) + 1})
    for task, metrics in entry["scores"].items():
        for metric, value in metrics.items():
            if value is not None:
                client.set_model_version_tag(version.name, version.version, f"test.{task}.{metric}", f"{value:.6g}")
    client.set_model_version_tag(version.name, version.version, "test.look", str(len(earlier) + 1))
    return len(earlier) + 1
