"""A Merlin's two servers, as far as a camera adapter uses them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self

import numpy as np
from recorded_files import mib_header

SHAPE = (16, 24)


def image_of(number: int) -> np.ndarray:
    """Frame `number` of a series, from 1."""
    return np.random.default_rng(number).poisson(5, SHAPE).astype(np.uint16)


class FakeMerlin:
    """An async context manager.

    Attributes:
        counts_comma: whether the lengths of control answers and of data messages count the comma before the body.
        settings: what has been set.
        asked: every command, in order.
        codes: command -> code of its answer, where it is not 0.
        stale: messages that are sent on a connection before its acquisition header.
        lost_headers: how many acquisition headers are not sent.
        kind: type of the pixels.
    """

    def __init__(self, *, counts_comma: tuple[bool, bool] = (True, True)) -> None:
        self.counts_comma = counts_comma
        self.settings: dict[str, str] = {}
        self.asked: list[str] = []
        self.codes: dict[str, int] = {}
        self.stale: list[bytes] = []
        self.lost_headers = 0
        self.kind = "U16"
        self._listener: asyncio.StreamWriter | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._connected = asyncio.Event()
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.control, self.data = (int(each.getsockname()[1]) for each in self._sockets)

    async def __aenter__(self) -> Self:
        handlers = (self._commands, self._listen)
        self._servers = [
            await asyncio.start_server(handler, sock=each)
            for handler, each in zip(handlers, self._sockets, strict=True)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()
        for each in self._servers:
            each.close()
            await each.wait_closed()

    def message(self, body: bytes, *, data: bool = True) -> bytes:
        """A body behind its prefix."""
        return b"MPX,%010d,%b" % (len(body) + self.counts_comma[data], body)

    def frame(self, number: int, pattern: np.ndarray | None = None) -> bytes:
        """A message with frame `number`."""
        height, width = SHAPE
        counts = image_of(number) if pattern is None else pattern
        pixels = counts.astype(">u2" if self.kind == "U16" else "u1").tobytes()
        return self.message(mib_header(number, width, height, self.kind) + pixels)

    async def send(self, *messages: bytes) -> None:
        """To whoever listens for frames."""
        async with asyncio.timeout(5):
            await self._connected.wait()
        assert self._listener is not None
        for each in messages:
            self._listener.write(each)
        await self._listener.drain()

    async def hang_up(self) -> None:
        """Close the connection of whoever listens for frames."""
        assert self._listener is not None
        self._listener.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listener = writer
        self._writers.append(writer)
        self._connected.set()
        await reader.read()
        if self._listener is writer:
            self._connected.clear()

    async def _commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.CancelledError):  # the test has ended
            await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while prefix := await reader.read(15):
            asked = (await reader.readexactly(int(prefix[4:14]) - 1)).decode()
            self.asked.append(asked)
            verb, name, *value = asked.split(",")
            code = self.codes.get(name, 0)
            if verb == "SET" and not code:
                self.settings[name] = value[0]
            told = f"{self.settings.get(name, '')}," if verb == "GET" else ""
            writer.write(self.message(f"{verb},{name},{told}{code}".encode(), data=False))
            if name == "STARTACQUISITION" and not code:
                header = [] if self.lost_headers else [self.message(b"HDR,\nTime and Date Stamp:\t1\nEnd\t")]
                self.lost_headers = max(self.lost_headers - 1, 0)
                await self.send(*self.stale, *header)
