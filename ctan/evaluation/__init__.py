"""Evaluation: predict, score every case, compare architectures, report."""

from ctan.evaluation.compare import Comparison, compare
from ctan.evaluation.evaluate import evaluate, evaluation_hash

__all__ = ["Comparison", "compare", "evaluate", "evaluation_hash"]
