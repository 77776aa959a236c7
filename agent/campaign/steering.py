"""How a person steers a running campaign: pause, approve, veto, autonomy, and the beam off.

It changes when trials are acquired and whether, never what is legal: budgets, limits and SAFE are the instrument's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from agent.campaign.stop import Control
from agent.errors import BadInputError
from agent.events import Audience, PhaseChanged, SteeringChanged
from agent.records import Trial
from agent.status.contract import AUTONOMIES, Autonomy, Command
from agent.storage.journal import Journal
from instrument import InstrumentError

Blank = Callable[[], Awaitable[object]]


class Steering:
    """What a person has asked of a campaign, and the waiting for it. Lives in the event loop.

    Args:
        control: stops the campaign.
        autonomy: to begin with.

    Attributes:
        autonomy: see agent.status.contract.Autonomy.
        paused: whether nothing new is begun.
    """

    def __init__(self, control: Control, autonomy: Autonomy = "auto") -> None:
        self.autonomy: Autonomy = autonomy
        self.paused = False
        self._control = control
        self._changed = asyncio.Event()
        self._asked: Trial | None = None
        self._verdicts: dict[int, str | None] = {}
        self._blank: Blank | None = None
        self._audience: Audience | None = None
        self._journal: Journal | None = None

    def attach(self, journal: Journal, audience: Audience) -> None:
        """Say from now on, and write down, what a person does.

        Args:
            journal: of the campaign.
            audience: told of it.
        """
        self._journal, self._audience = journal, audience
        self._say("", "")

    @contextmanager
    def able_to_blank(self, blank: Blank) -> Iterator[None]:
        """While the block lasts the beam can be turned off by `blank`."""
        self._blank = blank
        try:
            yield
        finally:
            self._blank = None

    async def act(self, verb: str, command: Command, local: bool) -> str:
        """Carry out a command.

        Args:
            verb: see agent.status.contract.Verb.
            command: who, which trial, why.
            local: from this machine's own user, who may raise autonomy as well.

        Returns:
            What was done, in words.

        Raises:
            BadInputError: it cannot be done now, and why.
        """
        if self._journal is None:
            raise BadInputError("the campaign has not begun yet; try again in a moment")
        if self._control.reason and verb != "blank":
            raise BadInputError(f"the campaign is already being stopped: {self._control.reason}")
        by = command.by or "an operator"
        match verb:
            case "pause":
                return self._set_paused(True, by)
            case "resume":
                return self._set_paused(False, by)
            case "stop":
                self._control.stop(f"stopped by {by}{_because(command)}", now=False)
                return self._done("STOPPING", f"stops after what runs now, by {by}{_because(command)}")
            case "approve" | "veto":
                return self._decide(verb, command, by)
            case "autonomy":
                return self._set_autonomy(command, by, local)
            case _:
                return await self._turn_off(command, by)

    async def may_suggest(self) -> None:
        """Return when the next settings may be chosen. Raises StoppedError where the campaign is to stop."""
        while self.paused or self.autonomy == "observe":
            why = "paused" if self.paused else "autonomy is observe: nothing is suggested"
            await self._wait(why, None)

    async def permission(self, trial: Trial) -> str | None:
        """Wait until a trial may be acquired.

        Args:
            trial: suggested; nothing of it is reserved yet.

        Returns:
            None where it may be; why not where a person has vetoed it.

        Raises:
            StoppedError: the campaign is to stop.
        """
        while True:
            verdict = self._verdicts.get(trial.number, "")
            if verdict:
                return verdict
            if self.paused:
                why = "paused"
            elif self.autonomy == "auto" or (self.autonomy == "confirm" and verdict is None):
                return None
            elif self.autonomy == "confirm":
                why = f"trial {trial.number} waits for approval"
            else:
                why = f"autonomy is {self.autonomy}: trial {trial.number} is suggested and not carried out"
            await self._wait(why, trial)

    async def _wait(self, why: str, trial: Trial | None) -> None:
        """Say what is waited for, and return at the next thing that a person does."""
        assert self._audience is not None
        role = trial.role if trial is not None else None
        number = trial.number if trial is not None else None
        self._audience.tell(PhaseChanged(phase="waiting", trial=number, role=role, message=why))
        asks = trial if trial is not None and self.autonomy == "confirm" else None
        if asks is not None and self._asked is None:
            self._asked = asks
            self._say("NEEDS_APPROVAL", f"trial {asks.number} needs approval: {asks.suggestion.reason}")
        self._changed.clear()
        stop = asyncio.ensure_future(self._control.wait_any())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({stop, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (stop, changed):
                each.cancel()
            await asyncio.gather(stop, changed, return_exceptions=True)
            if self._asked is not None and (self._asked.number in self._verdicts or self.autonomy != "confirm"):
                self._asked = None
                self._say("", "")
        self._control.check()

    def _set_paused(self, paused: bool, by: str) -> str:
        if self.paused == paused:
            return "is paused already" if paused else "is not paused"
        self.paused = paused
        if paused:
            return self._done("PAUSED", f"paused by {by}: what runs now is finished, nothing new is begun")
        return self._done("RESUMED", f"goes on, by {by}")

    def _set_autonomy(self, command: Command, by: str, local: bool) -> str:
        if command.level is None:
            raise BadInputError(f"autonomy needs a level: {', '.join(AUTONOMIES)}")
        higher = AUTONOMIES.index(command.level) > AUTONOMIES.index(self.autonomy)
        if higher and not local:
            raise BadInputError(f"autonomy is {self.autonomy}; over MQTT it can only be lowered")
        self.autonomy = command.level
        return self._done("AUTONOMY", f"autonomy is {command.level}, by {by}")

    def _decide(self, verb: str, command: Command, by: str) -> str:
        number = command.trial
        if number is None:
            raise BadInputError(f"{verb} needs the number of a trial")
        if self._asked is None or self._asked.number != number:
            now = "none waits" if self._asked is None else f"trial {self._asked.number} does"
            raise BadInputError(f"trial {number} does not wait for approval ({now})")
        if verb == "approve":
            self._verdicts[number] = None
            return self._done("APPROVED", f"trial {number} approved by {by}")
        self._verdicts[number] = f"vetoed by {by}{_because(command)}"
        return self._done("VETO", f"trial {number} {self._verdicts[number]}")

    async def _turn_off(self, command: Command, by: str) -> str:
        if self._blank is None:
            raise BadInputError("the agent has no connection to the instrument; blank at the microscope")
        try:
            await self._blank()
        except InstrumentError as error:
            raise BadInputError(f"the instrument did not confirm: {error}; blank at the microscope") from error
        return self._done("BLANKED", f"beam off, instrument in SAFE, by {by}{_because(command)}")

    def _done(self, code: str, text: str) -> str:
        assert self._journal is not None
        self._journal.note(code.lower(), text=text)
        self._say(code, text)
        self._changed.set()
        return text

    def _say(self, code: str, text: str) -> None:
        if self._audience is not None:
            asked = self._asked.number if self._asked is not None else None
            self._audience.tell(
                SteeringChanged(autonomy=self.autonomy, paused=self.paused, needs_approval=asked, code=code, text=text)
            )


def _because(command: Command) -> str:
    return f": {command.reason}" if command.reason else ""
