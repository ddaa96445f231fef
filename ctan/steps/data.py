"""From raw files to a prepared store, and the list of what to train: see `ctan.steps`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.config import RunConfig
from ctan.errors import CtanError
from ctan.files import read_json, write_json, write_text
from ctan.seals import SEAL_FILE, check_folder, seal_file
from ctan.settings import config_from_text, read_config
from ctan.step_environment import step
from ctan.steps.numbers import Metrics, numbers_of
from ctan.workspace import workspace

if TYPE_CHECKING:
    from ctan.sources.origin import Origin

_PASSED = "passed"  # as `ctan.validation.PASSED`, which costs seconds to load
CONTACT_PAGE, VALIDATION_PAGE = "contact_sheet.html", "validation.html"  # in the folder of the manifest


def resolve(source: str, config: RunConfig, store_root: str = "", checkpoint_root: str = "") -> tuple[str, str, str]:
    """Fix what a run starts from: settings, the version of the data as it is now, and the side of every case.

    Args:
        source: folder of raw files, `s3://bucket/prefix`, `dvc:REPOSITORY@REVISION` or
            `phantom:train=N,validation=N,seed=N`.
        config: settings, see `resolve_config`.
        store_root: folder or `s3://bucket/prefix` of the stores and the table of sides; empty: in the workspace.
        checkpoint_root: of the checkpoints; only whether it can be written to is looked at.

    Returns:
        The source pinned to that version, the settings as YAML, and `ctan.sources.origin.Origin` as JSON.

    Raises:
        ConfigError: for more trainings than one run carries.
        DataError: when a root cannot be written to or the tracking server does not answer, before anything long begins.
    """
    from ctan.sources.places import recorded

    with step("resolve", recorded(source)):
        from ctan.intake.planning import check_number
        from ctan.intake.sides import in_words, settle
        from ctan.sources.origin import Origin
        from ctan.steps.preflight import look_around

        check_number(config)
        look_around({"store_root": store_root, "checkpoint_root": checkpoint_root})
        origin = settle(Origin.of(source, config), config, store_root)
        data, settings, code, _ = (value.removesuffix(".dir")[:40] for value in origin.hashes)
        print(f"data {data}, settings {settings[:12]}, code {code[:12]}")
        print(in_words(origin.sides))
    return origin.source, config.to_yaml(), origin.to_json()


def check(model_name: str, settings: str, origin: str, finding: str) -> str:
    """Say whether training again could give another model than the registry has already.

    Args:
        model_name: registered model; empty for that of the settings.
        settings: second value of `resolve`.
        origin: third value of `resolve`.
        finding: JSON file that receives what was found.

    Returns:
        `"retrain"` or `"unchanged"`.
    """
    with step("check", model_name):
        from ctan.sources.origin import Origin
        from ctan.tracking.retraining import check as check_registry

        config = config_from_text(settings)
        promotion = config.promotion

        def drift(version: str) -> str | None:
            from ctan.prediction.drift import drift as compare

            report = compare(version, promotion.drift_source, promotion.drift_threshold)
            return str(report) if report.drifted else None

        asked = drift if promotion.drift_source else None
        verdict = check_registry(model_name or config.model_name, Origin.from_json(origin), asked)
        write_json(Path(finding), vars(verdict))
        print(verdict)
    return "retrain" if verdict.needed else "unchanged"


def ingest(
    settings: str, origin: str, manifest_dir: str, num_workers: int | None = None, contact_sheet: str = ""
) -> Metrics:
    """Read and measure every raw case; broken ones go to quarantine.

    Args:
        settings: second value of `resolve`.
        origin: third value of `resolve`; names the source.
        manifest_dir: receives the tables, the settings and the origin.
        num_workers: processes; None for one a core.
        contact_sheet: HTML file that receives pictures of a few cases of each split; empty: none.
    """
    from ctan.sources.origin import Origin
    from ctan.sources.places import recorded

    started_from = Origin.from_json(origin)
    source = started_from.source
    with step("ingest", recorded(source)) as clock:
        from ctan.intake.ingest import ingest as ingest_source

        clock.loaded()
        config = config_from_text(settings)
        if earlier := _ingested_before(started_from):
            shutil.copytree(earlier / "manifest", manifest_dir, dirs_exist_ok=True)
            if contact_sheet and (page := Path(manifest_dir) / CONTACT_PAGE).is_file():
                shutil.copyfile(page, contact_sheet)
            numbers = read_json(Path(manifest_dir) / "summary.json", "ingest again")
            print(f"{numbers['num_cases']} cases, as the run {earlier.parents[1].name} read them: nothing has changed")
            return numbers_of(numbers)
        summary = ingest_source(source, Path(manifest_dir), config, num_workers, started_from.sides)
        replace(started_from, synthetic=summary.synthetic).save(Path(manifest_dir))
        print(summary)
        if contact_sheet:
            from ctan.intake.look import show_few

            show_few(source, Path(manifest_dir), Path(contact_sheet), config)
            _keep_page(Path(contact_sheet), Path(manifest_dir) / CONTACT_PAGE)
    return numbers_of(vars(summary))


def _ingested_before(origin: Origin) -> Path | None:
    """Return the folder of this step in an earlier run on this machine that started from the same, else None.

    Not of a run in which a case was broken: it may have been mended, or the machine's fault.
    """
    for earlier in _earlier("ingest", "manifest", origin):
        if not read_json(earlier / "manifest" / "summary.json", "ingest again")["num_quarantined"]:
            return earlier
    return None


def _validated_before(manifest_dir: Path) -> Path | None:
    """Return the folder of this step in an earlier run on this machine that passed the very same tables, else None."""
    from ctan.sources.origin import read_origin

    for earlier in _earlier("validate", "validated", read_origin(manifest_dir)):
        tables = earlier.parent / "ingest" / "manifest" / SEAL_FILE
        is_same = tables.is_file() and tables.read_bytes() == (manifest_dir / SEAL_FILE).read_bytes()
        passed = read_json(earlier / "validated" / "summary.json", "validate again")["verdict"] == _PASSED
        if is_same and passed and (earlier / "validated" / VALIDATION_PAGE).is_file():
            return earlier
    return None


def _earlier(name: str, output: str, origin: Origin) -> Iterator[Path]:
    """Yield folders of a step of earlier runs on this machine that started from the same, the newest first.

    Args:
        name: of the step.
        output: its folder of tables, which nobody has changed since.
        origin: data, settings and code.
    """
    from ctan.sources.origin import read_origin
    from ctan.sources.places import recorded
    from ctan.tracking.lineage import LOCAL_RUN_VARIABLE

    if LOCAL_RUN_VARIABLE not in os.environ:
        return
    for done in sorted(workspace().glob(f"runs/*/*/{name}/executor_output.json"), reverse=True):  # written at its end
        try:
            found = read_origin(done.parent / output)
            check_folder(done.parent / output)
        except CtanError:
            continue
        if (found.hashes, recorded(found.source)) == (origin.hashes, recorded(origin.source)):
            yield done.parent


def validate(
    manifest_dir: str,
    validated_dir: str,
    report: str,
    metrics: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Check a manifest against the expectations of its data set.

    Args:
        manifest_dir: output of `ingest`.
        validated_dir: receives the same tables with the failed cases in quarantine.
        report: HTML file.
        metrics: receives the numbers of cases.
        overrides: settings to change for this step.

    Returns:
        The verdict, for `gate`.
    """
    with step("validate") as clock:
        from ctan.sources.origin import read_origin

        clock.loaded()
        if not overrides and (earlier := _validated_before(Path(manifest_dir))):
            shutil.copytree(earlier / "validated", validated_dir, dirs_exist_ok=True)
            shutil.copyfile(Path(validated_dir) / VALIDATION_PAGE, report)
            numbers = read_json(Path(validated_dir) / "summary.json", "validate again")
            print(f"{numbers['num_cases']} cases passed, as in the run {earlier.parents[1].name}: nothing has changed")
            if metrics is not None:
                metrics.update(numbers_of(numbers))
            return _PASSED
        from ctan.validation import validate as validate_manifest

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        started_from = read_origin(manifest_dir)
        summary = validate_manifest(Path(manifest_dir), Path(validated_dir), Path(report), config)
        started_from.save(Path(validated_dir))
        _keep_page(Path(report), Path(validated_dir) / VALIDATION_PAGE)
        _keep_page(Path(manifest_dir) / CONTACT_PAGE, Path(validated_dir) / CONTACT_PAGE)
        print(summary)
        if metrics is not None:
            metrics.update(numbers_of(vars(summary)))
    return summary.verdict


