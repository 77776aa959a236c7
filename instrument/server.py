"""Any `Microscope` on the network, behind the promises that keep the specimen safe whatever the agent does.

Three sockets: control (ROUTER, one JSON request and reply each), safe (ROUTER with a thread of its own: blank, stop,
status) and data (PUSH, Stream V2). The promises are listed in README.md.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zmq
import zmq.asyncio

from instrument import wire
from instrument.access import Admitted
from instrument.background import Background
from instrument.backup import Backups
from instrument.commands import Commands
from instrument.data_socket import HANDSHAKE_LIMIT_MS, DataSocket
from instrument.endpoints import allow_ipv6, beside, bind, check_endpoint, is_loopback
from instrument.errors import MalformedRequestError
from instrument.guard import BeamGuard
from instrument.health_watch import HealthWatch
from instrument.heartbeat import HardwareLine, Heartbeat
from instrument.keys import ServerKeys
from instrument.ledger import Ledger
from instrument.legacy_stream import LegacyCopy
from instrument.microscope import Microscope, NeedsHeartbeat
from instrument.models import Description
from instrument.reception import Reception
from instrument.safe_socket import SafeSocket
from instrument.status import Figures
from instrument.suspenders import HOLD, Suspenders
from instrument.terms import OwnersLimits, Terms

log = logging.getLogger(__name__)

STALL_TIMEOUT = 2.0
SHUT_DOWN = "the server was shut down"
HOUSEKEEPING_INTERVAL = 0.05


class InstrumentServer:
    """Serves one microscope. An async context manager: bound and ready inside, blanked and closed after it.

    Args:
        microscope: the instrument; the server owns its beam from now on.
        state_dir: where the ledger lives; the instrument's memory survives its process there.
        control: endpoint of the commands; port `*` takes a free one.
        safe: endpoint of blank, stop and status; None: a free port on the interface of `control`.
        data: endpoint of the frames; None: likewise.
        name: what to call the instrument; None: as it describes itself.
        keys: CURVE keys, mandatory for endpoints that other machines can reach.
        stall_timeout: s without a frame, beyond the time that a frame takes, after which the beam goes off.
        heartbeats: who has to hear that this process is alive; closed by the caller.
        hold: s for which the column has to be well again, after it was not, before anything is exposed.
        legacy: endpoint on this machine where programs that read Stream V1 get a copy of the frames; None: nowhere.
        backup: folder for a copy of the ledger; None: none is kept.
        data_faults: what is sent instead of each message of the data socket, for trying agents; None: itself.
        limits: of the owner, narrower than the microscope's; None: its own.
        dry_run: keep the beam blanked in all acquisitions.
        clock: monotonic time, s.

    Raises:
        MalformedRequestError: an endpoint that is not one, or that is off loopback without keys.
        BadInputError: the owner's limits are wider than the microscope's, or its description promises what nobody can keep.
        ConflictError: an endpoint or the state directory is in use.
    """

    def __init__(
        self,
        microscope: Microscope,
        *,
        state_dir: Path,
        control: str = "tcp://127.0.0.1:*",
        safe: str | None = None,
        data: str | None = None,
        name: str | None = None,
        keys: ServerKeys | None = None,
        stall_timeout: float = STALL_TIMEOUT,
        heartbeats: Sequence[Heartbeat] = (),
        hold: float = HOLD,
        legacy: str | None = None,
        backup: Path | None = None,
        data_faults: Callable[[bytes], Iterable[bytes]] | None = None,
        limits: OwnersLimits | None = None,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_endpoint(control)
        self.control = control
        self.safe = safe or beside(control, "safe")
        self.data = data or beside(control, "data")
        self.name = name or ""
        for endpoint in (self.control, self.safe, self.data):
            check_endpoint(endpoint)
            if keys is None and not is_loopback(endpoint):
                msg = (
                    f"{endpoint} can be reached from other machines, which needs CURVE keys: give the server's secret "
                    "key and the directory of admitted clients, or bind to 127.0.0.1"
                )
                raise MalformedRequestError(msg, endpoint=endpoint)
        self._microscope = microscope
        self._terms = Terms(microscope, limits, dry_run)
        self._state_dir = state_dir
        self._keys = keys
        self._stall_timeout = stall_timeout
        self._hold = hold
        self._legacy = legacy
        self._backup = backup
        self._data_faults = data_faults
        self._heartbeats = list(heartbeats)
        if isinstance(microscope, NeedsHeartbeat):
            self._heartbeats.append(HardwareLine(microscope.heartbeat))
        self._clock = clock

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            ledger = Ledger(self._state_dir)
            stack.callback(ledger.close)
            self._backups = Backups(ledger, self._backup, self._clock)
            stack.callback(self._backups.renew)
            stack.push_async_callback(asyncio.sleep, 0)  # events that the safe thread still has queued for the ledger
            self._microscope.blank()
            stack.callback(self._microscope.blank)
            description = await self._terms.require_possible()
            self._guard = _make_guard(self._terms, ledger, self._clock)
            self.name = self.name or description.name
            data = self._open_sockets(description, stack)
            stack.enter_context(self._safe_socket)
            tasks = await stack.enter_async_context(Background())
            self._commands = Commands(
                self._terms,
                ledger,
                self._guard,
                data,
                tasks,
                greeting={
                    "name": self.name,
                    "version": [wire.MAJOR, wire.MINOR],
                    "endpoints": {"safe": self.safe, "data": self.data},
                },
                stall_timeout=self._stall_timeout,
                clock=self._clock,
            )
            stack.push_async_callback(self._commands.end_exposure, SHUT_DOWN)
            suspenders = Suspenders(self._clock, self._hold)
            health = HealthWatch(self._microscope, self._guard, suspenders, self._state_dir)
            await health.look()
            tasks.create_task(health.run())
            tasks.create_task(self._reception.receive(tasks, self._commands.carry_out))
            tasks.create_task(self._supervise())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def stop_beam(self, reason: str) -> None:
        """Blank and end the running acquisition; may be called from any thread.

        The beam goes off even while the event loop is stuck. The instrument does not go to SAFE.

        Args:
            reason: becomes the reason of the acquisition's outcome.
        """
        self._guard.stop(reason)

    @property
    def dry_run(self) -> bool:
        """Whether the beam stays blanked in all acquisitions."""
        return self._terms.dry_run

    def figures(self) -> Figures:
        """What there is to be measured now; may be called from any thread."""
        tally, status = self._commands.tally, self._guard.status()
        try:
            free = float(shutil.disk_usage(self._state_dir).free)
        except OSError:
            free = -1.0
        return Figures(
            name=self.name,
            status=status,
            frames=tally.frames,
            frames_lost=tally.lost,
            exposures=dict(tally.ended),
            leases_lapsed=self._guard.leases_lapsed,
            disk_free=free,
        )

    def _open_sockets(self, description: Description, stack: AsyncExitStack) -> DataSocket:
        context = zmq.Context()
        stack.callback(context.destroy, linger=200)
        admitted = None
        if self._keys is not None:
            admitted = Admitted(self._keys.clients)
            stack.callback(self._keys.authenticator(context, admitted).stop)
        detector = description.detector
        frame_bytes = detector.shape[0] * detector.shape[1] * np.dtype(detector.dtype).itemsize
        control = zmq.asyncio.Socket(context, zmq.ROUTER)
        safe = context.socket(zmq.ROUTER)
        push = context.socket(zmq.PUSH)
        data = DataSocket(push, frame_bytes, faults=self._data_faults)
        stack.callback(data.close)
        for router in (control, safe):
            stack.callback(router.close, linger=200)
            router.router_mandatory = True
        self._reception = Reception(control, self._guard, admitted)
        stack.callback(self._reception.peers.close)
        self._safe_socket = SafeSocket(safe, self._guard, self._heartbeats, self._clock)
        self.control = self._bind(control, self.control)
        self.safe = self._bind(safe, self.safe)
        self.data = self._bind(push, self.data)
        if self._legacy is not None:
            copy = LegacyCopy.bound(context, self._legacy)
            stack.callback(copy.close)
            data.copy = copy.send
        return data

    def _bind(self, socket: zmq.Socket[Any], endpoint: str) -> str:
        socket.heartbeat_ivl, socket.heartbeat_timeout = 1000, 3000
        socket.handshake_ivl = HANDSHAKE_LIMIT_MS
        allow_ipv6(socket, endpoint)
        if self._keys is not None:
            self._keys.secure(socket)
        bind(socket, endpoint)
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_INTERVAL)
            self._commands.supervise()
            self._reception.peers.look()
            if not self._guard.exposing:
                self._backups.look()


def _make_guard(terms: Terms, ledger: Ledger, clock: Callable[[], float]) -> BeamGuard:
    loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()
    booked, safe_note = ledger.safe_reason(), ledger.safe_note

    def journal(reason: str) -> None:
        log.warning("SAFE: %s", reason)
        safe_note.enter(reason)
        if threading.get_ident() == loop_thread:
            note(reason)
        else:
            loop.call_soon_threadsafe(note, reason)

    def note(reason: str) -> None:
        safe_note.sync()
        try:
            ledger.record_event("safe", reason)
        except sqlite3.Error:
            log.exception("the ledger takes no note of SAFE; %s does", safe_note.path)

    def release() -> None:
        safe_note.release()
        loop.call_soon_threadsafe(safe_note.sync)  # a disk that is slow does not keep the guard from its turns

    guard = BeamGuard(
        terms.microscope.blank,
        clock=clock,
        on_safe=journal,
        on_release=release,
        safe_reason=booked or safe_note.reason,
        fence=ledger.fence(),
        dry_run=terms.dry_run,
    )
    guard.book(*ledger.totals())
    if safe_note.reason and not booked:
        note(safe_note.reason)
    if ledger.interrupted:
        guard.go_safe(f"the server ended while acquisition {ledger.interrupted[-1]} was running")
    return guard
