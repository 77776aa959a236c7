"""DECTRIS detectors (ARINA, QUADRO, ELA, EIGER2): commands over SIMPLON's REST interface, frames as Stream V2 (or V1).

Sources: DECTRIS, SIMPLON API reference and Stream V2 documentation. What was learned elsewhere: connect before arming, or the
start message is lost; to end early `abort` and then `disarm`; after it stale frames still come, so the series is compared.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import zmq

from instrument import stream
from instrument.adapters.http import ask
from instrument.adapters.parts import CameraFrame
from instrument.chunks import decode_chunk
from instrument.errors import BadInputError, StreamError
from instrument.legacy_stream import LegacyDecoder
from instrument.models import Detector

API = "1.8.0"
TIMEOUT = 10.0
POLL_MS = 50
DRAIN = 1.0
"""s for which the end of a series is waited for after `disarm`."""
BUFFERED_FRAMES = 4096
_DTYPES: dict[int, Literal["uint8", "uint16"]] = {8: "uint8", 16: "uint16"}
Trigger = Literal["exts", "exte", "ints"]
_Message = stream.SeriesStart | stream.SeriesImage | stream.SeriesEnd


class SimplonError(Exception):
    """The detector refused a command, or does not answer."""


class SimplonCamera:
    """A `Camera`. An async context manager: it is asked what it is, and set up, when entered.

    Args:
        rest: address of the REST interface, "http://192.168.1.10".
        frames: ZeroMQ endpoint of the stream, "tcp://192.168.1.10:31001".
        angular_pixel: mrad per pixel at the camera length in use.
        trigger: "exts": one trigger starts each frame, of the dwell time; "exte": the trigger's length is that of the frame;
            "ints": the detector runs by itself after `trigger()`.
        channel: threshold whose image is wanted; None: the first.
        legacy: take Stream V1, of detectors that have no other.
        api: version of the REST interface.
        counts_per_electron: as calibrated; None: not known.

    Attributes:
        detector, fastest, latency: see `Camera`.
    """

    def __init__(
        self,
        rest: str,
        frames: str,
        *,
        angular_pixel: float,
        trigger: Trigger = "exts",
        channel: str | None = None,
        legacy: bool = False,
        api: str = API,
        counts_per_electron: float | None = 1.0,
        latency: float = 1.0,
    ) -> None:
        self._rest, self._endpoint = rest.rstrip("/"), frames
        self._angular_pixel, self._trigger, self._channel = angular_pixel, trigger, channel
        self._legacy, self._api = legacy, api
        self._counts_per_electron = counts_per_electron
        self.latency = latency
        self.detector: Detector
        self.fastest = 0.0
        self._reader: _Reader | None = None
        self._series = -1
        self._announced = self._received = 0

    async def __aenter__(self) -> Self:
        await self._put("detector", "command/initialize")
        depth = int(await self._get("detector", "config/bit_depth_image"))
        if depth not in _DTYPES:
            msg = f"{self._rest}: bit_depth_image is {depth}; legal: 8 or 16; set the detector to 16"
            raise BadInputError(msg)
        dtype = _DTYPES[depth]
        rows, columns = [int(await self._get("detector", f"config/{axis}_pixels_in_detector")) for axis in ("y", "x")]
        self.fastest = float(await self._least("config/frame_time"))
        self.detector = Detector(
            shape=(rows, columns),
            angular_pixel=self._angular_pixel,
            dtype=dtype,
            saturation=int(np.iinfo(dtype).max),
            counts_per_electron=self._counts_per_electron,
        )
        if tuple(self._api.split(".")) >= ("1", "8"):  # before, there was nothing to choose from
            await self._put("stream", "config/format", "legacy" if self._legacy else "cbor")
        for key, value in (("mode", "enabled"), ("header_detail", "basic")):
            await self._put("stream", f"config/{key}", value)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disarm()

    async def arm(self, frames: int, dwell: float) -> tuple[int, int]:
        """See `Camera`. The receiver is connected first."""
        await self.disarm()
        self._announced, self._received = frames, 0
        at_once = self._trigger == "ints"
        for key, value in (
            ("trigger_mode", self._trigger),
            ("nimages", frames if at_once else 1),
            ("ntrigger", 1 if at_once else frames),
            ("count_time", dwell),
            ("frame_time", dwell),
        ):
            await self._put("detector", f"config/{key}", value)
        self._reader = _Reader(self._endpoint, LegacyDecoder().decode if self._legacy else self._decode)
        await self._reader.start()
        answer = await self._put("detector", "command/arm")
        self._series = await self._begun(int(answer["sequence id"]), frames)
        return self._series, 0

    async def _begun(self, told: int, frames: int) -> int:
        """The id of the series that begins, from its start message; a simulator answers `arm` with another one."""
        assert self._reader is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    message = await self._reader.messages.get()
                    if isinstance(message, Exception):
                        raise message
                    if not isinstance(message, stream.SeriesStart):
                        continue
                    fresh = message.number_of_images == frames and message.series_id != self._series
                    if message.series_id == told or fresh:
                        return message.series_id
        except TimeoutError as error:
            msg = f"{self._endpoint}: no start of series {told} of {frames} images within {TIMEOUT:g} s of arming"
            raise SimplonError(msg) from error

    async def trigger(self) -> None:
        """Start a series of `ints`; returns when it has been taken, which may be after its frames have come."""
        await self._put("detector", "command/trigger")

    async def frame(self, limit: float) -> CameraFrame | None:
        """See `Camera`. Raises StreamError for what is no message of Stream V2."""
        assert self._reader is not None, "arm comes first"
        while True:
            message = await asyncio.wait_for(self._reader.messages.get(), limit)
            if isinstance(message, Exception):
                raise message
            if isinstance(message, stream.SeriesImage):
                break
            if isinstance(message, stream.SeriesEnd) and message.series_id == self._series:
                return None
        pattern = decode_chunk(message.chunk, message.shape, message.dtype)
        if pattern.shape != self.detector.shape or pattern.dtype != np.dtype(self.detector.dtype):
            found, wanted = f"{pattern.shape} {pattern.dtype}", f"{self.detector.shape} {self.detector.dtype}"
            msg = f"an image of {found}; the detector said {wanted}"
            raise StreamError(msg)
        self._received += message.series_id == self._series
        return CameraFrame(message.series_id, message.image_id, pattern)

    async def disarm(self) -> None:
        """See `Camera`: abort where frames are still to come, then disarm, and read what was under way."""
        if self._reader is None:
            return
        reader, self._reader = self._reader, None
        try:
            if self._received < self._announced:
                await self._put("detector", "command/abort")
            await self._put("detector", "command/disarm")
            await reader.drain(self._series, DRAIN)
        finally:
            await reader.stop()

    def _decode(self, parts: list[bytes]) -> stream.SeriesStart | stream.SeriesImage | stream.SeriesEnd:
        return stream.decode(parts[0], self._channel)

    async def _get(self, subsystem: str, what: str) -> Any:
        return (await self._call("GET", subsystem, what))["value"]

    async def _least(self, what: str) -> float:
        answer = await self._call("GET", "detector", what)
        return float(answer.get("min") or answer["value"])

    async def _put(self, subsystem: str, what: str, value: Any = None) -> dict[str, Any]:
        return await self._call("PUT", subsystem, what, value)

    async def _call(self, method: str, subsystem: str, what: str, value: Any = None) -> dict[str, Any]:
        return await asyncio.to_thread(
            _request,
            method,
            f"{self._rest}/{subsystem}/api/{self._api}/{what}",
            None if value is None else {"value": value},
        )


def _request(method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    content = ask(
        method,
        url,
        None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        timeout=TIMEOUT,
        what=f"{method} {url} {'' if body is None else body['value']}".rstrip(),
        hint="is the detector on, and the address right?",
        error=SimplonError,
    )
    try:
        found = json.loads(content or b"{}")
    except ValueError as error:
        msg = f"{method} {url}: the answer is not JSON: {content[:80]!r}"
        raise SimplonError(msg) from error
    return found if isinstance(found, dict) else {"value": found}


class _Reader:
    """A thread that receives one series; messages, or what went wrong, arrive in `messages`."""

    def __init__(self, endpoint: str, decode: Callable[[list[bytes]], _Message | None]) -> None:
        self._endpoint, self._decode = endpoint, decode
        self.messages: asyncio.Queue[_Message | Exception] = asyncio.Queue()
        self._stopping = threading.Event()
        self._connected = threading.Event()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"frames of {self._endpoint}")
        self._thread.start()
        if not await asyncio.to_thread(self._connected.wait, TIMEOUT):
            await self.stop()
            msg = f"{self._endpoint}: the detector's stream cannot be reached; is it enabled, and no firewall between?"
            raise SimplonError(msg)

    async def drain(self, series: int, limit: float) -> None:
        """Read up to the end of a series."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    message = await self.messages.get()
                    if isinstance(message, stream.SeriesEnd) and message.series_id == series:
                        return
        except TimeoutError:
            return

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        socket = context.socket(zmq.PULL)
        try:
            socket.rcvhwm, socket.maxmsgsize = BUFFERED_FRAMES, stream.MAX_MESSAGE_BYTES
            monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            socket.connect(self._endpoint)
            while not self._stopping.is_set():
                if not self._connected.is_set() and monitor.poll(POLL_MS):
                    self._connected.set()
                if socket.poll(POLL_MS):
                    self._pass_on(self._decoded(socket.recv_multipart(zmq.NOBLOCK)))
        except Exception as error:
            self._pass_on(error)
        finally:
            self._connected.set()
            socket.disable_monitor()
            context.destroy(linger=0)

    def _decoded(self, parts: list[bytes]) -> _Message | StreamError | None:
        try:
            return self._decode(parts)
        except StreamError as error:
            return error

    def _pass_on(self, message: _Message | Exception | None) -> None:
        if message is not None:
            self._loop.call_soon_threadsafe(self.messages.put_nowait, message)
