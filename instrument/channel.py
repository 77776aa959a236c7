"""The client's end of a control or safe socket: one reader task, replies matched to futures by id."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import zmq
import zmq.asyncio

from instrument import wire
from instrument.errors import InstrumentError, UnreachableError, error_from_wire
from instrument.keys import ClientKeys

log = logging.getLogger(__name__)

RETRY_INTERVAL = 0.02


class Channel:
    """Requests and replies over one DEALER socket.

    A receive is never cancelled, because a cancelled receive may lose a message: the reader polls, then takes what is there;
    time limits are on the futures.

    Args:
        context: of the socket.
        endpoint: where the server is bound.
        keys: CURVE keys; None: none.

    Raises:
        zmq.ZMQError: `endpoint` is not one.
    """

    def __init__(self, context: zmq.Context[Any], endpoint: str, keys: ClientKeys | None) -> None:
        self.endpoint = endpoint
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._socket = zmq.asyncio.Socket(context, zmq.DEALER)
        # A command must never wait for a server that comes back later.
        self._socket.immediate = True
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 50, 1000
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = 1000, 3000
        self._socket.maxmsgsize = wire.MAX_BUFFER_BYTES
        if keys is not None:
            keys.secure(self._socket)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError:
            # A socket that is left open would keep the context from ending.
            self.close()
            raise

    def close(self) -> None:
        """Close at once."""
        self._socket.close(linger=0)

    async def read(self) -> None:
        """Give every reply to the request that waits for it, until cancelled."""
        while True:
            await self._socket.poll()
            try:
                frames = await self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                continue  # what had been announced is gone together with its connection
            try:
                reply, _ = wire.decode_reply(frames)
            except InstrumentError as error:
                # Without an id it may answer any of them; leaving them to their time limits would hide the reason.
                self.fail_pending(error)
                continue
            future = self._pending.pop(reply.id, None)
            if future is None:
                log.info("a reply to %r, which nobody waits for any more, was dropped", reply.id)
            elif future.done():
                continue
            elif reply.ok:
                future.set_result(reply.result)
            else:
                future.set_exception(error_from_wire(reply.error or {}))

    def fail_pending(self, error: InstrumentError) -> None:
        """Give this error to every request that waits for a reply.

        Args:
            error: what they raise.
        """
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
        self._pending.clear()

    async def request(
        self,
        op: str,
        args: dict[str, Any] | None = None,
        *,
        limit: float,
        lease: wire.LeaseToken | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Send a command and wait for its result.

        Args:
            op: the verb.
            args: its arguments.
            limit: s to wait for the reply.
            lease: of the sender; None: the verb needs none.
            deadline: s on the server's clock, after which it must not carry the command out; None: none.

        Returns:
            The result, as JSON values.

        Raises:
            InstrumentError: whatever the server answered.
            UnreachableError: no answer came in time; the command may or may not have been carried out.
        """
        header = wire.Request(id=uuid.uuid4().hex, op=op, args=args or {}, lease=lease, deadline=deadline)
        frames = wire.encode(header)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[header.id] = future
        try:
            async with asyncio.timeout(limit):
                await self._send(frames)
                return await future
        except TimeoutError as error:
            msg = f"the instrument at {self.endpoint} did not answer {op} within {limit:g} s; is it running there?"
            raise UnreachableError(msg, endpoint=self.endpoint) from error
        finally:
            self._pending.pop(header.id, None)

    async def _send(self, frames: list[bytes]) -> None:
        while True:
            try:
                await self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                return
