"""A finished (or stopped) campaign as one self-contained page."""

from agent.report.page import write_report

__all__ = ["write_report"]
