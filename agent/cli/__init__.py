"""The command `ptychopilot`: how a person calls the agent."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command; exits with an `agent.cli.errors.ExitCode`.

    Args:
        arguments: of the command, without its name; None: those of this process.
    """
    from agent.cli.errors import ExitCode, run_guarded

    if importlib.util.find_spec("typer") is None:
        sys.stderr.write(
            "ptychopilot: only the instrument side is installed here; `python -m instrument` serves a microscope, "
            "pip install 'ptychopilot[agent]' adds the agent\n"
        )
        raise SystemExit(ExitCode.BAD_INPUT)
    from agent.cli.app import app

    raise SystemExit(run_guarded(app, arguments))
