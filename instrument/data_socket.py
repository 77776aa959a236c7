"""The server's end of the data plane: a PUSH socket that knows how many receivers it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

SEND_BUFFER_BYTES = 64 << 20
HANDSHAKE_LIMIT_MS = 2000
"""A connection that has not identified itself by then is closed by ZeroMQ."""
SETTLED_AFTER = 1e-3 * HANDSHAKE_LIMIT_MS + 1.0
"""s after which a connection that is still open is a receiver, also one of ZMTP 2, which has no handshake to report."""
RETRY_INTERVAL = 0.002
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass
class _Connection:
    since: float
    completed: bool = False


class DataSocket:
    """The PUSH socket of the frames.

    PUSH deals its messages out in turn, so a second receiver would take every other frame of the first: an acquisition
    starts only while exactly one is connected. Sending waits for the receiver (the microscope pauses) without ever
    blocking the event loop.

    Args:
        socket: unbound PUSH socket with `handshake_ivl` HANDSHAKE_LIMIT_MS; closed by `close`.
        frame_bytes: size of an uncompressed frame, bytes; decides how many are buffered.
        clock: monotonic time, s.
        faults: what is sent instead of a message, for trying agents; None: itself.

    Attributes:
        copy: is handed every message that has been sent, too.
        departures: how many receivers have gone away so far, as of the last look; one that is back at once counts.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        frame_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        faults: Callable[[bytes], Iterable[bytes]] | None = None,
    ) -> None:
        self._faults = faults
        socket.sndhwm = max(16, SEND_BUFFER_BYTES // max(1, frame_bytes))
        self._socket = socket
        self._clock = clock
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._connections: dict[int, _Connection] = {}
        self.departures = 0
        self.copy: Callable[[bytes], None] | None = None

    def close(self) -> None:
        """Close at once; what was not taken by the receiver is dropped."""
        self._socket.disable_monitor()
        self._socket.close(linger=0)

    def receivers(self) -> int:
        """Number of peers that have completed the handshake, and with it the check of their keys.

        A connection that says nothing is not a receiver: it gets no frames, and ZeroMQ closes it after HANDSHAKE_LIMIT_MS.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections[event["value"]] = _Connection(self._clock())
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                gone = self._connections.pop(event["value"], None)
                self.departures += gone is not None and self._is_receiver(gone)
            else:
                self._complete_newest()
        return sum(map(self._is_receiver, self._connections.values()))

    def _is_receiver(self, connection: _Connection) -> bool:
        return connection.completed or self._clock() - connection.since > SETTLED_AFTER

    def _complete_newest(self) -> None:
        # ZeroMQ does not say whose handshake it was. One takes milliseconds, so the newest is the likeliest; where that
        # is wrong, SETTLED_AFTER puts it right.
        waiting = [connection for connection in self._connections.values() if not connection.completed]
        if waiting:
            waiting[-1].completed = True

    async def send(self, message: bytes, give_up: Callable[[], bool]) -> bool:
        """Send a message as soon as the receiver can take it.

        Args:
            message: encoded Stream V2 message.
            give_up: asked while there is no room; True ends the attempt.

        Returns:
            False if `give_up` became true first.
        """
        if self._faults is None:
            return await self._send(message, give_up)
        return all([await self._send(each, give_up) for each in self._faults(message)])

    async def _send(self, message: bytes, give_up: Callable[[], bool]) -> bool:
        while True:
            try:
                self._socket.send(message, zmq.NOBLOCK, copy=len(message) < 1 << 16)
            except zmq.Again:
                if give_up():
                    return False
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                if self.copy is not None:
                    self.copy(message)
                return True
