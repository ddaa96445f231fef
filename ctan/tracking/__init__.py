"""MLflow runs, the model registry, promotion and its ledger. Importing this imports no MLflow."""

from ctan.tracking.promote import Decision, promote
from ctan.tracking.review import log_results
from ctan.tracking.runs import TrainingRun, training_run
from ctan.tracking.server import prepare, tracking_uri

__all__ = ["Decision", "TrainingRun", "log_results", "prepare", "promote", "tracking_uri", "training_run"]
