"""The gate between raw data and everything else."""

from ctan.validation.gate import PASSED, ValidationSummary, stop_unless_passed, validate

__all__ = ["PASSED", "ValidationSummary", "stop_unless_passed", "validate"]
