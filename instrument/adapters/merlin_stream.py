"""What comes from a Merlin: messages behind their prefix, and a thread that receives one series of frames after the other."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from instrument.adapters.parts import CameraFrame
from instrument.errors import StreamError
from instrument.recordings.mib import parse_header

TIMEOUT = 5.0
POLL = 0.05
BUFFERED_FRAMES = 4096
PREFIX = 15
"""Bytes before a body: `MPX,`, ten digits, a comma."""
LONGEST = 1 << 26
"""Bytes of a message."""
EARLIER = -1
"""Series of frames that came before the acquisition header."""
_PREFIX = re.compile(rb"MPX,[0-9]{10},")


class MerlinError(Exception):
    """The camera refused a command, or does not answer."""


class Line:
    """A TCP connection on which messages with the Merlin's prefix come."""

    def __init__(self, host: str, port: int, stopping: Callable[[], bool] | None = None) -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT)
        self._stopping = stopping
        self._ahead = b""
        if stopping is not None:
            self._socket.settimeout(POLL)

    def send(self, message: bytes) -> None:
        self._socket.sendall(message)

    def close(self) -> None:
        self._socket.close()

    def exactly(self, count: int) -> bytearray:
        """So many bytes. Raises EOFError where there are no more, or no more are wanted."""
        found = bytearray(count)
        filled = min(count, len(self._ahead))
        found[:filled], self._ahead = self._ahead[:filled], self._ahead[filled:]
        view = memoryview(found)
        while filled < count:
            filled += self._some(view[filled:])
        return found

    def _some(self, view: memoryview) -> int:
        while True:
            try:
                fresh = self._socket.recv_into(view)
            except TimeoutError:
                if self._stopping is None or self._stopping():
                    raise
                continue
            if not fresh:
                raise EOFError("the connection was closed")
            return fresh

    def search(self) -> None:
        """Skip what is before the next message: what an abort has left may begin in the middle."""
        room = memoryview(bytearray(1 << 16))
        while (found := _PREFIX.search(self._ahead)) is None:
            count = self._some(room)
            self._ahead = self._ahead[1 - PREFIX :] + bytes(room[:count])
        self._ahead = self._ahead[found.start() :]

    def prefix(self) -> int:
        """The length that the next message states."""
        told = bytes(self.exactly(PREFIX))
        if not _PREFIX.fullmatch(told):
            msg = f"a message of the Merlin that begins with {told!r} instead of b'MPX,' and a length"
            raise StreamError(msg)
        length = int(told[4:14])
        if not 4 < length <= LONGEST:
            msg = f"a message of the Merlin of {length} bytes; legal: 5 … {LONGEST}"
            raise StreamError(msg)
        return length

    def skip_to_next(self) -> None:
        """Find the next message behind a body whose length may not have counted its comma."""
        ahead = bytes(self.exactly(4))
        self._ahead = (ahead if ahead == b"MPX," else ahead[1:]) + self._ahead


class FrameReader:
    """A thread that receives one series after the other."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._found: queue.Queue[CameraFrame | Exception | None] = queue.Queue(BUFFERED_FRAMES)
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._series, self._headers = EARLIER, 0
        self._thread = threading.Thread(target=self._run, name="frames of the Merlin")

    def start(self) -> None:
        try:
            self._line = Line(*self._address, self._stopping.is_set)
        except OSError as error:
            msg = f"Merlin's data at {self._address[0]}:{self._address[1]} cannot be reached ({error})"
            raise MerlinError(msg) from error
        self._thread.start()

    @property
    def lives(self) -> bool:
        return self._thread.is_alive()

    def begin(self, series: int) -> None:
        """What comes behind the next acquisition header is of this series."""
        with self._lock:
            self._series, self._headers = series, 0
            self._begun.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                self._found.get_nowait()

    def has_begun(self, limit: float) -> bool:
        """Whether the acquisition header comes within so many s."""
        return self._begun.wait(limit) and self._headers > 0

    async def take(self, limit: float) -> CameraFrame | Exception | None:
        try:
            return self._found.get_nowait()
        except queue.Empty:
            pass
        try:
            return await asyncio.to_thread(self._found.get, True, limit)
        except queue.Empty:
            raise TimeoutError from None

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._line) as line:
            try:
                line.search()
                while not self._stopping.is_set():
                    length = line.prefix()
                    kind = bytes(line.exactly(4))
                    if kind == b"MQ1,":
                        series = self._series if self._headers == 1 else EARLIER
                        self._pass_on(self._frame(line, length, series))
                        continue
                    line.exactly(length - 1 - len(kind))
                    if kind == b"HDR,":
                        with self._lock:
                            self._headers += 1
                            self._begun.set()
                    line.skip_to_next()
            except (EOFError, OSError):
                self._pass_on(None)
            except Exception as error:
                self._pass_on(error)
            finally:
                self._begun.set()

    def _frame(self, line: Line, length: int, series: int) -> CameraFrame:
        start = b"MQ1," + line.exactly(min(length - 1, 64) - 4)
        header = parse_header(Path("a frame of the Merlin"), start)
        if header.kind not in ("U08", "U16") or header.stride not in (length - 1, length):
            msg = (
                f"frame {header.number} of the Merlin: {header.kind}, {header.stride} bytes by its header and {length - 1} by "
                "its message; legal: U08 and U16, of the same length"
            )
            raise StreamError(msg)
        line.exactly(header.length - len(start))
        counts = np.frombuffer(line.exactly(header.frame_bytes), "u1" if header.kind == "U08" else ">u2")
        pattern = counts.reshape(header.shape)
        if header.kind == "U08":
            return CameraFrame(series, header.number, pattern.astype(np.uint8))
        return CameraFrame(series, header.number, pattern.astype(np.uint16))

    def _pass_on(self, found: CameraFrame | Exception | None) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._found.put(found, timeout=POLL)
                return
