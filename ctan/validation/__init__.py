"""The gate between raw data and everything else."""

from ctan.validation.gate import ValidationSummary, validate

__all__ = ["ValidationSummary", "validate"]
