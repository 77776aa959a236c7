"""How a person steers it: pause, approve, veto, edit, own trials, autonomy, and the beam off.

It changes when trials are acquired, whether, and with which legal settings; never what is legal: budgets, limits and SAFE are
the instrument's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import get_args

from agent.campaign.parts import Parts
from agent.campaign.proposals import Proposals
from agent.campaign.requests import Judge, Refusal, Requests, because, in_words, only_here, suggestion_of, wanted
from agent.campaign.stop import Control
from agent.campaign.trials import TrialBook
from agent.errors import BadInputError
from agent.events import Audience, PhaseChanged, SteeringChanged
from agent.records import Role, Settings, Trial, TrialState
from agent.status.commands import Way
from agent.status.contract import AUTONOMIES, Autonomy, Command, Setting
from agent.storage.journal import Journal
from instrument import InstrumentError

Blank = Callable[[], Awaitable[object]]
SAME = 1e-9
"""Relative; settings that differ by less are the same."""
_EDITABLE: tuple[Role, ...] = ("exploration", "final")


class Steering:
    """What a person has asked of a campaign, and the waiting for it. Lives in the event loop.

    Args:
        control: stops the campaign.
        autonomy: to begin with.
        clock: s, monotonic.

    Attributes:
        autonomy: see agent.status.contract.Autonomy.
        parameters: autonomy over single settings, never above that of the campaign.
        paused: whether nothing new is begun.
        parts: who has to acknowledge a pause.
    """

    def __init__(
        self, control: Control, autonomy: Autonomy = "auto", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.autonomy: Autonomy = autonomy
        self.parameters: dict[str, Autonomy] = {}
        self.paused = False
        self.parts = Parts(lambda: self._say("", ""))
        self._control, self._clock = control, clock
        self._changed = asyncio.Event()
        self._asked: Trial | None = None
        self._held: Trial | None = None
        self._refusals: dict[int, Refusal] = {}
        self._blank: Blank | None = None
        self._judge: Judge | None = None
        self._audience: Audience | None = None

    def attach(self, journal: Journal, audience: Audience) -> None:
        """Say from now on, and write down, what a person does.

        Args:
            journal: of the campaign.
            audience: told of it.
        """
        choice = journal.facts.config.steering
        self._journal, self._audience = journal, audience
        self._requests = Requests(journal, choice.approval_expires, self._clock)
        self._proposals = Proposals(audience, choice.approval_expires, self._done)
        self._pause_within = choice.pause_within
        self.parameters = {name: getattr(choice, name) for name in get_args(Setting)}
        self._say("", "")

    def detach(self) -> None:
        """The campaign is over: nobody is asked any more."""
        self.parts.forget()
        self._proposals.drop()

    @contextmanager
    def able_to_blank(self, blank: Blank) -> Iterator[None]:
        """While the block lasts the beam can be turned off by `blank`."""
        self._blank = blank
        try:
            yield
        finally:
            self._blank = None

    @contextmanager
    def able_to_judge(self, judge: Judge) -> Iterator[None]:
        """While the block lasts a person's settings can be looked at by `judge`."""
        self._judge = judge
        try:
            yield
        finally:
            self._judge = None

    async def act(self, verb: str, command: Command, way: Way) -> str:
        """Carry out a command.

        Args:
            verb: see agent.status.contract.Verb.
            command: who, which trial, why.
            way: how it has come; this machine's own user may raise autonomy and ask for trials as well.

        Returns:
            What was done, in words.

        Raises:
            BadInputError: it cannot be done now, and why.
        """
        if self._audience is None:
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
                self._control.stop(f"stopped by {by}{because(command)}", now=False)
                return self._done("STOPPING", f"stops after what runs now, by {by}{because(command)}")
            case "approve" | "veto" if command.proposal is not None:
                return await self._decide_proposal(verb, command, by, way)
            case "approve" | "veto":
                return self._decide(verb, command, by)
            case "edit":
                return await self._edit(command, by, way)
            case "trial":
                return await self._ask_for(command, by, way)
            case "propose":
                return await self._propose(command, by)
            case "autonomy":
                return self._set_autonomy(command, by, way)
            case _:
                return await self._turn_off(command, by)

    # -- what the loop asks ----------------------------------------------------------------------------------------

    async def may_suggest(self) -> None:
        """Return when the next settings may be chosen, or a person has asked for some. Raises StoppedError."""
        while (self.paused or self.autonomy == "observe") and not self._requests.waiting():
            why = "paused" if self.paused else "autonomy is observe: nothing is suggested"
            await self._wait(why, None, asks=False)

    def begin_request(self, role: Role, book: TrialBook) -> Trial | None:
        """The first thing that a person has asked for, as a trial; None where nothing was.

        Args:
            role: of the trial.
            book: that it is entered into.
        """
        return self._requests.begin(role, book)

    async def permission(self, trial: Trial, before: Settings | None = None) -> Refusal | None:
        """Wait until a trial may be acquired.

        Args:
            trial: nothing of it is exposed yet.
            before: settings of the trial that was acquired last; None: none was.

        Returns:
            None where it may be; why not where a person does not want it.

        Raises:
            StoppedError: the campaign is to stop.
        """
        try:
            while True:
                if (refusal := self._refusals.pop(trial.number, None)) is not None:
                    return refusal
                policys = trial.suggestion.origin == "policy"
                if policys and trial.role in _EDITABLE and self._requests.waiting():
                    return Refusal(TrialState.ABANDONED, "a person has asked for other settings first")
                why, asks = self._held_by(trial, before)
                if not why:
                    return None
                await self._wait(why, trial, asks=asks)
        finally:
            if self._held is not None or self._asked is not None:
                self._held = self._asked = None
                self._say("", "")

    def _held_by(self, trial: Trial, before: Settings | None) -> tuple[str, bool]:
        """(why a trial is not acquired now, whether a person is asked); "" where it is."""
        why, asks = self._open_question(trial, before)
        if self.paused:
            return f"paused; {why}" if why else "paused", asks
        return why, asks

    def _open_question(self, trial: Trial, before: Settings | None) -> tuple[str, bool]:
        number, approved = trial.number, self._requests.approved(trial.number)
        if trial.suggestion.origin != "policy":
            asks = f"trial {number}: it was asked for too long ago and needs approval once more"
            return ("", False) if approved else (asks, True)
        level = self._level(trial.settings, before)
        if level == "auto" or (level == "confirm" and approved):
            return "", False
        if level == "confirm" and approved is False:
            return f"trial {number}: its approval has expired and is needed once more", True
        if level == "confirm":
            return f"trial {number} waits for approval", True
        return f"autonomy is {level}: trial {number} is suggested and not carried out", False

    def _level(self, settings: Settings, before: Settings | None) -> Autonomy:
        """The lowest of the campaign's autonomy and that over the settings that would change."""
        levels = [self.autonomy]
        for name, level in self.parameters.items():
            new, old = getattr(settings, name), getattr(before, name, None)
            if new is None:  # there is no choice of apertures
                continue
            if old is None or abs(new - old) > SAME * max(abs(new), abs(old)):
                levels.append(level)
        return min(levels, key=AUTONOMIES.index)

    async def _wait(self, why: str, trial: Trial | None, *, asks: bool) -> None:
        """Say what is waited for, and return at the next thing that a person does."""
        assert self._audience is not None
        role = trial.role if trial is not None else None
        number = trial.number if trial is not None else None
        self._audience.tell(PhaseChanged(phase="waiting", trial=number, role=role, message=why))
        asked_before = self._asked is not None
        self._asked, held = trial if asks else None, self._held
        self._held = trial
        if trial is not None and asks and not asked_before:
            self._say("NEEDS_APPROVAL", f"{why}: {trial.suggestion.reason}")
        elif held != trial or asked_before != asks:
            self._say("", "")
        self._changed.clear()
        stop = asyncio.ensure_future(self._control.wait_any())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({stop, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (stop, changed):
                each.cancel()
            await asyncio.gather(stop, changed, return_exceptions=True)
        self._control.check()

    # -- what a person does ----------------------------------------------------------------------------------------

    def _set_paused(self, paused: bool, by: str) -> str:
        if self.paused == paused:
            return "is paused already" if paused else "is not paused"
        self.paused = paused
        if not paused:
            self.parts.forget()
            return self._done("RESUMED", f"goes on, by {by}")
        self.parts.ask(self._pause_within, self._not_acknowledged)
        return self._done("PAUSED", f"paused by {by}: what runs now is finished, nothing new is begun")

    async def _not_acknowledged(self, parts: tuple[str, ...]) -> None:
        """A part that does not answer may do anything: the beam goes off and the instrument to SAFE."""
        text = f"not acknowledged within {self._pause_within:g} s by {', '.join(parts)}"
        command = Command(id="not-acknowledged", issued_at="", by="the agent", reason=f"pause {text}")
        try:
            await self._turn_off(command, command.by)
        except BadInputError as error:
            self._done("NOT_BLANKED", f"pause {text}, and the beam could not be turned off: {error}")

    def _set_autonomy(self, command: Command, by: str, way: Way) -> str:
        level, of = command.level, command.parameter
        if level is None:
            raise BadInputError(f"autonomy needs a level: {', '.join(AUTONOMIES)}")
        now = self.autonomy if of is None else self.parameters[of]
        if AUTONOMIES.index(level) > AUTONOMIES.index(now) and way != "local":
            raise BadInputError(f"autonomy is {now}; over MQTT it can only be lowered")
        if of is None:
            self.autonomy = level
        elif level == "observe":
            raise BadInputError("observe concerns all settings: nothing is suggested; leave out the parameter")
        else:
            self.parameters[of] = level
        return self._done("AUTONOMY", f"autonomy{f' over {of}' if of else ''} is {level}, by {by}")

    def _decide(self, verb: str, command: Command, by: str) -> str:
        number = command.trial
        if number is None:
            raise BadInputError(f"{verb} needs the number of a trial")
        if self._asked is None or self._asked.number != number:
            now = "none waits" if self._asked is None else f"trial {self._asked.number} does"
            raise BadInputError(f"trial {number} does not wait for approval ({now})")
        self._asked = None
        if verb == "approve":
            self._requests.approve(number)
            return self._done("APPROVED", f"trial {number} approved by {by}")
        refusal = Refusal(TrialState.VETOED, f"vetoed by {by}{because(command)}")
        self._refusals[number] = refusal
        return self._done("VETO", f"trial {number} {refusal.reason}")

    async def _edit(self, command: Command, by: str, way: Way) -> str:
        """A person's settings in place of what is suggested."""
        trial = self._to_edit(command)
        settings = wanted(command, trial.settings)
        electrons = await self._judged(settings, trial.role, trial)
        if way != "local":
            suggested = await self._judged(trial.settings, trial.role, trial)
            if settings.dose > trial.settings.dose * (1 + SAME) or electrons > suggested * (1 + SAME):
                msg = "over MQTT an edit can only lower dose and electrons; use the page or `ptychopilot ctl` at the agent"
                raise BadInputError(msg)
        self._to_edit(command)  # somebody else may have decided meanwhile
        reason = f"{by} in place of trial {trial.number}{because(command)}"
        self._requests.add(trial.role, suggestion_of(command, settings, "edited", reason))
        text = f"edited by {by}: {in_words(settings)}{because(command)}"
        self._refusals[trial.number] = Refusal(TrialState.ABANDONED, text)
        self._asked = None
        return self._done("EDITED", f"trial {trial.number} {text}")

    def _to_edit(self, command: Command) -> Trial:
        held = self._held
        if command.trial is None or held is None or held.number != command.trial or held.number in self._refusals:
            now = "none is" if held is None else f"trial {held.number} is"
            msg = f"trial {command.trial} is not held back ({now}); pause, or lower autonomy to confirm, to edit one"
            raise BadInputError(msg)
        if held.role not in _EDITABLE:
            raise BadInputError(f"the {held.role} acquisition cannot be edited: it would not compare any more; veto it")
        return held

    async def _ask_for(self, command: Command, by: str, way: Way) -> str:
        """A trial of a person's own."""
        only_here(way, "a trial of one's own is asked for")
        settings = wanted(command)
        electrons = await self._judged(settings, "exploration", None)
        suggestion = suggestion_of(command, settings, "manual", f"asked for by {by}{because(command)}")
        self._requests.add("exploration", suggestion)
        return self._done("ASKED", f"a trial of {by}'s comes next: {in_words(settings)}, {electrons:.4g} electrons")

    async def _propose(self, command: Command, by: str) -> str:
        """A program's settings, which wait for a person."""
        self._proposals.require_room()
        settings = wanted(command)
        electrons = await self._judged(settings, "exploration", None)
        number = self._proposals.add(command, by, settings, electrons)
        text = f"proposal {number} of {by}: {in_words(settings)}, {electrons:.4g} electrons{because(command)}"
        return self._done("PROPOSED", f"{text}; waits for an operator's approval")

    async def _decide_proposal(self, verb: str, command: Command, by: str, way: Way) -> str:
        proposal = self._proposals.waiting(command.proposal)
        if verb == "veto":
            self._proposals.drop()
            return self._done("VETO", f"proposal {proposal.number} vetoed by {by}{because(command)}")
        only_here(way, "a proposal is approved")
        await self._judged(proposal.settings, "exploration", None)
        self._proposals.waiting(command.proposal)  # somebody else may have decided meanwhile
        reason = f"proposed by {proposal.by}{f': {proposal.reason}' if proposal.reason else ''}; approved by {by}"
        self._requests.add("exploration", suggestion_of(command, proposal.settings, "proposed", reason))
        self._proposals.drop()
        return self._done("APPROVED", f"proposal {proposal.number} approved by {by}; it is the next trial")

    async def _judged(self, settings: Settings, role: Role, trial: Trial | None) -> float:
        if self._judge is None:
            raise BadInputError("the agent has no connection to the instrument, which has to be asked; try again")
        try:
            return await self._judge(settings, role, trial)
        except InstrumentError as error:
            raise BadInputError(f"the instrument refuses: {error}") from error

    async def _turn_off(self, command: Command, by: str) -> str:
        if self._blank is None:
            raise BadInputError("the agent has no connection to the instrument; blank at the microscope")
        try:
            await self._blank()
        except InstrumentError as error:
            raise BadInputError(f"the instrument did not confirm: {error}; blank at the microscope") from error
        return self._done("BLANKED", f"beam off, instrument in SAFE, by {by}{because(command)}")

    def _done(self, code: str, text: str) -> str:
        self._journal.note(code.lower(), text=text)
        self._say(code, text)
        self._changed.set()
        return text

    def _say(self, code: str, text: str) -> None:
        if self._audience is not None:
            self._audience.tell(
                SteeringChanged(
                    autonomy=self.autonomy,
                    paused=self.paused,
                    needs_approval=self._asked.number if self._asked is not None else None,
                    held=self._held.number if self._held is not None else None,
                    parameters=self.parameters,
                    unacknowledged=self.parts.unacknowledged,
                    code=code,
                    text=text,
                )
            )
