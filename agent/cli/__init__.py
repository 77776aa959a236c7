"""The command `ptychopilot`: how a person calls the agent."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command; exits with an `agent.cli.errors.ExitCode`.

    Args:
        arguments: of the command, without its name; None: those of this process.
    """
    try:
        raise SystemExit(_run(arguments))
    except KeyboardInterrupt:  # while modules were being loaded
        sys.stderr.write("ptychopilot: stopped by Ctrl-C\n")
        raise SystemExit(4) from None


def _run(arguments: list[str] | None) -> int:
    from agent.cli.errors import ExitCode, run_guarded
    from instrument.text import write_anything

    write_anything()
    # matrices are small here, and threads of BLAS that wait for each other take the time of those that work
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that it cannot write to is no news for the user
    if importlib.util.find_spec("typer") is None:
        sys.stderr.write(
            "ptychopilot: only the instrument side is installed here; `python -m instrument` serves a microscope, "
            "pip install 'ptychopilot[agent]' adds the agent\n"
        )
        return ExitCode.BAD_INPUT
    from agent.cli.app import app

    return run_guarded(app, arguments)
