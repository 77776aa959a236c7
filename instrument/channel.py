"""The client's end of a control or safe socket: one reader task, replies matched to futures by id."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from typing import Any, cast

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from instrument import wire
from instrument.endpoints import allow_ipv6
from instrument.errors import HandshakeError, InstrumentError, RefusedError, UnreachableError, error_from_wire
from instrument.keys import ClientKeys
from instrument.text import visible_all

log = logging.getLogger(__name__)

RETRY_INTERVAL = 0.02
CLOSED_TOO_OFTEN = 3
"""Handshakes in a row that the other side may break off: a server that is being stopped does so once."""
_UNPRINTABLE = re.compile(
    rb"\\u(?:00[0189][0-9a-f]|007f|202[89a-e]|206[6-9])|\\[nrtbf]|\x7f|\xc2[\x80-\x9f]|\xe2(?:\x80[\xa8-\xae]|\x81[\xa6-\xa9])",
    re.IGNORECASE,
)
"""In JSON: what `text.visible` would change, so that no name of an instrument moves the cursor or begins a line of a log."""
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


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
        self._socket.maxmsgsize = wire.MAX_REPLY_BYTES
        allow_ipv6(self._socket, endpoint)
        self._has_keys = keys is not None
        if keys is not None:
            keys.secure(self._socket)
        self._broken_off = 0
        self._silent = False
        self._refusal = ""
        monitor = self._socket.get_monitor_socket(_EVENTS)
        self._monitor = cast("zmq.Socket[bytes]", monitor)  # a plain one, as its context is: read without waiting
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError:
            # A socket that is left open would keep the context from ending.
            self.close()
            raise

    def close(self) -> None:
        """Close at once."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def handshake_fault(self) -> HandshakeError | None:
        """Why there is no connection although something listens at the endpoint, as far as ZeroMQ tells; None: nothing known.

        Returns:
            RefusedError where the refusal is final, HandshakeError where it may end, for example behind a tunnel.
        """
        while self._monitor.poll(0):
            happened = recv_monitor_message(self._monitor)
            self._note(happened["event"], happened["value"])
        if self._refusal:
            return RefusedError(f"the instrument at {self.endpoint} {self._refusal}", endpoint=self.endpoint)
        if self._broken_off < CLOSED_TOO_OFTEN:
            if not self._silent:
                return None
            msg = f"something listens at {self.endpoint}, but does not answer; is it an instrument server?"
            return HandshakeError(msg, endpoint=self.endpoint)
        why = (
            "is the server's public key among the keys the right one"
            if self._has_keys
            else "is it an instrument server"
        )
        msg = f"something listens at {self.endpoint}, but breaks every connection off in the handshake; {why}?"
        return HandshakeError(msg, endpoint=self.endpoint)

    def _note(self, event: int, value: int) -> None:
        """Remember what an event of the socket's monitor says."""
        self._silent = event == zmq.EVENT_CONNECTED
        if event == zmq.EVENT_CONNECTED:
            return
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._broken_off, self._refusal = 0, ""
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refusal = (
                "does not admit this key; copy the public key (NAME.key) to the server's folder of admitted clients "
                "and start the server again"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._broken_off += 1
        elif value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            self._refusal = "does not speak the protocol; is it an instrument server?"
        elif self._has_keys:
            self._refusal = "uses no CURVE keys; leave yours out (no --keys, no `keys:` in the campaign file)"
        else:
            self._refusal = "demands CURVE keys and none were given; give the folder that holds them with --keys FOLDER"

    async def read(self) -> None:
        """Give every reply to the request that waits for it, until cancelled."""
        while True:
            await self._socket.poll()
            try:
                frames: list[bytes] = await self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                continue  # what had been announced is gone together with its connection
            try:
                reply, _ = wire.decode_reply(frames)
                if _UNPRINTABLE.search(frames[2]):
                    reply = wire.Reply.model_validate(visible_all(reply.model_dump()))
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
            UnreachableError: no answer came in time; the command may or may not have been carried out. A HandshakeError
                where something listens, but refuses the connection.
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
            if (fault := self.handshake_fault()) is not None:
                raise fault from error
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
