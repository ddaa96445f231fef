"""Retraining on this machine, one shot: what cron calls where there is no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctan.cluster.compiled import compiled_pipeline
from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.pipelines_client import RunResult, run_local
from ctan.run_log import Show
from ctan.workspace import workspace


def check_decides(config: RunConfig) -> None:
    """Refuse to retrain again and again what is never decided about: only a decision is a reason not to train again.

    Raises:
        ConfigError: when promotion is switched off.
    """
    if not config.promotion.enabled:
        raise ConfigError(
            "promote=false (promotion.enabled): nothing is decided about a model then, so that every retraining would "
            "train again although nothing changed; leave it out, or run pipelines/ctan.yaml where that is meant"
        )


def retrain(parameters: Mapping[str, Any], model_name: str, show: Show = print) -> RunResult | None:
    """Run the retraining pipeline here, unless another retraining of the same model is under way in this workspace.

    The lock belongs to the process: the system frees it when that dies. An interrupted run leaves stores and
    checkpoints that the next one goes on from, and a registry in which nothing is half-promoted (see
    `ctan.tracking.promote`).

    Args:
        parameters: of `pipelines/retrain.yaml`.
        model_name: registered model.
        show: receives each line worth reading.

    Returns:
        The finished run; None when another one is under way.

    Raises:
        StepError: when a step fails, naming it.
        TrackingError: when runs cannot be recorded.
    """
    from filelock import FileLock, Timeout

    workspace().mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace() / f".retrain-{model_name}.lock", timeout=0)
    try:
        with lock:
            return run_local(parameters, compiled_pipeline("retrain"), show)
    except Timeout:
        return None
