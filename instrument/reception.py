"""The control socket of a server: every message is read once, takes a place in a queue, is carried out and answered."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from instrument import wire
from instrument.access import Admitted, Sender
from instrument.background import Background
from instrument.errors import ConflictError, InstrumentError
from instrument.guard import BeamGuard
from instrument.peers import PeerWatch

log = logging.getLogger(__name__)

MAX_PENDING = 64
"""Requests in a queue, and whole messages of one peer on their way."""
MAX_PENDING_BYTES = 4 * wire.MAX_HEADER_BYTES
"""Of the requests in a queue: parsed, they take many times the memory."""
QUEUED_OF_A_PEER = 4
NEVER_WAITING = frozenset({"hello", "status", "lease.acquire", "lease.renew", "lease.release"})
"""Verbs that are done as soon as they are begun."""


CarryOut = Callable[[wire.Request, list[bytes], Sender], Awaitable[Any]]
"""Does what a request says, whose sender may ask for it."""


@dataclass(frozen=True)
class _Message:
    """What has arrived: a request with its buffers, or the error of what is none."""

    sender: bytes
    id: str
    size: int
    request: wire.Request | None
    buffers: list[bytes]
    key: str
    error: InstrumentError | None = None


class Reception:
    """Reads the control socket, hands requests on and sends the replies.

    A peer cannot fill the memory: parts have a largest size, messages that do not end are cut off, and what waits is counted
    in requests and in bytes. Nor can it keep the lease's holder waiting, who has places of its own.

    Args:
        socket: ROUTER, not yet bound.
        guard: whose state goes with every reply, and who knows the lease.
        admitted: whose keys are admitted; None: there are none.
    """

    def __init__(self, socket: zmq.asyncio.Socket, guard: BeamGuard, admitted: Admitted | None) -> None:
        self._admitted = admitted
        self._socket = socket
        self._guard = guard
        self._pending: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        socket.sndhwm = MAX_PENDING
        self.peers = PeerWatch(socket, QUEUED_OF_A_PEER, wire.MAX_HEADER_BYTES)

    async def receive(self, tasks: Background, carry_out: CarryOut) -> None:
        """Take what arrives, until cancelled.

        Args:
            tasks: home of the requests that are being carried out.
            carry_out: does what a request says.
        """
        # Cancelled while polling only: a poll takes nothing off the socket.
        while True:
            await self._socket.poll()
            try:
                parts = await self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                continue  # what had been announced is gone together with its connection
            self.peers.took(parts)
            message = _read([part.bytes for part in parts], _key_of(parts))
            queue = self._queue_of(message)
            if self._pending[queue] < MAX_PENDING and self._bytes[queue] + message.size <= MAX_PENDING_BYTES:
                self._pending[queue] += 1
                self._bytes[queue] += message.size
                tasks.create_task(self._handle(message, queue, carry_out))
            else:
                busy = ConflictError(f"{self._pending[queue]} requests are being handled already; try again")
                await self._reply(message, error=busy)

    def _queue_of(self, message: _Message) -> str:
        """Which of the queues a request takes a place in: whoever fills one does not keep the others waiting."""
        request = message.request
        if request is None:
            return "anyone"
        if request.op in NEVER_WAITING and message.size < wire.MAX_HEADER_BYTES >> 6:
            return "never waiting"
        if request.lease is not None:
            try:
                self._guard.check_fence(request.lease)
            except InstrumentError:
                return "anyone"  # answered with the error when it is carried out
            return "lease holder"
        return "anyone"

    async def _handle(self, message: _Message, queue: str, carry_out: CarryOut) -> None:
        try:
            if message.request is None:
                raise message.error or InstrumentError("nothing was asked for")
            sender = Sender() if self._admitted is None else self._admitted.sender(message.key)
            sender.require(message.request.op)
            result = await carry_out(message.request, message.buffers, sender)
        except InstrumentError as error:
            await self._reply(message, error=error)
        except Exception as error:
            log.exception("a request failed")
            await self._reply(message, error=InstrumentError(f"{type(error).__name__}: {error}"))
        else:
            await self._reply(message, result=result)
        finally:
            self._pending[queue] -= 1
            self._bytes[queue] -= message.size

    async def _reply(self, message: _Message, *, result: Any = None, error: InstrumentError | None = None) -> None:
        reply = wire.Reply(
            id=message.id,
            ok=error is None,
            result=result,
            error=None if error is None else error.to_wire(),
            state=self._guard.status().model_dump(),
        )
        try:
            await self._socket.send_multipart([message.sender, *wire.encode(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as reason:
            log.info("a reply could not be delivered: %s", reason)


def _key_of(parts: list[zmq.Frame]) -> str:
    """The public key with which a message was sent; "" where there are no keys."""
    try:
        return str(parts[-1].get("User-Id"))
    except zmq.ZMQError:
        return ""


def _read(parts: list[bytes], key: str) -> _Message:
    size = sum(map(len, parts))
    try:
        request, buffers = wire.decode_request(parts[1:])
    except InstrumentError as error:
        return _Message(parts[0], wire.request_id(parts[1:]), size, None, [], key, error)
    except Exception as error:
        failure = InstrumentError(f"{type(error).__name__}: {error}")
        return _Message(parts[0], wire.request_id(parts[1:]), size, None, [], key, failure)
    return _Message(parts[0], request.id, size, request, buffers, key)
