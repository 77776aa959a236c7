"""The agent's end of an instrument: every verb as a coroutine, the lease as a context, the frames into a sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import zmq

from instrument import wire
from instrument.background import Background
from instrument.channel import Channel
from instrument.endpoints import as_reached
from instrument.errors import (
    ExpiredError,
    HandshakeError,
    InstrumentError,
    RefusedError,
    StaleLeaseError,
    StreamError,
    UnreachableError,
)
from instrument.following import follow
from instrument.keys import ClientKeys
from instrument.models import AcquisitionPlan, Description, Health, Outcome, PlanCheck, Rectangle, Reservation
from instrument.receiver import FrameReceiver, FrameSink
from instrument.status import CampaignAccount, InstrumentStatus, Lease, LedgerEntry, OperatorEvent

HELLO_TIMEOUT = 2.0
ABORT_TIMEOUT = 2.0


class InstrumentClient:
    """Talks to one instrument server. An async context manager, connected inside.

    Every method raises the typed error that the server answered (`instrument.errors`), or UnreachableError, which names
    the endpoint, where no answer came within `request_timeout`.

    Args:
        endpoint: of the server's control socket; it tells the others.
        holder: name under which leases are taken. A holder takes over from itself, so that an agent that was killed can
            go on; two agents that may meet need two names.
        keys: CURVE keys, where the server is not on this machine.
        timeout: s to try to reach the instrument on entering.
        request_timeout: s to wait for an answer; the server refuses a command that arrives later.
        clock: monotonic time, s.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        holder: str = "ptychopilot",
        keys: ClientKeys | None = None,
        timeout: float = 60.0,
        request_timeout: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.holder = holder
        self.server_name = ""
        self._keys = keys
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._clock = clock
        self._lease: wire.LeaseToken | None = None
        self._lease_lost: InstrumentError | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._context: zmq.Context[Any] = zmq.Context()
            stack.callback(self._context.destroy, linger=0)
            self._tasks = await stack.enter_async_context(Background())
            self._control = self._open_channel(self.endpoint, stack)
            hello = await self._say_hello()
            self.server_name = str(hello["name"])
            self._data_endpoint = as_reached(hello["endpoints"]["data"], self.endpoint)
            self._safe = self._open_channel(as_reached(hello["endpoints"]["safe"], self.endpoint), stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _open_channel(self, endpoint: str, stack: AsyncExitStack) -> Channel:
        try:
            channel = Channel(self._context, endpoint, self._keys)
        except zmq.ZMQError as error:
            msg = f"{endpoint} is not an endpoint ({error.strerror}); expected something like tcp://127.0.0.1:5555"
            raise UnreachableError(msg, endpoint=endpoint) from error
        self._tasks.create_task(channel.read())
        stack.callback(channel.close)
        return channel

    async def _say_hello(self) -> dict[str, Any]:
        give_up = self._clock() + self._timeout
        while True:
            left = give_up - self._clock()
            try:
                hello: dict[str, Any] = await self._control.request("hello", limit=max(0.01, min(HELLO_TIMEOUT, left)))
            except RefusedError:
                raise
            except UnreachableError as error:
                if left > HELLO_TIMEOUT:
                    continue
                if isinstance(error, HandshakeError):
                    raise
                msg = f"no instrument answers at {self.endpoint} (tried for {self._timeout:g} s); is it running there?"
                raise UnreachableError(msg, endpoint=self.endpoint) from error
            self._set_clock(hello)
            return hello

    def _set_clock(self, told: Any) -> None:
        """Learn the server's clock from an answer that tells it; no two clocks run alike for days, nor through a suspend."""
        if isinstance(told, dict) and isinstance(clock := told.get("clock"), int | float):
            # Too early by at most the way back, so that a deadline errs on the side of refusal.
            self._clock_offset = float(clock) - self._clock()

    async def _request(self, op: str, *, limit: float | None = None, **args: Any) -> Any:
        if self._lease_lost is not None:
            raise self._lease_lost
        limit = limit or self._request_timeout
        for last in (False, True):
            deadline = self._clock() + limit + self._clock_offset
            try:
                return await self._control.request(op, args, limit=limit, lease=self._lease, deadline=deadline)
            except ExpiredError:
                if last:
                    raise
                # It was not carried out. Either it was late, or the two clocks have parted.
                self._set_clock(await self._control.request("hello", limit=limit))
        raise AssertionError

    async def describe(self) -> Description:
        """What the instrument is, and which settings are legal."""
        return Description.from_wire(await self._request("describe"))

    async def status(self) -> InstrumentStatus:
        """State of beam, lease and books. The safe socket answers at once, whatever else goes on."""
        return InstrumentStatus.from_wire(await self._safe.request("status", limit=self._request_timeout))

    async def health(self) -> Health:
        """How the microscope itself is."""
        return Health.from_wire(await self._request("health"))

    @asynccontextmanager
    async def lease(self, ttl: float = 10.0) -> AsyncIterator[Lease]:
        """Hold the right to command the beam; it is renewed in the background and given back at the end.

        Without a renewal for `ttl` the instrument blanks and goes to SAFE. When the lease is lost, whatever is called next
        raises StaleLeaseError (or UnreachableError, where the instrument no longer answers).

        Args:
            ttl: s, 0.05 … 600; renewed every quarter of it.

        Yields:
            The lease.

        Raises:
            ConflictError: somebody else holds it.
        """
        lease = Lease.from_wire(await self._request("lease.acquire", holder=self.holder, ttl=ttl))
        self._lease = wire.LeaseToken(holder=lease.holder, fence=lease.fence)
        renewal = self._tasks.create_task(self._renew(ttl))
        try:
            yield lease
        finally:
            renewal.cancel()
            await asyncio.wait({renewal})
            lost, token = self._lease_lost, self._lease
            self._lease = self._lease_lost = None
            if lost is None:
                await self._release(token)

    async def _renew(self, ttl: float) -> None:
        while True:
            await asyncio.sleep(ttl / 4)
            try:
                self._set_clock(await self._request("lease.renew", limit=ttl))
            except InstrumentError as error:
                self._lease_lost = error
                if isinstance(error, UnreachableError):
                    self._control.fail_pending(error)
                return

    async def _release(self, token: wire.LeaseToken | None) -> None:
        try:
            await self._control.request("lease.release", limit=min(ABORT_TIMEOUT, self._request_timeout), lease=token)
        except (StaleLeaseError, UnreachableError):
            return  # it is over either way; the server sees to the beam

    async def open_campaign(self, campaign_id: str, electrons: float) -> CampaignAccount:
        """Open the campaign's account, or find the one there is.

        Args:
            campaign_id: name of the campaign on this instrument.
            electrons: its budget.

        Raises:
            ConflictError: it was opened with another budget.
        """
        account = await self._request("campaign", campaign=campaign_id, electrons=electrons)
        return CampaignAccount.from_wire(account)

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """Ask what a plan would cost; nothing is reserved.

        Args:
            plan: to be checked.

        Raises:
            OutOfLimitsError: the instrument cannot do it.
            ExhaustedError: the recording has too few counts left.
        """
        return PlanCheck.from_wire(await self._request("check", plan=plan.model_dump(mode="json")))

    async def prepare(self, plan: AcquisitionPlan) -> Reservation:
        """Reserve the electrons of a plan. The same plan again finds the same reservation.

        Args:
            plan: to be acquired.

        Returns:
            The reservation and what is left of the budget.

        Raises:
            BudgetError: campaign or region have fewer electrons left.
            OutOfLimitsError, ExhaustedError: as `check`.
            ConflictError: the id is known with another plan.
            StaleLeaseError, SafeStateError: this client may not expose now.
        """
        return Reservation.from_wire(await self._request("prepare", plan=plan.model_dump(mode="json")))

    async def acquire(
        self, plan_id: str, sink: FrameSink, on_frames: Callable[[int, int], None] | None = None
    ) -> Outcome:
        """Expose a prepared plan and receive its frames; returns when it has ended and every frame is in the sink.

        Where the acquisition had been started before, its outcome is returned without frames: nothing is exposed twice.
        An aborted or failed acquisition is an outcome, not an error; the frames it had are in the sink.

        Args:
            plan_id: of a reservation.
            sink: takes the frames, in a thread; what it raises aborts the acquisition and is raised here.
            on_frames: called in the event loop, ten times a second at most, with the numbers received and expected.

        Returns:
            How the acquisition ended.

        Raises:
            StreamError: the acquisition was done, but frames are missing or not what they should be.
            NotReservedError, SafeStateError, StaleLeaseError, ConflictError: it was not started.
            UnreachableError: the instrument is gone; the outcome is to be asked for when it is back.
        """
        found = await self._request("exposures", id=plan_id)
        if not found or found[0]["state"] != "reserved":
            return Outcome.from_wire(await self._request("start", id=plan_id))
        n_positions = LedgerEntry.from_wire(found[0]).plan.n_positions
        receiver = FrameReceiver(
            self._context,
            self._data_endpoint,
            plan_id,
            n_positions,
            sink,
            keys=self._keys,
            on_frames=on_frames,
        )
        async with receiver:
            await receiver.connected(self._request_timeout)
            await self._start(plan_id)
            try:
                outcome = await follow(plan_id, receiver, self.outcome, self._try_abort, self._tasks)
            except BaseException:
                await self._try_abort(plan_id)
                raise
        if outcome.state == "done" and (missing := receiver.missing()):
            shown = ", ".join(map(str, missing[:5]))
            msg = f"{len(missing)} of {n_positions} frames of {plan_id} are missing (indices {shown} …)"
            raise StreamError(msg, missing=len(missing))
        return outcome

    async def _start(self, plan_id: str) -> None:
        try:
            await self._request("start", id=plan_id)
        except (UnreachableError, asyncio.CancelledError):
            # It may have been started all the same, and nobody would take its frames.
            await self._try_abort(plan_id)
            raise

    async def _try_abort(self, plan_id: str) -> None:
        try:
            limit = min(ABORT_TIMEOUT, self._request_timeout)
            await self._control.request("abort", {"id": plan_id}, limit=limit, lease=self._lease)
        except InstrumentError:
            return  # the error on its way out matters more; without renewals the lease lapses and blanks

    async def outcome(self, plan_id: str, wait: float = 0.0) -> Outcome | None:
        """Ask how an acquisition ended.

        Args:
            plan_id: its id.
            wait: s, 30 at most, to wait for a running one to end.

        Returns:
            The outcome, whose state is "running" where it has not ended; None where the instrument does not know the id.
        """
        result = await self._request("outcome", limit=self._request_timeout + wait, id=plan_id, wait=wait)
        return None if result is None else Outcome.from_wire(result)

    async def cancel(self, plan_id: str) -> Outcome:
        """Release an unused reservation. Raises NotReservedError where the id is not known."""
        return Outcome.from_wire(await self._request("cancel", id=plan_id))

    async def abort(self, plan_id: str) -> Outcome:
        """Stop an acquisition now; its delivered electrons stay booked. One that was not started yet never will be.

        Raises:
            NotReservedError: the id is not known.
        """
        return Outcome.from_wire(await self._request("abort", id=plan_id))

    async def exposures(self, campaign_id: str | None = None) -> list[LedgerEntry]:
        """The lines of the ledger, or those of one campaign, in the order of reservation. For people: they may be many."""
        lines: list[LedgerEntry] = []
        while page := await self._request("exposures", campaign=campaign_id, after=lines[-1].series if lines else 0):
            lines += map(LedgerEntry.from_wire, page)
        return lines

    async def illuminated(self, area: Rectangle) -> list[Rectangle]:
        """Where electrons went, or have been promised to go, whichever campaign's.

        Args:
            area: that the illuminated rectangles, Å, have to overlap.
        """
        found: dict[tuple[float, ...], None] = {}
        more, after = True, 0
        while more:
            page = await self._request("illuminated", area=area.model_dump(), after=after)
            found.update(dict.fromkeys(tuple(row[1:]) for row in page["rectangles"]))
            more, after = page["more"], int(page["rectangles"][-1][0]) if page["more"] else 0
        return [Rectangle(y=y0, x=x0, height=y1 - y0, width=x1 - x0) for y0, x0, y1, x1 in found]

    async def events(self) -> list[OperatorEvent]:
        """When the instrument went to SAFE and who released it, oldest first."""
        return [OperatorEvent.from_wire(event) for event in await self._request("events")]

    async def blank(self) -> InstrumentStatus:
        """Turn the beam off now, over the safe socket; the instrument stays in SAFE until `resume`."""
        return InstrumentStatus.from_wire(await self._safe.request("blank", limit=self._request_timeout))

    async def stop(self) -> InstrumentStatus:
        """End what runs now, over the safe socket, without going to SAFE."""
        return InstrumentStatus.from_wire(await self._safe.request("stop", limit=self._request_timeout))

    async def resume(self, operator: str, reason: str) -> InstrumentStatus:
        """Release the instrument from SAFE, as a person; journalled.

        Args:
            operator: who releases it.
            reason: why it is safe to go on.
        """
        return InstrumentStatus.from_wire(await self._request("resume", operator=operator, reason=reason))
