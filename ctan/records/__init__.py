"""What trained models, evaluations and comparisons say of themselves: typed, versioned JSON files."""

from ctan.records.base import Number, Record
from ctan.records.comparison import (
    MIN_CASES,
    ArchitectureEntry,
    BaselineEntry,
    Choice,
    ComparisonRecord,
    Interval,
    ModelEntry,
    SubgroupEntry,
)
from ctan.records.evaluation import EvaluationRecord
from ctan.records.model import Grid, Member, ModelRecord
from ctan.records.names import (
    CASES_FILE,
    COMPARISON_FILE,
    DVH_FILE,
    EVALUATION,
    EVALUATION_FILE,
    FIGURES_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    PREDICTION_FILE,
    TUNING,
    WEIGHTS_FILE,
)
from ctan.records.prediction import AskedModel, PredictionRecord
from ctan.records.seen import SeenGroups
from ctan.records.trust import Calibration, Embedding, Fingerprint, MeanExchange, Unusual

__all__ = [
    "CASES_FILE",
    "COMPARISON_FILE",
    "DVH_FILE",
    "EVALUATION",
    "EVALUATION_FILE",
    "FIGURES_FILE",
    "HISTORY_FILE",
    "MIN_CASES",
    "MODEL_FILE",
    "PREDICTION_FILE",
    "TUNING",
    "WEIGHTS_FILE",
    "ArchitectureEntry",
    "AskedModel",
    "BaselineEntry",
    "Calibration",
    "Choice",
    "ComparisonRecord",
    "Embedding",
    "EvaluationRecord",
    "Fingerprint",
    "Grid",
    "Interval",
    "MeanExchange",
    "Member",
    "ModelEntry",
    "ModelRecord",
    "Number",
    "PredictionRecord",
    "Record",
    "SeenGroups",
    "SubgroupEntry",
    "Unusual",
]
