"""Evaluation: predict, score every case, compare architectures."""

from ctan.evaluation.compare import compare
from ctan.evaluation.evaluate import evaluate, evaluation_hash

__all__ = ["compare", "evaluate", "evaluation_hash"]
