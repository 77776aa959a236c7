"""Frames from the data socket into a sink, in a thread of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from instrument import stream
from instrument.endpoints import allow_ipv6
from instrument.errors import StreamError, UnreachableError
from instrument.keys import ClientKeys

log = logging.getLogger(__name__)

POLL_MS = 50
BUFFERED_FRAMES = 4096
NOTIFY_INTERVAL = 0.1


class FrameSink(Protocol):
    """Where the frames of an acquisition go. Called from the data thread, `start` once and first.

    An exception aborts the acquisition and comes out of `InstrumentClient.acquire` as it is.
    """

    def start(self, header: stream.SeriesStart) -> None:
        """Take what holds for the whole series.

        Args:
            header: the `start` message.
        """
        ...

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Take the pattern of a scan position; each index comes at most once, in any order.

        Args:
            index: position in scan order.
            chunk: bitshuffle/LZ4 in the framing of HDF5 filter 32008: `write_direct_chunk` takes it as it is, and
                `decode_chunk` makes an array of it.
            pattern_shape: (detector_y, detector_x).
            dtype: of the counts.
        """
        ...


class FrameReceiver:
    """Receives one series. A context manager: connected inside, closed after it.

    Args:
        context: of the socket.
        endpoint: of the server's data socket.
        series: the acquisition's id.
        n_positions: frames to expect.
        sink: takes the frames, in the receiver's thread.
        keys: CURVE keys; None: none.
        on_frames: called in the event loop, ten times a second at most, with the numbers received and expected.

    Attributes:
        received: number of different frames so far.
        finished: a future: set when the `end` has arrived, failed when the sink or the stream failed.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        series: str,
        n_positions: int,
        sink: FrameSink,
        *,
        keys: ClientKeys | None,
        on_frames: Callable[[int, int], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._series = series
        self._n_positions = n_positions
        self._sink = sink
        self._on_frames = on_frames
        self._stopping = threading.Event()
        self._seen = bytearray(n_positions)
        self._started = False
        self._foreign = self._repeated = 0
        self.received = 0
        self._socket = context.socket(zmq.PULL)
        self._socket.rcvhwm = BUFFERED_FRAMES
        self._socket.maxmsgsize = stream.MAX_MESSAGE_BYTES
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = 1000, 3000
        if keys is not None:
            keys.secure(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._thread = threading.Thread(target=self._run, name=f"frames of {series}")

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        if self.finished.done() and not self.finished.cancelled():
            self.finished.exception()
        if self._foreign or self._repeated:
            log.warning(
                "series %s: %d frames of other series and %d repeated ones were dropped",
                self._series,
                self._foreign,
                self._repeated,
            )

    async def connected(self, limit: float) -> None:
        """Wait for the connection; frames sent before it would be lost.

        Args:
            limit: s to wait.

        Raises:
            UnreachableError: it did not come.
        """
        try:
            await asyncio.wait_for(self._connected, limit)
        except TimeoutError as error:
            msg = f"the data socket at {self._endpoint} cannot be reached; is a firewall between?"
            raise UnreachableError(msg, endpoint=self._endpoint) from error

    def missing(self) -> list[int]:
        """Indices that have not arrived."""
        return [index for index, seen in enumerate(self._seen) if not seen]

    def _run(self) -> None:
        try:
            allow_ipv6(self._socket, self._endpoint)
            self._socket.connect(self._endpoint)
            self._receive()
        except BaseException as error:
            # StopIteration cannot live in a future; nobody means to raise it, but a sink may.
            failure = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            self._tell(self.finished, failure)
        finally:
            self._socket.disable_monitor()
            self._socket.close(linger=0)

    def _receive(self) -> None:
        notified = 0.0
        while not self._stopping.is_set():
            if not self._connected.done() and self._monitor.poll(0):
                recv_monitor_message(self._monitor)
                self._tell(self._connected)
            if not self._socket.poll(POLL_MS if self._started else 5):
                continue
            if self._take(stream.decode(self._socket.recv(zmq.NOBLOCK))):
                self._notify()
                self._tell(self.finished)
                return
            if (now := time.monotonic()) - notified > NOTIFY_INTERVAL:
                notified = now
                self._notify()

    def _take(self, message: stream.SeriesStart | stream.SeriesImage | stream.SeriesEnd) -> bool:
        """Hand one message to the sink; True if it was the end."""
        if message.series_unique_id != self._series:
            self._foreign += 1
            return False
        if isinstance(message, stream.SeriesEnd):
            return True
        if isinstance(message, stream.SeriesStart):
            if message.number_of_images != self._n_positions:
                msg = f"series {self._series} announces {message.number_of_images} frames, expected {self._n_positions}"
                raise StreamError(msg)
            if not message.image_dtype:
                msg = f"series {self._series}: the start message does not say the type of the pixels"
                raise StreamError(msg)
            if not self._started:
                self._header, self._started = message, True
                self._sink.start(message)
            return False
        if not self._started:
            msg = f"series {self._series}: a frame arrived before the start message"
            raise StreamError(msg)
        self._store(message)
        return False

    def _store(self, image: stream.SeriesImage) -> None:
        if not 0 <= image.image_id < self._n_positions:
            msg = f"series {self._series}: frame {image.image_id} of {self._n_positions}"
            raise StreamError(msg)
        if image.shape != self._header.shape or image.dtype != np.dtype(self._header.image_dtype):
            msg = (
                f"series {self._series}: frame {image.image_id} is {image.shape} {image.dtype}, the start message said "
                f"{self._header.shape} {self._header.image_dtype}"
            )
            raise StreamError(msg)
        if self._seen[image.image_id]:
            self._repeated += 1
            return
        self._sink.frame(image.image_id, image.chunk, image.shape, image.dtype)
        self._seen[image.image_id] = 1
        self.received += 1

    def _notify(self) -> None:
        if self._on_frames is not None:
            self._loop.call_soon_threadsafe(self._on_frames, self.received, self._n_positions)

    def _tell(self, future: asyncio.Future[None], error: BaseException | None = None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(settle)