def _keep_page(page: Path, path: Path) -> None:
    """Keep a page beside the tables that it is about, so that `compare` can add it to MLflow; not if there is none."""
    if page.is_file():
        write_text(path, page.read_text(encoding="utf-8"))
        seal_file(path)


def gate(verdict: str) -> None:
    """Raise `GateError` unless validation passed.

    Args:
        verdict: of `validate`.
    """
    with step("gate"):
        from ctan.validation import stop_unless_passed

        stop_unless_passed(verdict)


def preprocess(
    source: str,
    manifest_dir: str,
    pointer: str,
    store_root: str = "",
    overrides: Sequence[str] = (),
    num_workers: int | None = None,
) -> Metrics:
    """Pack the cases of a manifest into a store; nothing is done when the store holds them already.

    Args:
        source: what was ingested.
        manifest_dir: output of `validate`.
        pointer: JSON file that receives the pointer to the store.
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.
        overrides: settings to change for this step.
        num_workers: processes; None for one a core.
    """
    with step("preprocess") as clock:
        from ctan.intake.build import preprocess as preprocess_source

        clock.loaded()
        config = read_config(manifest_dir, overrides)
        root = store_root or str(workspace() / "store")
        result = preprocess_source(source, Path(manifest_dir), root, config, num_workers)
        result.save(Path(pointer))
        print(f"store {result.key}: {result.num_cases} cases, data {result.data_hash[:12]}")
    return {"num_cases": float(result.num_cases)}


def plan(manifest_dir: str) -> list[dict[str, str]]:
    """List the trainings, and say what promotion will be able to decide about them.

    Args:
        manifest_dir: output of `validate`.

    Raises:
        ConfigError: when it will never be able to compare them with the champion.
    """
    with step("plan"):
        from ctan.cases import DataSpec
        from ctan.intake.planning import one_sided
        from ctan.intake.planning import plan as plan_trainings
        from ctan.intake.sides import in_words
        from ctan.sources.origin import read_origin
        from ctan.store.manifest import MANIFEST_FILE, read_manifest

        config = read_config(manifest_dir)
        print(in_words(read_origin(manifest_dir).sides))
        spec, rows = DataSpec.load(Path(manifest_dir)), read_manifest(Path(manifest_dir) / MANIFEST_FILE).to_pylist()
        for sentence in one_sided(rows, spec, config.folds):
            print(f"note: {sentence}")
        items = plan_trainings(config)
        for item in items:
            print("train {arch}, fold {fold}, seed {seed}".format_map(item))
        if config.promotion.enabled:
            from ctan.tracking.outlook import outlook

            print("\n".join(outlook(Path(manifest_dir), config)))
    return items
