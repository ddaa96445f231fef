"""Where a training comes from: code, image, data version, pipeline run. What MLflow runs and versions carry as tags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ctan.files import read_json
from ctan.provenance import image_reference
from ctan.seals import check_file
from ctan.sources.origin import read_origin

PIPELINE_RUN, PIPELINE_RUN_URL, LATER_PIPELINE_RUNS = "pipeline_run", "pipeline_run_url", "later_pipeline_runs"
ORIGIN_TAGS = ("data_source", "data_version", "settings_hash", "pipeline_code_hash")  # every version names
VALIDATION, SYNTHETIC = "validation", "synthetic"
_PASSED = "passed"  # verdict of `ctan.validation`, which takes seconds to import
OWNER_MARK = "owner_mark"  # where the mark of whoever trains lies, see `ctan.tracking.owner`
LOCAL = "local/"  # before that name, where it stands for a pipeline's run
LOCAL_RUN_VARIABLE = "CTAN_LOCAL_RUN"  # name of the run's folder when the pipeline runs on this machine

_RUN_VARIABLE = "KFP_RUN_ID"  # from the label of the pod, set by the compiled pipeline
_PLACEHOLDER = "{{$."  # what KFP's backend should have replaced
_UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"


def pipeline_run_of(given: str) -> str:
    """Return the id of the pipeline's run that this step belongs to; empty outside of a pipeline.

    Args:
        given: what the pipeline handed over: KFP's id, or its placeholder where the backend left that as it is.
    """
    if local := os.environ.get(LOCAL_RUN_VARIABLE):
        return f"{LOCAL}{local}"
    return os.environ.get(_RUN_VARIABLE, "") if not given or given.startswith(_PLACEHOLDER) else given


def lineage_tags(manifest_dir: str | Path, pipeline_run: str = "") -> dict[str, str]:
    """Return the tags of a training, or of the version registered from it.

    Args:
        manifest_dir: folder that ingestion or validation wrote, which holds the origin.
        pipeline_run: KFP's id of the run; empty outside of a pipeline.

    Raises:
        DataError: when the folder holds no origin.
    """
    pipeline_run = pipeline_run_of(pipeline_run)
    tags = read_origin(manifest_dir).tags()
    if pipeline_run:
        tags[PIPELINE_RUN] = pipeline_run
    if pipeline_run and not pipeline_run.startswith(LOCAL) and (ui := os.environ.get(_UI_VARIABLE)):
        tags[PIPELINE_RUN_URL] = f"{ui.rstrip('/')}/#/runs/details/{pipeline_run}"
    if passed := _validation(Path(manifest_dir)):
        tags[VALIDATION] = passed
    if image := image_reference():
        tags["image"] = image
    return tags


def _validation(manifest_dir: Path) -> str:
    """Return how the data passed validation; empty where they did not, or were not validated."""
    path = manifest_dir / "summary.json"
    check_file(path)
    summary = read_json(path, "run `ctan data validate` again") if path.exists() else {}
    if not isinstance(summary, dict) or summary.get("verdict") != _PASSED:
        return ""
    return f"{summary['num_cases']} cases passed {summary['num_expectations']} expectations"


def is_synthetic(tags: Mapping[str, str]) -> bool:
    """Whether a version, or what it is made from, rests on phantoms; older versions say so by their source."""
    return tags.get(SYNTHETIC) == "true" or tags.get("data_source", "").startswith("phantom:")
