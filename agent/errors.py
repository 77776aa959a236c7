"""The agent's own errors, beside `BadInputError`, which the instrument's side shares. Exit codes belong to `agent.cli.errors`."""

from __future__ import annotations

from instrument.errors import BadInputError

__all__ = ["AgentError", "BadInputError", "InstrumentUnavailableError", "NoResultError", "StoppedError"]


class AgentError(Exception):
    """Base: an error a person can do something about."""


class InstrumentUnavailableError(AgentError):
    """The instrument cannot be reached or refuses."""


class NoResultError(AgentError):
    """There is no result: the trials of a campaign failed, or no score can be trusted."""


class StoppedError(AgentError):
    """An operator, a limit of time or a full disk stopped the campaign; it can be resumed."""
