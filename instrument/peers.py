"""Who sends to a ROUTER: a peer whose message does not end is dropped before it fills the memory.

ZeroMQ limits the parts of a message (`ZMQ_MAXMSGSIZE`), but not their number, and keeps all of them until the last one has
come. What a connection has received is known to the operating system (Linux: TCP_INFO); a connection that has received more
than fits into the queue since its last whole message is shut. Elsewhere, and on ipc, there is no such count, and no such limit.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128
"""Where Linux's tcp_info has tcpi_bytes_received (since 4.1)."""
_SOURCE = 15
"""Of zmq_msg_get: ZMQ_SRCFD, the descriptor over which a message came."""
KERNEL_BYTES = 8 << 20
"""What the operating system may hold besides."""


class PeerWatch:
    """Watches the connections of one ROUTER; used from the thread that reads it.

    Args:
        router: not yet bound; its `rcvhwm` and `maxmsgsize` are set here.
        queued: whole messages of one peer that may wait.
        part_bytes: largest part of a message.
    """

    def __init__(self, router: zmq.Socket[Any], queued: int, part_bytes: int) -> None:
        router.rcvhwm = queued
        router.maxmsgsize = part_bytes
        self._router = router
        self._limit = (queued + 1) * part_bytes + KERNEL_BYTES
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._connections: dict[int, int] = {}  # descriptor: bytes that had come with its last whole message
        self.dropped = 0

    def close(self) -> None:
        """Watch no longer."""
        self._router.disable_monitor()
        self._monitor.close(linger=0)

    def took(self, parts: Sequence[zmq.Frame]) -> None:
        """A whole message has been received.

        Args:
            parts: of it, as `recv_multipart(copy=False)` returns them.
        """
        with contextlib.suppress(zmq.ZMQError, OSError):
            descriptor = int(parts[-1].get(_SOURCE))
            if descriptor in self._connections:
                self._connections[descriptor] = _received(descriptor) or 0

    def look(self) -> None:
        """Shut every connection whose message has no end. Called regularly."""
        while self._monitor.poll(0):
            event: Any = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections[event["value"]] = 0
            else:
                self._connections.pop(event["value"], None)
        for descriptor, before in tuple(self._connections.items()):
            received = _received(descriptor)
            if received is None:
                del self._connections[descriptor]
            elif received - before > self._limit:
                _shut(descriptor)
                del self._connections[descriptor]
                self.dropped += 1


def _received(descriptor: int) -> int | None:
    """Bytes that a TCP connection has received; None where that is not known, or it is none."""
    if _TCP_INFO is None:
        return None
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            known = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
    except OSError:
        return None
    if len(known) < _BYTES_RECEIVED_AT + _BYTES_RECEIVED.size:
        return None
    return int(_BYTES_RECEIVED.unpack_from(known, _BYTES_RECEIVED_AT)[0])


def _shut(descriptor: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
