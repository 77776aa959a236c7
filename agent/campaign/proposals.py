"""What a program proposes, a language model for one: one proposal at a time, which does nothing until a person approves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from agent.errors import BadInputError
from agent.events import Audience, ProposalChanged
from agent.records import Settings
from agent.status.contract import Command


class Proposal(ProposalChanged):
    """One that waits."""

    settings: Settings


class Proposals:
    """The one that waits, if any.

    Args:
        audience: told of it.
        good_for: s after which it is dropped.
        say: told in a word and a sentence that it was.
    """

    def __init__(self, audience: Audience, good_for: float, say: Callable[[str, str], object]) -> None:
        self._audience = audience
        self._good_for = good_for
        self._say = say
        self._waiting: Proposal | None = None
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def require_room(self) -> None:
        """Raise BadInputError where one waits already."""
        if self._waiting is not None:
            raise BadInputError(f"proposal {self._waiting.number} waits for an operator; one at a time")

    def add(self, command: Command, by: str, settings: Settings, electrons: float) -> int:
        """Let a proposal wait.

        Args:
            command: that proposes.
            by: who.
            settings: legal ones.
            electrons: that a trial with them would cost.

        Returns:
            Its number.

        Raises:
            BadInputError: one waits already.
        """
        self.require_room()
        self._number += 1
        expires = (datetime.now(UTC) + timedelta(seconds=self._good_for)).isoformat(timespec="seconds")
        self._waiting = Proposal(
            number=self._number, by=by, reason=command.reason, settings=settings, electrons=electrons, expires=expires
        )
        self._timer = asyncio.get_running_loop().call_later(self._good_for, self._expire)
        self._audience.tell(ProposalChanged(**dict(self._waiting)))
        return self._number

    def waiting(self, number: int | None) -> Proposal:
        """The proposal of a number. Raises BadInputError where it does not wait."""
        if self._waiting is None or self._waiting.number != number:
            raise BadInputError(f"proposal {number} does not wait for approval")
        return self._waiting

    def drop(self) -> None:
        """No proposal waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting is not None:
            self._audience.tell(ProposalChanged(number=self._waiting.number))
        self._waiting = self._timer = None

    def _expire(self) -> None:
        if self._waiting is not None:
            number = self._waiting.number
            self.drop()
            self._say("PROPOSAL_EXPIRED", f"proposal {number} was not approved in time and is dropped")
