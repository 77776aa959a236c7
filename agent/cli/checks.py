"""The findings of the doctor as a table."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from agent.cli.doctor import examine
from agent.cli.errors import ExitCode
from agent.cli.terminal import Terminal

_MARKS = {True: ("yes", "green"), False: ("no", "red"), None: ("–", "dim")}


def show_checks(instrument: str | None, broker: str | None, patience: float, keys: Path | None = None) -> int:
    """Print what was found on this machine.

    Args:
        instrument: control endpoint to try, tcp://HOST:PORT; None: not asked for.
        broker: HOST or HOST:PORT to try; None: not asked for.
        patience: s to wait for an answer of either.
        keys: folder of CURVE keys; None: the default, where there is one.

    Returns:
        The exit code: NO_INSTRUMENT where the instrument cannot be reached, INTERNAL where a package is missing.
    """
    findings = examine(instrument, broker, patience, keys)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        mark, style = _MARKS[finding.good]
        # Text objects: a bracket in a message is no markup.
        table.add_row(finding.subject, Text(finding.name), Text(mark, style=style), Text(finding.text))
    Terminal().print(table, soft_wrap=True)
    wrong = {finding.subject for finding in findings if finding.good is False}
    if "instrument" in wrong:
        return ExitCode.NO_INSTRUMENT
    return ExitCode.INTERNAL if "installation" in wrong else ExitCode.DONE
