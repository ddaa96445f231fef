"""Where a training comes from: code, image, data version, pipeline run. What MLflow runs and versions carry as tags."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from ctan.origin import read_origin

PIPELINE_RUN, PIPELINE_RUN_URL, LATER_PIPELINE_RUNS = "pipeline_run", "pipeline_run_url", "later_pipeline_runs"
LOCAL_RUN_VARIABLE = "CTAN_LOCAL_RUN"  # name of the run's folder when the pipeline runs on this machine

_COMMIT_VARIABLE, _IMAGE_VARIABLE = "CTAN_GIT_COMMIT", "CTAN_IMAGE"  # set in the image, and by the compiled pipeline
_RUN_VARIABLE = "KFP_RUN_ID"  # from the label of the pod, set by the compiled pipeline
_PLACEHOLDER = "{{$."  # what KFP's backend should have replaced
_UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"


def lineage_tags(manifest_dir: str | Path, pipeline_run: str = "") -> dict[str, str]:
    """Return the tags of a training, or of the version registered from it.

    Args:
        manifest_dir: folder that ingestion or validation wrote, which holds the origin.
        pipeline_run: KFP's id of the run; empty outside of a pipeline.

    Raises:
        DataError: when the folder holds no origin.
    """
    if not pipeline_run or pipeline_run.startswith(_PLACEHOLDER):
        pipeline_run = os.environ.get(_RUN_VARIABLE, "")
    local = os.environ.get(LOCAL_RUN_VARIABLE)
    tags = read_origin(manifest_dir).tags()
    if local or pipeline_run:
        tags[PIPELINE_RUN] = f"local/{local}" if local else pipeline_run
    if pipeline_run and not local and (ui := os.environ.get(_UI_VARIABLE)):
        tags[PIPELINE_RUN_URL] = f"{ui.rstrip('/')}/#/runs/details/{pipeline_run}"
    if image := image_reference():
        tags["image"] = image
    return tags


def in_image() -> bool:
    """Whether this process runs in a container of the image."""
    return _COMMIT_VARIABLE in os.environ


def image_reference() -> str | None:
    """Return the image this process runs in as the pipeline names it, None outside of one."""
    # The compiled pipeline names an image also where its steps are plain processes.
    return os.environ.get(_IMAGE_VARIABLE) if in_image() else None


def git_commit() -> str | None:
    """Return the commit that is running, with `-dirty` when it was changed; None when nobody knows.

    In an image that is the one it was built from, else that of the checkout `ctan` runs from.
    """
    return os.environ.get(_COMMIT_VARIABLE) or _checkout_commit()


@cache
def _checkout_commit() -> str | None:
    package = Path(__file__).parents[1]
    # A package installed into an environment inside some other checkout is not part of it: ask whether git knows us.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
