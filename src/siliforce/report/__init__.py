"""From run folders to one self-contained HTML page."""

from siliforce.report.page import write_report

__all__ = ["write_report"]
