"""The report of a run: figures, and one self-contained HTML page."""

from genssl.report.html import write

__all__ = ["write"]
