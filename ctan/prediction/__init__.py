"""From a trained model and raw files to predictions in the files' own format."""

from ctan.prediction.predict import PredictionSummary, predict

__all__ = ["PredictionSummary", "predict"]
