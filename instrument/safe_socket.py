"""The thread that guards the beam: `blank`, `stop` and `status` on a socket of its own, the lease, and the heartbeats.

It answers and blanks however busy or stuck the event loop of the server may be. `blank` and `stop` are anybody's who can reach
the socket: nobody is asked for a lease, a role or a reason before the beam goes off.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from instrument import wire
from instrument.errors import InstrumentError, MalformedRequestError
from instrument.guard import BeamGuard
from instrument.heartbeat import Heartbeat, HeartbeatError
from instrument.peers import PeerWatch
from instrument.watchdog import HEARTBEAT_INTERVAL

log = logging.getLogger(__name__)

POLL_MS = 20
QUEUE, PART_BYTES = 16, 1 << 14
"""Requests of one peer that may wait, and the largest part of one; they take no arguments."""


class SafeSocket:
    """A context manager: the thread runs inside.

    Args:
        socket: ROUTER, not yet bound; not used by anybody else once it is entered.
        guard: whose `tick` is called at every turn.
        heartbeats: who has to hear that this process is alive.
        clock: monotonic time, s.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        guard: BeamGuard,
        heartbeats: Sequence[Heartbeat] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._guard = guard
        self._heartbeats = heartbeats
        self._clock = clock
        self._next_beat = clock()
        self._peers = PeerWatch(socket, QUEUE, PART_BYTES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="safe socket")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._guard.tick()
            except Exception:
                # The microscope would not blank: this thread is the last that can still try again.
                log.exception("the beam could not be blanked; trying again")
            self._beat()
            if self._socket.poll(POLL_MS):
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                self._peers.took(parts)
                frames = [part.bytes for part in parts]
                # A client that is gone or does not read must not hold up the next one.
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.send_multipart([frames[0], *wire.encode(self._answer(frames[1:]))], zmq.NOBLOCK)
        self._peers.close()

    def _beat(self) -> None:
        if (now := self._clock()) < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT_INTERVAL
        self._peers.look()
        for each in self._heartbeats:
            try:
                each.beat(exposing=self._guard.exposing)
            except HeartbeatError as error:
                try:
                    self._guard.go_safe(str(error))
                except Exception:
                    log.exception("the beam could not be blanked; trying again")

    def _answer(self, frames: list[bytes]) -> wire.Reply:
        try:
            request, buffers = wire.decode_request(frames)
            if request.args or buffers:
                msg = f"{request.op} takes no arguments here"
                raise MalformedRequestError(msg)
            result = self._carry_out(request.op)
        except InstrumentError as error:
            return wire.Reply(id=wire.request_id(frames), ok=False, error=error.to_wire(), state=self._state())
        except Exception as error:
            log.exception("a request on the safe socket failed")
            failure = InstrumentError(f"{type(error).__name__}: {error}").to_wire()
            return wire.Reply(id=wire.request_id(frames), ok=False, error=failure, state=self._state())
        return wire.Reply(id=request.id, ok=True, result=result, state=self._state())

    def _carry_out(self, op: str) -> dict[str, Any]:
        match op:
            case "blank":
                self._guard.go_safe("blanked by hand")
            case "stop":
                self._guard.stop("stopped by hand")
            case "status":
                pass
            case _:
                msg = f"unknown verb {op!r}; this socket knows blank, stop, status"
                raise MalformedRequestError(msg)
        return self._state()

    def _state(self) -> dict[str, Any]:
        return self._guard.status().model_dump()
