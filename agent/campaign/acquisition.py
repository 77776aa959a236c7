"""One acquisition: on a fresh region, reserved, exposed, on disk. And what became of one that was interrupted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent.campaign.layout import fresh_field
from agent.campaign.live import LivePictures, Prospects
from agent.campaign.requests import Refusal
from agent.campaign.session import Session
from agent.config import interlacing
from agent.errors import InstrumentUnavailableError, NoResultError, StoppedError
from agent.events import FramesReceived, Phase, PhaseChanged
from agent.live_choice import StoppedScan
from agent.records import Role, Score, Trial, TrialState
from agent.storage.acquisition_file import AcquisitionWriter, require_space
from agent.storage.atomic import part_of
from instrument import (
    AcquisitionPlan,
    BudgetError,
    ConflictError,
    Description,
    ExhaustedError,
    InstrumentClient,
    InstrumentError,
    Outcome,
    OutOfLimitsError,
    Rectangle,
    SafeStateError,
    StreamError,
    SuspendedError,
)
from instrument.background import Background

logger = logging.getLogger(__name__)

LARGEST_GAP = 0.05
"""Part of the frames that may be missing before an acquisition counts as failed."""
_ABORT_INTERVAL_S = 0.1
_HEALTH_INTERVAL_S = 1.0

T = TypeVar("T")
Permitted = Callable[[], Awaitable[Refusal | None]]


class FreshAreaError(NoResultError):
    """No fresh region of the size wanted is left on the specimen."""


class NotPermittedError(Exception):
    """A person does not want a trial that was about to be exposed; its reservation is cancelled, and it is suggested again.

    Args:
        refusal: why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Acquirer:
    """Carries out the acquisitions of one campaign, one at a time.

    Args:
        session: whose trials are acquired.
        client: holds the lease.
        live: reconstructs scans while they run; None: nobody does.
    """

    def __init__(self, session: Session, client: InstrumentClient, live: LivePictures | None = None) -> None:
        self._client = client
        self._live = live
        self._campaign = session.journal.facts.campaign
        self._folder = session.folder
        self._metadata = session.config.metadata
        self._layout = session.layout
        self._scan = session.config.scan
        self._interlacing = interlacing(session.config, session.journal.facts.description)
        self._book = session.book
        self._audience = session.audience
        self._control = session.control
        self._running: asyncio.Event | None = None

    async def acknowledge_pause(self) -> None:
        """Return at once where nothing is exposed; else when the next patterns have come, or it is over."""
        if self._running is not None:
            self._running.clear()
            await self._running.wait()

    def account(self, role: Role) -> str:
        """The account in the instrument's ledger that pays for a role; the expert's comparison has one of its own."""
        return f"{self._campaign}-expert" if role == "expert" else self._campaign

    def plan(self, trial: Trial, field: Rectangle) -> AcquisitionPlan:
        """The plan of a trial. Its id depends on nothing but campaign and number: asked for twice, exposed once.

        Args:
            trial: says what to acquire.
            field: where, specimen frame, Å.
        """
        return AcquisitionPlan(
            id=f"{self._campaign}-{trial.number:03d}",
            campaign=self.account(trial.role),
            region=f"{trial.role}-{trial.number:03d}",
            field=field,
            step=trial.settings.step,
            defocus=trial.settings.defocus,
            dose=trial.settings.dose,
            semiangle=trial.settings.semiangle,
            pattern=self._scan,
            passes=1 if self._interlacing is None else 2,
            interlacing=self._interlacing or "offset",
        )

    def path(self, trial: Trial) -> Path:
        """Where the acquisition file of a trial lies."""
        return self._folder / "acquisitions" / f"{trial.number:03d}-{trial.role}.h5"

    async def place(self, trial: Trial, description: Description) -> Rectangle:
        """The field of a trial: as laid out at the start, or another one where that was exposed meanwhile.

        Args:
            trial: whose role and place in the order count.
            description: of the instrument now.

        Raises:
            FreshAreaError: no fresh region of the size is left.
        """
        layout = self._layout
        planned = {"final": layout.final, "expert": layout.expert}.get(trial.role)
        if trial.role in ("exploration", "reference"):
            used = sum(t.plan is not None for t in self._book if t.role in ("exploration", "reference"))
            planned = layout.exploration[used] if used < len(layout.exploration) else None
        if description.repeatable:
            return planned or layout.exploration[0]
        exposed = await self._client.illuminated(description.area.grown(layout.margin))
        if planned is not None and not any(planned.grown(layout.margin).overlaps(r, 1e-4) for r in exposed):
            return planned
        size = layout.final if trial.role in ("final", "expert") else layout.exploration[0]
        reserved = [layout.final, *([layout.expert] if layout.expert is not None else [])]
        taken = [*exposed, *(r.grown(layout.margin) for r in reserved if r != planned)]
        found = fresh_field(description.area, size.height, size.width, layout.margin, taken, beside=layout.final)
        if found is None:
            msg = (
                f"fresh area has run out: no region of {size.height:g} × {size.width:g} Å with a rim of "
                f"{layout.margin:.0f} Å is left beside the {len(exposed)} that are exposed"
            )
            raise FreshAreaError(msg)
        return found

    async def acquire(self, trial: Trial, description: Description, permitted: Permitted) -> Trial:
        """Reserve, expose and store a trial that has its plan.

        Args:
            trial: in state `suggested`, with its plan.
            description: of the instrument now.
            permitted: asked just before the exposure, and again after every wait: a person may have paused meanwhile.

        Returns:
            The trial, `acquired` or `failed`.

        Raises:
            StoppedError: an operator, the disk or the instrument in SAFE; what was exposed is booked.
            InstrumentError: the instrument is gone or taken by somebody else; the trial stays open.
            NotPermittedError: a person does not want it any more.
        """
        try:
            return await self._acquire(trial, description, permitted)
        except NotPermittedError:
            assert trial.plan is not None
            await self._client.cancel(trial.plan.id)
            self._book.update(trial, state=TrialState.SUGGESTED)
            raise

    async def _acquire(self, trial: Trial, description: Description, permitted: Permitted) -> Trial:
        assert trial.plan is not None
        plan, started = trial.plan, time.monotonic()
        self._tell("preparing", trial)
        pixels = int(np.prod(description.detector.shape)) * np.dtype(description.detector.dtype).itemsize
        require_space(self._folder, plan.n_positions * pixels)
        try:
            reservation = await self._when_well(trial, lambda: self._client.prepare(plan))
        except (OutOfLimitsError, BudgetError, ExhaustedError) as error:
            return self._book.update(trial, state=TrialState.FAILED, reason=f"refused by the instrument: {error}")
        except ConflictError as error:
            msg = f"the instrument refuses {plan.id}: {error}"
            raise InstrumentUnavailableError(msg) from error
        trial = self._book.update(trial, state=TrialState.RESERVED, seconds={"prepare": time.monotonic() - started})
        self._control.check()
        await _require(permitted)
        trial = self._book.update(trial, state=TrialState.ACQUIRING)
        self._tell("acquiring", trial, f"{plan.n_positions} positions, {reservation.check.duration:.1f} s of beam time")
        started = time.monotonic()
        description = description.through(plan.semiangle)
        with AcquisitionWriter(self.path(trial), plan, description, self._metadata) as writer, ExitStack() as stack:
            prospects = None
            if self._live is not None:
                duration = reservation.check.duration
                prospects = stack.enter_context(self._live.following(trial, description, writer, duration))
            outcome = await self._when_well(trial, lambda: self._expose(trial, writer, prospects), permitted)
            stack.close()
            trial = self._book.update(trial, electrons=outcome.electrons)
            if prospects is not None and outcome.state == "aborted" and not self._control.reason:
                stopped = prospects.stopped(reservation.check.electrons, outcome.electrons)
                if stopped is not None:
                    await asyncio.to_thread(writer.finish, outcome)
                    return self._stopped(trial, stopped, prospects.score, time.monotonic() - started)
            gap = 1 - writer.received.mean()
            if outcome.state != "done" or gap > LARGEST_GAP:
                reason = outcome.reason or f"{gap:.0%} of the frames are missing"
                return self._book.update(
                    trial, state=TrialState.FAILED, reason=f"acquisition {outcome.state}: {reason}"
                )
            await asyncio.to_thread(writer.finish, outcome)
        return self._acquired(trial, time.monotonic() - started)

    async def _when_well(self, trial: Trial, act: Callable[[], Awaitable[T]], permitted: Permitted | None = None) -> T:
        """Do something, again once the column is well where it is not: vacuum, high tension, cooling, …"""
        while True:
            try:
                return await act()
            except SuspendedError as error:
                self._tell("waiting", trial, str(error))
                logger.warning("%s: %s", trial.plan.id if trial.plan else trial.number, error)
                while not (await self._client.health()).ok:
                    self._control.check()
                    await self._control.unless_stopped(asyncio.sleep(_HEALTH_INTERVAL_S))
                if permitted is not None:
                    await _require(permitted)

    def _acquired(self, trial: Trial, seconds: float) -> Trial:
        file = str(self.path(trial).relative_to(self._folder))
        return self._book.update(trial, state=TrialState.ACQUIRED, acquisition_file=file, seconds={"acquire": seconds})

    def _stopped(self, trial: Trial, stopped: StoppedScan, score: Score | None, seconds: float) -> Trial:
        """A scan that could no longer win ends as a trial with the score that was expected of it."""
        return self._book.update(
            trial,
            state=TrialState.DONE,
            score=score,
            stopped=stopped,
            reason=stopped.sentence(),
            acquisition_file=str(self.path(trial).relative_to(self._folder)),
            seconds={"acquire": seconds},
        )

    async def _expose(self, trial: Trial, writer: AcquisitionWriter, prospects: Prospects | None) -> Outcome:
        plan = writer.plan
        self._running = arrived = asyncio.Event()
        before = 0

        def on_frames(received: int, total: int) -> None:
            nonlocal before
            if received > before:
                before = received
                arrived.set()
            self._audience.tell(FramesReceived(trial=trial.number, received=received, total=total))

        try:
            async with Background() as tasks:
                tasks.create_task(self._abort_when(self._control.wait_now, plan.id))
                if prospects is not None:
                    tasks.create_task(self._abort_when(prospects.hopeless, plan.id))
                return await self._client.acquire(plan.id, writer, on_frames)
        except StreamError as error:
            logger.warning("%s: %s", plan.id, error)
            return await self._booked(plan.id, str(error))
        except SafeStateError as error:
            raise StoppedError(str(error)) from error
        except StoppedError as error:  # the disk is full
            outcome = await self._booked(plan.id, str(error))
            self._book.update(trial, state=TrialState.FAILED, electrons=outcome.electrons, reason=str(error))
            raise
        finally:
            arrived.set()
            self._running = None

    async def _booked(self, plan_id: str, reason: str) -> Outcome:
        """What the instrument has booked for an exposure that went wrong on this side."""
        outcome = await self._client.abort(plan_id)
        return outcome if outcome.reason else outcome.model_copy(update={"reason": reason})

    async def _abort_when(self, reason: Callable[[], Awaitable[None]], plan_id: str) -> None:
        await reason()
        while True:  # the stop may have come before the start
            try:
                await self._client.abort(plan_id)
            except InstrumentError as error:
                logger.info("abort of %s: %s", plan_id, error)
            await asyncio.sleep(_ABORT_INTERVAL_S)

    async def reconcile(self, trial: Trial) -> Trial:
        """Find out from the instrument what became of a trial whose acquisition was interrupted.

        Args:
            trial: in an open state, with its plan.

        Returns:
            The trial. Exposed and on disk: acquired. Never exposed: suggested again, under the same id. Exposed and
            lost: failed, its electrons counted and its region left alone.
        """
        assert trial.plan is not None
        path = self.path(trial)
        part_of(path).unlink(missing_ok=True)
        outcome = await self._client.outcome(trial.plan.id)
        if outcome is not None and outcome.state == "running":
            outcome = await self._client.abort(trial.plan.id)
        # the file of a scan that was stopped is whole, and lacks frames
        if path.exists() and (outcome is None or outcome.state == "done"):
            trial = self._book.update(trial, electrons=trial.plan.electrons if outcome is None else outcome.electrons)
            return self._acquired(trial, 0.0)
        if outcome is None or outcome.state == "reserved":
            return self._book.update(trial, state=TrialState.SUGGESTED)
        reason = f"interrupted, the frames are lost ({outcome.reason or outcome.state})"
        return self._book.update(trial, state=TrialState.FAILED, electrons=outcome.electrons, reason=reason)

    def _tell(self, phase: Phase, trial: Trial, message: str = "") -> None:
        self._audience.tell(PhaseChanged(phase=phase, trial=trial.number, role=trial.role, message=message))


async def _require(permitted: Permitted) -> None:
    if (refusal := await permitted()) is not None:
        raise NotPermittedError(refusal)
