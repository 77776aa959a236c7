"""The desk at which commands are taken: looked at, refused or carried out, and answered, whichever way they came.

MQTT is not the safety path. What is allowed over it can make nothing worse: no command raises a dose, moves a field, or releases
an instrument from SAFE.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, get_args

from pydantic import ValidationError

from agent.errors import BadInputError
from agent.status.contract import LARGEST_COMMAND, Command, Reply, Verb

VERBS: tuple[str, ...] = get_args(Verb)
_REMEMBERED = 512
"""Commands whose answer is kept, so that one that comes twice is carried out once."""
_CLOCK_DIFFERENCE_S = 5.0
"""s by which the clock of whoever commands may be ahead."""

Act = Callable[[str, Command, bool], Awaitable[str]]
"""(verb, command, local) -> what was done; raises BadInputError where it is refused. `local`: from this machine's own user."""


def new_command(by: str, **fields: Any) -> Command:
    """A command of now.

    Args:
        by: who commands.
        fields: of Command.
    """
    return Command(
        id=secrets.token_urlsafe(12), issued_at=datetime.now(UTC).isoformat(timespec="milliseconds"), by=by, **fields
    )


class CommandDesk:
    """Takes commands.

    Args:
        act: carries one out.
        now: the time, with zone.
    """

    def __init__(self, act: Act, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._act = act
        self._now = now
        self._answered: OrderedDict[str, Reply] = OrderedDict()
        self._sequence = 0

    async def handle(self, verb: str, payload: bytes, *, retained: bool = False, local: bool = False) -> Reply | None:
        """Look at a command and carry it out where it may be.

        Args:
            verb: as the topic says.
            payload: JSON of a Command.
            retained: whether a broker had kept it: then nobody is there who wants it now.
            local: whether it comes from this machine's own user, not over MQTT.

        Returns:
            What to answer; None where the command has no id that an answer could name.
        """
        try:
            if len(payload) > LARGEST_COMMAND:
                return None
            command = Command.model_validate_json(payload)
        except ValidationError as error:
            return self._malformed(payload, verb, error)
        if (known := self._answered.get(command.id)) is not None:
            return known
        reply = await self._decide(verb, command, retained=retained, local=local)
        self._answered[command.id] = reply
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        return reply

    async def _decide(self, verb: str, command: Command, *, retained: bool, local: bool) -> Reply:
        if retained:
            return self._reply(
                command, verb, "RETAINED", "a retained command is not carried out; publish it without retain"
            )
        if verb not in VERBS:
            return self._reply(command, verb, "NOT_ALLOWED", f"{verb!r} is no command; there are {', '.join(VERBS)}")
        late = self._lateness(command)
        if late is not None:
            return self._reply(command, verb, "EXPIRED", late)
        try:
            done = await self._act(verb, command, local)
        except BadInputError as error:
            return self._reply(command, verb, "REFUSED", str(error))
        return self._reply(command, verb, "OK", done)

    def _lateness(self, command: Command) -> str | None:
        """Why a command is not of now; None where it is."""
        try:
            issued = datetime.fromisoformat(command.issued_at)
            age = (self._now() - issued).total_seconds()
        except (ValueError, TypeError):
            return f"issued_at {command.issued_at!r} is no time with a zone (ISO 8601)"
        if age > command.ttl_s:
            return f"it is {age:.0f} s old and was good for {command.ttl_s:g} s"
        if age < -_CLOCK_DIFFERENCE_S:
            return f"it was issued {-age:.0f} s in the future; set the clocks"
        return None

    def _malformed(self, payload: bytes, verb: str, error: ValidationError) -> Reply | None:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the command"
        try:
            found = Command.model_construct(**_mapping(payload))
            Command.model_validate({"id": found.id, "issued_at": ""})
        except (ValidationError, ValueError, AttributeError, TypeError):
            return None
        return self._reply(found, verb, "MALFORMED", f"{where}: {first['msg']}")

    def _reply(self, command: Command, verb: str, code: str, text: str) -> Reply:
        self._sequence += 1
        ts = self._now().isoformat(timespec="milliseconds")
        return Reply(
            id=command.id, verb=verb[:32], accepted=code == "OK", code=code, text=text, ts=ts, seq=self._sequence
        )


def _mapping(payload: bytes) -> dict[str, Any]:
    found = json.loads(payload)
    return found if isinstance(found, dict) else {}
