"""The search for settings: see `ctan.steps`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctan.settings import read_config
from ctan.step_environment import step
from ctan.steps.models import store_of
from ctan.steps.numbers import Metrics, numbers_of
from ctan.workspace import workspace


def tune(
    pointer: str,
    manifest_dir: str,
    arch: str,
    fold: int,
    seed: int,
    num_trials: int,
    search: Sequence[str],
    profile: str,
    checkpoint_root: str = "",
    pipeline_run: str = "",
) -> Metrics:
    """Search settings of one architecture; a search that was cut short goes on.

    Args:
        pointer: output of `preprocess`.
        manifest_dir: output of `validate`, for the settings that are not searched.
        arch: architecture.
        fold: its cases tune.
        seed: of the trainings and the search.
        num_trials: of the search, those of earlier calls included.
        search: what is searched, see `ctan.tuning.Searched.parse`; none: what `ctan.tuning.default_space` says.
        profile: receives the best settings, YAML.
        checkpoint_root: folder or `s3://bucket/prefix` of the checkpoints; empty: in the workspace. The search lies in
            `tuning` below it.
        pipeline_run: id of the pipeline's run, recorded with the trainings.
    """
    with step("tune", f"{arch}, fold {fold}, seed {seed}") as clock:
        from ctan.sources.buckets import join
        from ctan.tracking.lineage import pipeline_run_of
        from ctan.tuning import Searched
        from ctan.tuning import tune as search_settings

        clock.loaded()
        root = join(checkpoint_root or str(workspace() / "checkpoints"), "tuning")
        tuned = search_settings(
            store_of(pointer, manifest_dir),
            arch,
            fold,
            seed,
            read_config(manifest_dir),
            root,
            num_trials,
            [Searched.parse(text) for text in search],
            Path(profile),
            pipeline_run=pipeline_run_of(pipeline_run),
            alone=True,
        )
        print(tuned)
    numbers = {"error": tuned.error, "trials": tuned.num_trials, "pruned": tuned.num_pruned, "failed": tuned.num_failed}
    return numbers_of(numbers)
