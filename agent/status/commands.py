"""The desk at which commands are taken: looked at, refused or carried out, and answered, whichever way they came.

MQTT is not the safety path. What is allowed over it can make nothing worse: no command raises a dose, moves a field, or releases
an instrument from SAFE. An advisor, a program such as a language model, may propose and nothing else. What is refused is logged.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError

from agent.errors import BadInputError
from agent.status.contract import LARGEST_COMMAND, Command, Reply, Verb
from instrument.text import visible

logger = logging.getLogger(__name__)
Way = Literal["mqtt", "local", "advisor"]
"""How a command comes: over a broker; from this machine's own user; from a program that advises that user."""
ADVISOR_VERBS = ("propose",)
MOST_PER_MINUTE = 30
"""Commands of an advisor that are looked at; those beyond are refused without a line in the log each."""
VERBS: tuple[str, ...] = get_args(Verb)
_REMEMBERED = 512
"""Commands whose answer is kept, so that one that comes twice is carried out once."""
_CLOCK_DIFFERENCE_S = 5.0
"""s by which the clock of whoever commands may be ahead."""

Act = Callable[[str, Command, Way], Awaitable[str]]
"""(verb, command, way) -> what was done; raises BadInputError where it is refused."""


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
        self._advised: deque[datetime] = deque(maxlen=MOST_PER_MINUTE)
        self._sequence = 0

    async def handle(self, verb: str, payload: bytes, *, retained: bool = False, way: Way = "mqtt") -> Reply | None:
        """Look at a command and carry it out where it may be.

        Args:
            verb: as the topic says.
            payload: JSON of a Command.
            retained: whether a broker had kept it: then nobody is there who wants it now.
            way: how it has come.

        Returns:
            What to answer; None where the command has no id that an answer could name.
        """
        crowded = way == "advisor" and self._too_many()
        try:
            if len(payload) > LARGEST_COMMAND:
                return None
            command = Command.model_validate_json(payload)
        except ValidationError as error:
            return self._malformed(payload, verb, error, log=not crowded)
        if (known := self._answered.get(command.id)) is not None:
            return known
        if crowded:
            text = f"more than {MOST_PER_MINUTE} commands within a minute; wait"
            return self._reply(command, verb, "NOT_ALLOWED", text, log=False)
        reply = await self._decide(verb, command, retained=retained, way=way)
        self._answered[command.id] = reply
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        return reply

    def _too_many(self) -> bool:
        now = self._now()
        if len(self._advised) == MOST_PER_MINUTE and (now - self._advised[0]).total_seconds() < 60:
            return True
        self._advised.append(now)
        return False

    async def _decide(self, verb: str, command: Command, *, retained: bool, way: Way) -> Reply:
        if retained:
            return self._reply(
                command, verb, "RETAINED", "a retained command is not carried out; publish it without retain"
            )
        if verb not in VERBS:
            return self._reply(command, verb, "NOT_ALLOWED", f"{verb!r} is no command; there are {', '.join(VERBS)}")
        if way == "advisor" and verb not in ADVISOR_VERBS:
            return self._reply(
                command, verb, "NOT_ALLOWED", f"an advisor may propose settings; {verb} is an operator's"
            )
        late = self._lateness(command)
        if late is not None:
            return self._reply(command, verb, "EXPIRED", late)
        try:
            done = await self._act(verb, command, way)
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

    def _malformed(self, payload: bytes, verb: str, error: ValidationError, *, log: bool) -> Reply | None:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the command"
        try:
            told = _mapping(payload)
            found = Command.model_validate({"id": told.get("id"), "issued_at": "", "by": str(told.get("by", ""))[:80]})
        except (ValidationError, ValueError, AttributeError, TypeError):
            return None
        return self._reply(found, verb, "MALFORMED", f"{where}: {first['msg']}", log=log)

    def _reply(self, command: Command, verb: str, code: str, text: str, *, log: bool = True) -> Reply:
        self._sequence += 1
        if code != "OK" and log:
            logger.warning("%s", visible(f"refused {verb[:32]!r} of {str(command.by)[:80]!r}: {text}"))
        ts = self._now().isoformat(timespec="milliseconds")
        return Reply(
            id=command.id, verb=verb[:32], accepted=code == "OK", code=code, text=text, ts=ts, seq=self._sequence
        )


def _mapping(payload: bytes) -> dict[str, Any]:
    found = json.loads(payload)
    return found if isinstance(found, dict) else {}
