"""From an exception to one line on standard error and an exit code. Exit codes are defined here only."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from agent.errors import AgentError, BadInputError, InstrumentUnavailableError, NoResultError, StoppedError
from instrument.text import visible

if TYPE_CHECKING:
    import typer


class ExitCode(IntEnum):
    """How the command ends."""

    DONE = 0
    INTERNAL = 1
    BAD_INPUT = 2
    NO_INSTRUMENT = 3
    STOPPED = 4
    NO_RESULT = 5


EXIT_CODES: dict[type[Exception], ExitCode] = {
    BadInputError: ExitCode.BAD_INPUT,
    InstrumentUnavailableError: ExitCode.NO_INSTRUMENT,
    StoppedError: ExitCode.STOPPED,
    NoResultError: ExitCode.NO_RESULT,
}
"""Of the errors that a user can act on; any other is internal."""


_TYPER_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


def run_guarded(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the application; print what went wrong in one line, with a traceback only where `--debug` is among the arguments.

    Args:
        app: the application.
        arguments: of the command, without its name; None: those of this process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # A verb that ends with typer.Exit comes back as its code, any other as None.
        code = app(arguments, prog_name="ptychopilot", standalone_mode=False) or 0
        if code == _TYPER_INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except SystemExit as end:
        # typer's way out when whoever read our output has gone (`| head`).
        return end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        if "--debug" in arguments:
            raise
        code, message = describe(error)
        if message:
            print_error(message)
        return code


def describe(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an exception. Of a group the most telling member speaks: one the user can act on."""
    import typer

    if isinstance(error, BaseExceptionGroup):
        return min((describe(e) for e in error.exceptions), key=lambda found: (found[0] == ExitCode.INTERNAL, found[0]))
    if isinstance(error, typer.TyperException):
        # A call without a verb has printed the help already and has nothing more to say.
        message = error.format_message().rstrip(".")
        if meant := getattr(getattr(error, "param", None), "help", None):
            message += f" ({meant.rstrip('.')})"
        return (
            error.exit_code,
            f"{message}; `ptychopilot --help` lists the verbs, VERB --help explains one" if message else "",
        )
    if isinstance(error, AgentError | BadInputError):
        return exit_code(error), str(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return ExitCode.STOPPED, "stopped by Ctrl-C"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" of {error.filename}" if error.filename else ""
        if error.errno == errno.EFBIG:
            return (
                ExitCode.STOPPED,
                f"a file{where} has reached the limit of file sizes (`ulimit -f`); raise it and resume",
            )
        return ExitCode.STOPPED, f"the disk{where} is full; free some space and resume"
    if isinstance(error, OSError) and error.filename is not None:
        return ExitCode.BAD_INPUT, f"{error.filename}: {error.strerror}"
    return _instrument_error(error)


def exit_code(error: Exception) -> int:
    """The exit code of an error of the agent's."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), ExitCode.INTERNAL)


def print_error(message: str) -> None:
    """One line in red on standard error."""
    from agent.cli.terminal import Terminal

    line = visible(" ".join(message.split()))
    Terminal(stderr=True).print(f"ptychopilot: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def _instrument_error(error: BaseException) -> tuple[int, str]:
    from instrument.errors import InstrumentError

    if isinstance(error, InstrumentError):
        return ExitCode.NO_INSTRUMENT, f"the instrument refuses: {error}"
    return (
        ExitCode.INTERNAL,
        f"internal error, {type(error).__name__}: {error} (run it again with --debug to see where)",
    )
