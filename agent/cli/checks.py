"""The findings of the doctor as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.cli.doctor import examine
from agent.cli.errors import EXIT_CODES
from agent.errors import InstrumentUnavailableError

MARKS = {True: ("yes", "green"), False: ("no", "red"), None: ("–", "dim")}


def show_checks(instrument: str | None, broker: str | None, patience: float) -> int:
    """Print what was found; the exit code is 3 where the instrument cannot be reached, 1 where a package is missing."""
    findings = examine(instrument, broker, patience)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        mark, style = MARKS[finding.good]
        # Text objects: a bracket in a message is no markup.
        table.add_row(finding.subject, Text(finding.name), Text(mark, style=style), Text(finding.text))
    Console().print(table, soft_wrap=True)
    wrong = {finding.subject for finding in findings if finding.good is False}
    if "instrument" in wrong:
        return EXIT_CODES[InstrumentUnavailableError]
    return 1 if "installation" in wrong else 0
