"""The report of a comparison: one self-contained HTML page."""

from ctan.report.report import write_report

__all__ = ["write_report"]
