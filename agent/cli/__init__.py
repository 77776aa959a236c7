"""The command `ptychopilot`: how a person calls the agent."""

from __future__ import annotations

from agent.cli.errors import run_guarded

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command; exits with 0 done, 1 internal error, 2 bad input, 3 no instrument, 4 stopped."""
    from agent.cli.app import app

    raise SystemExit(run_guarded(app, arguments))
