"""The command `ptychopilot`: how a person calls the agent."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command; exits with 0 done, 1 internal error, 2 bad input, 3 no instrument, 4 stopped."""
    if importlib.util.find_spec("typer") is None:
        sys.stderr.write(
            "ptychopilot: only the instrument side is installed here; `python -m instrument` serves a microscope, "
            "pip install 'ptychopilot[agent]' adds the agent\n"
        )
        raise SystemExit(2)
    from agent.cli.app import app
    from agent.cli.errors import run_guarded

    raise SystemExit(run_guarded(app, arguments))
