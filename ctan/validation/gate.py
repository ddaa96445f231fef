"""Run the expectations, move failing cases to quarantine, say whether the run has to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.cases import DataSpec
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import GateError
from ctan.files import write_json, write_text
from ctan.seals import seal_folder
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, read_manifest, write_manifest
from ctan.validation.copies import columns_of_copies, find_copies
from ctan.validation.suite import Outcome, expectations, frame_of, run

if TYPE_CHECKING:
    import pyarrow as pa

PASSED = "passed"
_MAX_NAMED = 10


@dataclass(frozen=True)
class ValidationSummary:
    """What validation found.

    Attributes:
        num_cases: cases that passed.
        num_quarantined: cases in quarantine, ingestion's included.
        num_expectations: how many were checked.
        num_failed_expectations: how many of them failed for some case.
        quarantined_share: of all cases.
        verdict: `PASSED`, or why the run has to stop: expectations and cases, a line each.
        remarks: what was found and stops no case.
    """

    num_cases: int
    num_quarantined: int
    num_expectations: int
    num_failed_expectations: int
    quarantined_share: float
    verdict: str
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        failed = f"{self.num_failed_expectations} of {self.num_expectations} expectations failed for some case"
        remarks = "".join(f"\n{remark}" for remark in self.remarks)
        return f"{self.num_cases} cases passed; {failed}; {self.num_quarantined} in quarantine{remarks}"


def validate(manifest_dir: Path, output_dir: Path, report: Path, config: RunConfig) -> ValidationSummary:
    """Check a manifest; cases that fail go to quarantine.

    Args:
        manifest_dir: what ingestion wrote.
        output_dir: receives the same tables after validation, `config.yaml` and `summary.json`.
        report: self-contained HTML page.
        config: bounds and the largest share of failing cases.

    Returns:
        What was found. The verdict is not `PASSED` when the table as a whole fails (no case, say) or too many cases do:
        `stop_unless_passed` makes it an error. All files are written either way, because on a cluster an output of a
        step that fails is lost.

    Raises:
        DataError: when a table is missing or is not a manifest.
    """
    import pyarrow as pa

    from ctan.validation.page import write_page

    dataset, spec = get_dataset(config.data), DataSpec.load(manifest_dir)
    manifest = read_manifest(manifest_dir / MANIFEST_FILE, SCHEMA(spec))
    quarantine = read_manifest(manifest_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA).to_pylist()
    num_all = manifest.num_rows + len(quarantine)
    copies = find_copies(manifest.select(columns_of_copies(spec)).to_pylist(), spec)
    outcomes = run(frame_of(manifest, spec, copies), expectations(dataset, config))
    rejected = _rejected(manifest, outcomes)
    passes = [case_id not in rejected for case_id in manifest["case_id"].to_pylist()]
    passed = manifest.filter(pa.array(passes, pa.bool_()))
    quarantine += [
        {
            "dataset": spec.dataset,
            "case_id": row["case_id"],
            "split": row["split"],
            "step": "validate",
            "reason": "; ".join(rejected[row["case_id"]]),
        }
        for row in manifest.select(["case_id", "split"]).to_pylist()
        if row["case_id"] in rejected
    ]
    problem = _problem(passed.num_rows, outcomes, quarantine, config)
    summary = ValidationSummary(
        num_cases=passed.num_rows,
        num_quarantined=len(quarantine),
        num_expectations=len(outcomes),
        num_failed_expectations=sum(not outcome.success for outcome in outcomes),
        quarantined_share=len(quarantine) / num_all if num_all else 0.0,
        verdict=problem or PASSED,
        remarks=copies.remarks,
    )
    write_manifest(quarantine, output_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    write_manifest(passed, output_dir / MANIFEST_FILE)
    write_text(output_dir / "config.yaml", config.to_yaml())
    spec.save(output_dir)
    write_json(output_dir / "summary.json", asdict(summary))
    seal_folder(output_dir)
    write_page(report, spec, manifest, passed, quarantine, outcomes, copies, problem)
    return summary


def stop_unless_passed(verdict: str) -> None:
    """Raise `GateError` with the verdict of `validate`, unless it is `PASSED`."""
    if verdict != PASSED:
        raise GateError(verdict)


def _rejected(manifest: pa.Table, outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Return case id -> why it is rejected."""
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        expectation = outcome.expectation
        for case_id, value in outcome.failing.items():
            found = _found(value, expectation.unit)
            reasons.setdefault(case_id, []).append(
                f"{expectation.name}: expected: {expectation.sentence}; found {found}"
            )
    return {case_id: reasons[case_id] for case_id in manifest["case_id"].to_pylist() if case_id in reasons}


def _found(value: Any, unit: str) -> str:
    if value is None or value != value:
        return "nothing"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".rstrip()


def _problem(
    num_passed: int, outcomes: Sequence[Outcome], quarantine: Sequence[dict[str, str]], config: RunConfig
) -> str:
    """Return why the gate stops, empty when it does not."""
    before = [f"  {row['step']}: {row['case_id']}: {row['reason']}" for row in quarantine if row["step"] != "validate"][
        :_MAX_NAMED
    ]
    about_table = [o.expectation for o in outcomes if not o.success and not o.expectation.about_cases]
    if about_table:
        failed = "; ".join(f"{expectation.name} ({expectation.sentence})" for expectation in about_table)
        return "\n".join([f"the manifest as a whole fails: {failed}", *before])
    allowed = config.validation.max_quarantined_share
    total = num_passed + len(quarantine)
    if num_passed and len(quarantine) / total <= allowed:
        return ""
    lines = [
        f"{len(quarantine)} of {total} cases ({len(quarantine) / max(total, 1):.1%}) are in quarantine, "
        f"validation.max_quarantined_share allows {allowed:.1%}:"
    ]
    for outcome in outcomes:
        if outcome.failing:
            some = ", ".join(list(outcome.failing)[:_MAX_NAMED])
            more = f" and {len(outcome.failing) - _MAX_NAMED} more" if len(outcome.failing) > _MAX_NAMED else ""
            lines.append(f"  {outcome.expectation.name} ({outcome.expectation.sentence}): {some}{more}")
    lines += before
    lines.append("Mend or remove these cases, or allow more if you know why.")
    return "\n".join(lines)
