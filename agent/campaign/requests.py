"""What a person asks for with settings of their own, and how long that, and an approval, is good for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent.campaign.trials import TrialBook
from agent.errors import BadInputError
from agent.records import Origin, Role, Settings, Suggestion, Trial, TrialState
from agent.status.commands import Way
from agent.status.contract import Command
from agent.storage.facts import Request
from agent.storage.journal import Journal

LONGEST_QUEUE = 8
"""Requests that may wait; more is a mistake, or malice."""
Judge = Callable[[Settings, Role, Trial | None], Awaitable[float]]
"""(settings, role, trial that they are to replace) -> electrons that they cost; raises BadInputError where they are not legal."""


@dataclass(frozen=True)
class Refusal:
    """Why a trial is not acquired.

    Attributes:
        state: vetoed, or abandoned because a person wants something else in its place.
        reason: with a name.
    """

    state: TrialState
    reason: str


def wanted(command: Command, suggested: Settings | None = None) -> Settings:
    """The settings of a command.

    Args:
        command: may leave out what stays as it was suggested.
        suggested: settings that are edited; None: everything has to be said.

    Raises:
        BadInputError: something is missing, or nothing is changed.
    """
    told = {"step": command.step_a, "defocus": command.defocus_a, "dose": command.dose}
    chosen = told | {"semiangle": command.semiangle_mrad}
    known = {} if suggested is None else suggested.model_dump()
    missing = [name for name, value in told.items() if value is None and name not in known]
    if missing:
        raise BadInputError(f"a trial needs step, defocus and dose; missing: {', '.join(missing)}")
    settings = Settings(**{**known, **{name: value for name, value in chosen.items() if value is not None}})
    if settings == suggested:
        raise BadInputError("nothing is changed; approve the trial, or say another step, defocus, dose or semi-angle")
    return settings


def suggestion_of(command: Command, settings: Settings, origin: Origin, reason: str) -> Suggestion:
    """A person's settings as the suggestion of a trial.

    Args:
        command: that asks for them.
        settings: as judged.
        origin: how they came about.
        reason: why, with a name.
    """
    return Suggestion(settings=settings, source="operator", reason=reason, origin=origin, request=command.id)


def only_here(way: Way, what: str) -> None:
    """Refuse what is not for everywhere.

    Args:
        way: how the command has come.
        what: is done, as a clause.

    Raises:
        BadInputError: it has not come from this machine's own user.
    """
    if way != "local":
        raise BadInputError(f"{what} at the agent's own page or with `ptychopilot ctl` there, not from elsewhere")


def because(command: Command) -> str:
    """The reason that a person gives, to be put behind a sentence."""
    return f": {command.reason}" if command.reason else ""


def in_words(settings: Settings) -> str:
    """Step, defocus, dose and aperture as a phrase."""
    told = f"{settings.step:.4g} Å, {settings.defocus:+.4g} Å, {settings.dose:.4g} e/Å²"
    return ", ".join(filter(None, (told, settings.aperture_text())))


class Requests:
    """What was asked for and is no trial yet, in the journal; and which approvals are still good.

    Args:
        journal: of the campaign, with what an earlier session has left.
        good_for: s that an approval, or a request, is good for.
        clock: s, monotonic.
    """

    def __init__(self, journal: Journal, good_for: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._good_for = good_for
        self._clock = clock
        self._given: dict[int, float] = {}
        self._asked: dict[str, float] = {}
        begun = [trial.suggestion for trial in journal.trials()]
        left = tuple(each for each in journal.facts.requests if each.suggestion not in begun)
        if left != journal.facts.requests:
            journal.write(requests=left)

    def waiting(self, role: Role | None = None) -> bool:
        """Whether something was asked for.

        Args:
            role: of the trial; None: any.
        """
        return any(role in (None, each.role) for each in self._journal.facts.requests)

    def add(self, role: Role, suggestion: Suggestion) -> None:
        """Take a request. It is on disk when this returns.

        Args:
            role: of the trial.
            suggestion: legal settings with the command's id.

        Raises:
            BadInputError: too many wait.
        """
        waiting = self._journal.facts.requests
        if len(waiting) >= LONGEST_QUEUE:
            raise BadInputError(f"{len(waiting)} requests wait already; at most {LONGEST_QUEUE} may")
        assert suggestion.request is not None
        self._asked[suggestion.request] = self._clock()
        self._journal.write(requests=(*waiting, Request(role=role, suggestion=suggestion)))

    def begin(self, role: Role, book: TrialBook) -> Trial | None:
        """The first request of a role as a trial; None where none waits.

        Args:
            role: of the trial.
            book: that it is entered into.
        """
        waiting = self._journal.facts.requests
        first = next((each for each in waiting if each.role == role), None)
        if first is None:
            return None
        trial = book.add(role, first.suggestion, 0.0)
        self._journal.write(requests=tuple(each for each in waiting if each != first))
        # of an earlier session nobody knows how long ago it was asked for
        self._given[trial.number] = self._asked.pop(first.suggestion.request or "", float("-inf"))
        return trial

    def approve(self, number: int) -> None:
        """A person has approved of a trial now."""
        self._given[number] = self._clock()

    def approved(self, number: int) -> bool | None:
        """Whether the approval of a trial is good; None where there is none.

        Args:
            number: of the trial.
        """
        given = self._given.get(number)
        return None if given is None else self._clock() - given <= self._good_for
