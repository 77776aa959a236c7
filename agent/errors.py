"""The agent's own errors. Each carries the exit code of the command line."""

from __future__ import annotations

from typing import ClassVar


class AgentError(Exception):
    """Base: an error a person can do something about. `exit_code` 1 is an internal error."""

    exit_code: ClassVar[int] = 1


class BadInputError(AgentError):
    """A file, a value or an option is wrong."""

    exit_code = 2


class InstrumentUnavailableError(AgentError):
    """The instrument cannot be reached or refuses."""

    exit_code = 3


class StoppedError(AgentError):
    """An operator, a limit of time or a full disk stopped the campaign; it can be resumed."""

    exit_code = 4


class GpuFailedError(AgentError):
    """The GPU has too little memory or failed; the CPU can do the same work."""
