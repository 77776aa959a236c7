"""Merlin cameras of Quantum Detectors (Medipix3): commands as lines of text over one TCP connection, frames over another.

Facts: a message is `MPX,`, ten digits of length, a comma and a body. The length counts the comma before the body in the vendor's
description; programs are about that leave it out, so both are understood. A command is answered by its echo and a code. Frames
come behind an acquisition header (`HDR`), each with a header as in a MIB file, whose number, from 1, is that of its trigger.
After an abort nothing says that the series has ended, and what was under way may still come: the next gets a connection of its
own, after a moment.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Literal, Self

import numpy as np

from instrument.adapters.merlin_stream import FrameReader, Line, MerlinError
from instrument.adapters.parts import CameraFrame
from instrument.errors import BadInputError, StreamError
from instrument.models import Detector

AFTER_ABORT = 0.5
"""s before the next connection."""
BEGINNING = 5.0, 30.0
"""s for the acquisition header, then once more after a new start; the beam is off meanwhile.

A receiver is connected before the camera's software has taken it on: a header that is sent in between is lost.
"""
_CODES = {"1": "it is busy", "2": "it knows no such command", "3": "the value is out of range"}
_DEPTHS: dict[int, Literal["uint8", "uint16"]] = {1: "uint8", 6: "uint8", 12: "uint16"}
Trigger = Literal["rising", "falling", "soft"]
_TRIGGERS = {"rising": 1, "falling": 2, "soft": 5}


class MerlinCamera:
    """A `Camera`. An async context manager.

    Args:
        host: of the camera's PC.
        control, data: ports of its two servers.
        shape: (detector_y, detector_x) of the sensor, pixels.
        angular_pixel: mrad per pixel at the camera length in use.
        frame_rate: largest, per s, at this counter depth.
        depth: of the counters, bits: 1, 6 or 12. Continuous read and write, without a gap between frames, is set.
        trigger: edge of the TTL pulse that starts each frame; "soft": one `trigger()` starts them all.
        counts_per_electron: as calibrated; None: not known.
        latency: s by which a frame may come late.

    Attributes:
        detector, fastest, latency: see `Camera`.
    """

    def __init__(
        self,
        host: str,
        control: int = 6341,
        data: int = 6342,
        *,
        shape: tuple[int, int] = (256, 256),
        angular_pixel: float,
        frame_rate: float,
        depth: int = 12,
        trigger: Trigger = "rising",
        counts_per_electron: float | None = 1.0,
        latency: float = 1.0,
    ) -> None:
        if depth not in _DEPTHS:
            msg = f"a counter depth of {depth} bits; legal: {', '.join(map(str, _DEPTHS))}"
            raise BadInputError(msg)
        self._host, self._control, self._data = host, control, data
        self._depth, self._trigger = depth, trigger
        self.fastest, self.latency = 1.0 / frame_rate, latency
        self.detector = Detector(
            shape=shape,
            angular_pixel=angular_pixel,
            dtype=_DEPTHS[depth],
            saturation=2**depth - 1,
            counts_per_electron=counts_per_electron,
        )
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._reader: FrameReader | None = None
        self._series = 0
        self._announced = self._received = 0

    async def __aenter__(self) -> Self:
        await self.set("CONTINUOUSRW", 1)
        await self.set("COUNTERDEPTH", self._depth)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.disarm()
        finally:
            await self._drop_reader()
            with self._lock:
                self._hang_up()

    async def arm(self, frames: int, dwell: float) -> tuple[int, int]:
        """See `Camera`. The receiver is connected first, and the acquisition header has come."""
        await self.disarm()
        one_pulse = self._trigger == "soft"
        for name, value in (
            ("ACQUISITIONTIME", 1e3 * dwell),
            ("ACQUISITIONPERIOD", 1e3 * dwell),
            ("NUMFRAMESTOACQUIRE", frames),
            ("NUMFRAMESPERTRIGGER", frames if one_pulse else 1),
            ("TRIGGERSTART", _TRIGGERS[self._trigger]),
            ("TRIGGERSTOP", 0),
        ):
            await self.set(name, value)
        self._series += 1
        for limit in BEGINNING:
            self._announced, self._received = frames, 0
            if self._reader is None or not self._reader.lives:
                await self._drop_reader()
                self._reader = FrameReader(self._host, self._data)
                await asyncio.to_thread(self._reader.start)
            self._reader.begin(self._series)
            await self.command("STARTACQUISITION")
            if await asyncio.to_thread(self._reader.has_begun, limit):
                return self._series, 1
            await self.disarm()
        msg = f"Merlin's data at {self._host}:{self._data}: no acquisition header within {BEGINNING[-1]:g} s, at the second start"
        raise MerlinError(msg)

    async def trigger(self) -> None:
        """Start the frames of a "soft" series."""
        await self.command("SOFTTRIGGER")

    async def frame(self, limit: float) -> CameraFrame | None:
        """See `Camera`; None where the camera has hung up. Raises StreamError for what is no frame of this camera."""
        assert self._reader is not None, "arm comes first"
        found = await self._reader.take(limit)
        if isinstance(found, Exception):
            raise found
        if found is None:
            return None
        if found.pattern.shape != self.detector.shape or found.pattern.dtype != np.dtype(self.detector.dtype):
            told, wanted = (
                f"{found.pattern.shape} {found.pattern.dtype}",
                f"{self.detector.shape} {self.detector.dtype}",
            )
            msg = f"a frame of {told}, where {wanted} was expected; check the sensor's shape and the counter depth"
            raise StreamError(msg)
        self._received += found.series == self._series
        return found

    async def disarm(self) -> None:
        """See `Camera`: stop where frames are still to come, and drop what is under way with its connection."""
        if self._received >= self._announced:
            return
        self._announced = self._received
        try:
            await self.command("STOPACQUISITION")
        finally:
            await self._drop_reader()
            await asyncio.sleep(AFTER_ABORT)

    async def _drop_reader(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await asyncio.to_thread(reader.stop)

    async def get(self, name: str) -> str:
        """The value of a variable, by the vendor's name: "COUNTERDEPTH"."""
        return ",".join((await asyncio.to_thread(self._exchange, f"GET,{name}"))[2:-1])

    async def set(self, name: str, value: float) -> None:
        """Set a variable.

        Args:
            name: as the vendor calls it.
            value: in the vendor's unit; times in ms.

        Raises:
            MerlinError: the camera does not take it.
        """
        await asyncio.to_thread(self._exchange, f"SET,{name},{value:.9g}")

    async def command(self, name: str) -> None:
        """Have something done, by the vendor's name: "STARTACQUISITION"."""
        await asyncio.to_thread(self._exchange, f"CMD,{name}")

    def _exchange(self, body: str) -> list[str]:
        """Send a command; the parts of its answer."""
        with self._lock:
            try:
                self._line = line = self._line or Line(self._host, self._control)
                line.send(f"MPX,{len(body) + 1:010d},{body}".encode())
                length = line.prefix()
                answer = bytes(line.exactly(length - 1))
                if answer.endswith(b","):  # the length did not count the comma: the code is still to come
                    answer += line.exactly(1)
            except (OSError, EOFError) as error:
                self._hang_up()
                msg = f"Merlin at {self._host}:{self._control}, {body}: no answer ({error}); does its software run?"
                raise MerlinError(msg) from error
            except StreamError:
                self._hang_up()
                raise
        parts = answer.decode("ascii", errors="replace").split(",")
        if parts[:2] != body.split(",")[:2]:
            self._hang_up()
            msg = f"Merlin at {self._host}:{self._control}, {body}: answered {answer[:80]!r}, which belongs to another command"
            raise MerlinError(msg)
        if parts[-1] != "0":
            told = _CODES.get(parts[-1], f"code {parts[-1][:20]!r}")
            msg = f"Merlin at {self._host}:{self._control}, {body}: refused, {told}"
            raise MerlinError(msg)
        return parts

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None
