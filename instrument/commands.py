"""The verbs of the control socket: what each takes, what it requires, what it does."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from instrument import wire
from instrument.access import Sender
from instrument.audit import ACTING
from instrument.background import Background
from instrument.beam import BeamTime
from instrument.data_socket import DataSocket
from instrument.dose_map import peak_dose
from instrument.ends import Ends
from instrument.errors import (
    ConflictError,
    ExpiredError,
    InstrumentError,
    MalformedRequestError,
    NotReservedError,
)
from instrument.exposure import expose
from instrument.guard import BeamGuard
from instrument.ledger import Ledger
from instrument.microscope import Microscope
from instrument.models import Description, Outcome, PlanCheck, Record, Reservation
from instrument.requests import (
    AcquisitionRequest,
    CampaignRequest,
    ExposuresRequest,
    IlluminatedRequest,
    LeaseRequest,
    Nothing,
    OutcomeRequest,
    PlanRequest,
    ResumeRequest,
    parse,
)
from instrument.settings import Settings
from instrument.status import Lease, LedgerEntry
from instrument.terms import Terms

log = logging.getLogger(__name__)

RECEIVER_TIMEOUT = 5.0
STOP_TIMEOUT = 2.0
RECTANGLES_OF_A_PAGE = 5000
OF_THE_HOLDER = frozenset({"campaign", "cancel", "abort"})
"""Verbs for which a lease is not needed, but that nobody else may use while somebody has it."""


class Commands:
    """Carries out requests, one state-changing verb at a time.

    Args:
        terms: on which the microscope is lent.
        ledger: its books.
        guard: decides whether the beam may be on.
        data: where frames go.
        tasks: home of the running acquisition.
        greeting: what `hello` answers, besides the time.
        stall_timeout: s without a frame, beyond the time that a frame takes, after which the beam goes off.
        clock: monotonic time, s; deadlines are in it.
    """

    def __init__(
        self,
        terms: Terms,
        ledger: Ledger,
        guard: BeamGuard,
        data: DataSocket,
        tasks: Background,
        *,
        greeting: dict[str, Any],
        stall_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._terms = terms
        self._microscope: Microscope = terms.microscope
        self._ledger = ledger
        self._guard = guard
        self._data = data
        self._tasks = tasks
        self._greeting = greeting
        self._stall_timeout = stall_timeout
        self._clock = clock
        self._changing = asyncio.Lock()
        self._ended = asyncio.Condition()
        self._running: tuple[LedgerEntry, asyncio.Task[None]] | None = None
        self._frames = 0
        self._departures = 0
        self._stopping_since: float | None = None
        self._ends = Ends(ledger, guard.go_safe)
        self.tally = self._ends.tally
        self._settings = Settings(terms.microscope, guard.go_safe)
        self._verbs: dict[str, tuple[type[Record], Callable[[Any, wire.Request], Awaitable[Any]]]] = {
            "hello": (Nothing, self._hello),
            "describe": (Nothing, self._describe),
            "status": (Nothing, self._status),
            "health": (Nothing, self._health),
            "lease.acquire": (LeaseRequest, self._acquire_lease),
            "lease.renew": (Nothing, self._renew_lease),
            "lease.release": (Nothing, self._release_lease),
            "campaign": (CampaignRequest, self._open_campaign),
            "check": (PlanRequest, self._check),
            "prepare": (PlanRequest, self._prepare),
            "start": (AcquisitionRequest, self._start),
            "outcome": (OutcomeRequest, self._outcome),
            "cancel": (AcquisitionRequest, self._cancel),
            "abort": (AcquisitionRequest, self._abort),
            "exposures": (ExposuresRequest, self._exposures),
            "illuminated": (IlluminatedRequest, self._illuminated),
            "events": (Nothing, self._events),
            "resume": (ResumeRequest, self._resume),
        }

    async def carry_out(self, request: wire.Request, buffers: list[bytes], sender: Sender) -> Any:
        """Carry out a request.

        Args:
            request: verb, arguments, lease and deadline.
            buffers: raw message parts; no verb takes any.
            sender: whose it is; the verb is one that the sender's role may use.

        Returns:
            The result, as JSON values.

        Raises:
            InstrumentError: the request was refused, and nothing was done.
        """
        if request.op not in self._verbs:
            msg = f"unknown verb {request.op!r}; known: {', '.join(sorted(self._verbs))}"
            raise MalformedRequestError(msg)
        if buffers:
            msg = f"{request.op} takes no buffers; {len(buffers)} were sent"
            raise MalformedRequestError(msg)
        arguments, verb = self._verbs[request.op]
        parsed = parse(arguments, request)
        self._refuse_expired(request)
        self._guard.check_fence(request.lease)
        if request.op in OF_THE_HOLDER and not (sender.name and sender.role == "operator"):
            self._guard.require_no_other(request.lease, request.op)
        if isinstance(parsed, ResumeRequest) and sender.name:
            parsed = parsed.model_copy(update={"operator": f"{parsed.operator} (key {sender.name})"})
        ACTING.set(sender.called(request.lease.holder if request.lease is not None else ""))
        try:
            return _to_json(await verb(parsed, request))
        except sqlite3.Error as error:
            msg = f"the ledger cannot be written or read ({error}), and nothing was done; is its disk full?"
            raise InstrumentError(msg) from error

    @asynccontextmanager
    async def _one_at_a_time(self, request: wire.Request) -> AsyncIterator[None]:
        async with self._changing:
            # It may have waited long enough for its deadline to pass or its lease to lapse.
            self._refuse_expired(request)
            self._guard.check_fence(request.lease)
            yield

    def _refuse_expired(self, request: wire.Request) -> None:
        if request.deadline is not None and (late := self._clock() - request.deadline) > 0:
            msg = f"{request.op} arrived {late:.3f} s after its deadline and was not carried out; send it again"
            raise ExpiredError(msg, late=late)

    async def _hello(self, _: Nothing, request: wire.Request) -> dict[str, Any]:
        return {**self._greeting, "clock": self._clock()}

    async def _describe(self, _: Nothing, request: wire.Request) -> Record:
        return await self._terms.describe()

    async def _status(self, _: Nothing, request: wire.Request) -> Record:
        return self._guard.status()

    async def _health(self, _: Nothing, request: wire.Request) -> Record:
        health = await self._microscope.health()
        suspended = self._guard.status().suspended
        return health.model_copy(update={"ok": False, "message": suspended}) if suspended else health

    async def _acquire_lease(self, args: LeaseRequest, request: wire.Request) -> Record:
        fence = self._guard.grant(args.holder, args.ttl, self._ledger.next_fence)
        return Lease(holder=args.holder, fence=fence, ttl=args.ttl)

    async def _renew_lease(self, _: Nothing, request: wire.Request) -> dict[str, Any]:
        self._guard.renew(request.lease)
        return {"clock": self._clock()}

    async def _release_lease(self, _: Nothing, request: wire.Request) -> None:
        self._guard.release(request.lease)

    async def _open_campaign(self, args: CampaignRequest, request: wire.Request) -> Record:
        async with self._one_at_a_time(request):
            return self._ledger.open_campaign(args.campaign, args.electrons)

    async def _check(self, args: PlanRequest, request: wire.Request) -> Record:
        return (await self._terms.verify(args.plan))[0]

    async def _prepare(self, args: PlanRequest, request: wire.Request) -> Record:
        plan = args.plan
        self._guard.require(request.lease)
        async with self._one_at_a_time(request):
            known = self._ledger.exposure(plan.id)
            if known is not None and known.plan == plan:
                account = self._ledger.account(plan.campaign)
                return Reservation(id=plan.id, check=known.check, electrons_left=account.left)
            check, description = await self._terms.verify(plan)
            self._guard.require(request.lease)
            limit, before = description.region_dose_limit, None
            if limit is not None and not check.dry:
                booked = self._ledger.overlapping(check.illuminated)
                before = await asyncio.to_thread(peak_dose, booked, check.illuminated)
                self._guard.require(request.lease)
            account = self._ledger.reserve(plan, check, limit, before)
            self._book()
        return Reservation(id=plan.id, check=check, electrons_left=account.left)

    async def _start(self, args: AcquisitionRequest, request: wire.Request) -> Record:
        async with self._one_at_a_time(request):
            entry = self._ledger.exposure(args.id)
            if entry is None:
                msg = f"acquisition {args.id} has no reservation; prepare it first"
                raise NotReservedError(msg, id=args.id)
            if entry.state == "reserved":
                self._guard.require(request.lease)
                await self._wait_for_receiver()
                description = await self._terms.describe()
                await self._settings.confirm(entry, description)
                description = description.through(entry.plan.semiangle)
                self._refuse_expired(request)
                limit = _frame_limit(entry.check, description) + self._stall_timeout
                first = description.settle_time + limit
                beam_time = self._guard.begin(entry.id, request.lease, first, dry=entry.check.dry)
                try:
                    self._ledger.mark_running(entry.id)
                except BaseException:
                    self._guard.end()
                    raise
                entry = self._ledger.exposure(entry.id) or entry
                self._frames, self._stopping_since = 0, None
                exposure = self._expose(entry, description, beam_time, limit)
                self._running = entry, self._tasks.create_task(exposure)
            return self._require_outcome(args.id)

    async def _wait_for_receiver(self) -> None:
        deadline = self._clock() + RECEIVER_TIMEOUT
        while (count := self._data.receivers()) != 1:
            if self._clock() > deadline:
                msg = f"{count} receivers are connected to the data socket; there must be exactly one to start"
                raise ConflictError(msg, receivers=count)
            await asyncio.sleep(0.01)
        self._departures = self._data.departures

    async def _expose(
        self, entry: LedgerEntry, description: Description, beam_time: BeamTime, frame_limit: float
    ) -> None:
        def note_frame(count: int) -> None:
            self._frames = count
            self.tally.frames += 1
            self._guard.progress(frame_limit)

        result = await expose(
            self._microscope,
            entry,
            description,
            self._data,
            beam_time=beam_time,
            blank=self._guard.blank,
            stop_reason=lambda: self._guard.stop_reason,
            clock=self._clock,
            on_frame=note_frame,
            alarm=self._guard.go_safe,
        )
        self._ends.book(entry.id, result)
        if result.state != "done":
            log.warning("acquisition %s %s: %s", entry.id, result.state, result.reason)
        self._running = None
        self._guard.end()
        self._book()
        async with self._ended:
            self._ended.notify_all()

    def supervise(self) -> None:
        """End an acquisition whose receiver is gone, and cut off one that does not heed a stop. Called regularly."""
        receivers = self._data.receivers()
        if self._running is None:
            self._ends.try_again()
            if not self._changing.locked() and self._settings.unrested(held=bool(self._guard.status().holder)):
                self._tasks.create_task(self._rest())
            return
        entry, task = self._running
        now = self._clock()
        if self._guard.stop_reason:
            self._stopping_since = self._stopping_since or now
            if now - self._stopping_since > STOP_TIMEOUT:
                task.cancel()
        elif receivers == 0 or self._data.departures != self._departures:
            self._guard.stop("the receiver of the frames has gone away", entry.id)
        elif receivers > 1:
            self._guard.stop("a second receiver has connected and takes frames away", entry.id)

    async def _rest(self) -> None:
        async with self._changing:
            if self._running is None:
                await self._settings.rest(await self._terms.describe(), held=bool(self._guard.status().holder))

    async def end_exposure(self, reason: str) -> None:
        """Stop what runs and wait until it is booked.

        Args:
            reason: becomes the reason of its outcome.
        """
        if self._running is not None:
            _, task = self._running
            self._guard.stop(reason)
            if not (await asyncio.wait({task}, timeout=STOP_TIMEOUT))[0]:
                task.cancel()
                await asyncio.wait({task})

    def _require_outcome(self, acquisition: str) -> Outcome:
        outcome = self._outcome_now(acquisition)
        if outcome is None:
            msg = f"acquisition {acquisition} is not known here; prepare it first"
            raise NotReservedError(msg, id=acquisition)
        return outcome

    def _outcome_now(self, acquisition: str) -> Outcome | None:
        outcome = self._ends.outcome(acquisition)
        if outcome is not None and outcome.state == "running":
            outcome = outcome.model_copy(update={"frames": self._frames})
        return outcome

    async def _outcome(self, args: OutcomeRequest, request: wire.Request) -> Record | None:
        def over() -> bool:
            return self._running is None or self._running[0].id != args.id

        try:
            async with asyncio.timeout(args.wait), self._ended:
                await self._ended.wait_for(over)
        except TimeoutError:
            pass
        return self._outcome_now(args.id)

    async def _cancel(self, args: AcquisitionRequest, request: wire.Request) -> Record:
        async with self._one_at_a_time(request):
            outcome = self._ledger.cancel(args.id)
            self._book()
        return outcome

    async def _abort(self, args: AcquisitionRequest, request: wire.Request) -> Record:
        if self._guard.stop("aborted by the agent", args.id) and self._running is not None:
            await asyncio.wait({self._running[1]}, timeout=2 * STOP_TIMEOUT)
        elif (outcome := self._outcome_now(args.id)) is not None and outcome.state == "reserved":
            # The abort has overtaken the start, which must not expose any more.
            return await self._cancel(args, request)
        return self._require_outcome(args.id)

    async def _exposures(self, args: ExposuresRequest, request: wire.Request) -> list[LedgerEntry]:
        if args.id is None:
            return self._ledger.exposures(args.campaign, args.after)
        found = self._ledger.exposure(args.id)
        return [] if found is None else [found]

    async def _illuminated(self, args: IlluminatedRequest, request: wire.Request) -> dict[str, Any]:
        rows = self._ledger.overlapping(args.area, args.after, RECTANGLES_OF_A_PAGE)
        return {"rectangles": rows[:, :5].tolist(), "more": len(rows) == RECTANGLES_OF_A_PAGE}

    async def _events(self, _: Nothing, request: wire.Request) -> list[Any]:
        return self._ledger.events()

    async def _resume(self, args: ResumeRequest, request: wire.Request) -> Record:
        async with self._one_at_a_time(request):
            if self._guard.status().phase == "safe":
                self._ledger.record_event("resume", args.reason, args.operator)
                self._guard.resume()
                log.warning("released from SAFE by %s: %s", args.operator, args.reason)
        return self._guard.status()

    def _book(self) -> None:
        self._guard.book(*self._ledger.totals())


def _frame_limit(check: PlanCheck, description: Description) -> float:
    """s within which the next frame has to come: a flyback may lie between, and buffers may hold it back."""
    frame_time = max(check.dwell_time + description.frame_overhead, check.duration / check.n_positions)
    return frame_time + description.line_overhead + description.latency


def _to_json(result: Any) -> Any:
    if isinstance(result, Record):
        return result.model_dump(mode="json")
    if isinstance(result, list):
        return [_to_json(item) for item in result]
    return result
