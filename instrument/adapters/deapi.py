"""Cameras of Direct Electron with DE-Server's scan control, through the vendor's client `deapi` (MIT), imported here only.

DE-Server moves the probe and takes a frame at each point, so scan engine and camera are one connection. Its movie buffers number
their frames. The scan's field is a range of coil voltages: a step is span / n, and points lie at the centres of cells. What
an integrating camera delivers are units of its converter, corrected, and below zero too: 16 bits in two's complement.
"""

from __future__ import annotations

import asyncio
import math
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from instrument.adapters.parts import CameraFrame
from instrument.errors import BadInputError, OutOfLimitsError
from instrument.models import AcquisitionPlan, Detector, Parameter, Rectangle, ScanPattern

VOLTS = (-1.0, 1.0)
"""Of the coils, over the whole field."""
FRAMES_IN_BUFFER = 64
"""At most; the header has numbers of 128."""
BUFFER_TIME = 0.1
"""s after which a buffer is wanted."""
WAIT_MS = 200
LATENCY = 30.0
LONGEST = 1.0
"""s at a point."""
POINTS = (2, 4096)
"""Along either side of a scan."""


class DEServerError(Exception):
    """DE-Server refused, or does not answer."""


class DirectElectron:
    """`ScanEngine` and `Camera` of one DE-Server. A context manager, connected inside.

    Args:
        host, port: of DE-Server.
        field: Å, edge of the square that the coils scan at ±1 V, at the magnification in use.
        angular_pixel: mrad per pixel of the camera, binned.
        frame_rate: largest, per s.
        adu_per_electron: as calibrated; counts are converted to electrons by it.
        threshold: electrons; what is below is noise, and no count.
        region: edge of the central square of the sensor that is read, pixels; None: all.
        binning: hardware binning.
        steps: smallest and largest, Å.
        latency: s by which a frame may come late.

    Attributes:
        detector, fastest, latency, step, dwell_times, area, line_overhead, scan_patterns: see `Camera` and `ScanEngine`.
    """

    line_overhead = 0.0
    scan_patterns: tuple[ScanPattern, ...] = ("raster",)

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 13240,
        *,
        field: float,
        angular_pixel: float,
        frame_rate: float,
        adu_per_electron: float = 1.0,
        threshold: float = 0.5,
        region: int | None = None,
        binning: int = 1,
        steps: tuple[float, float] = (0.1, 10.0),
        latency: float = LATENCY,
    ) -> None:
        self._address = host, port
        self._field, self._angular_pixel, self._binning, self._region = field, angular_pixel, binning, region
        self._adu, self._threshold = adu_per_electron, threshold
        self.fastest = 1.0 / frame_rate
        self.dwell_times = (self.fastest, LONGEST)
        self.step = Parameter(kind="continuous", unit="Å", minimum=steps[0], maximum=steps[1])
        self.area = Rectangle(y=0, x=0, height=field, width=field)
        self.latency = latency
        self._lock = threading.Lock()
        self._series = 0
        self._ready: list[CameraFrame] = []
        self._running = False

    def __enter__(self) -> Self:
        try:
            from deapi import Client
        except ImportError as error:
            msg = "the package deapi is missing: pip install deapi"
            raise BadInputError(msg) from error
        self._client: Any = Client()
        self._client.usingMmf = False
        try:
            self._client.connect(*self._address)
        except OSError as error:
            msg = f"DE-Server at {self._address[0]}:{self._address[1]} does not answer ({error}); does it run?"
            raise DEServerError(msg) from error
        for axis in "XY":
            whole = int(float(self._get(f"Sensor Size {axis} (pixels)")))
            part = whole if self._region is None else self._region
            self._set(f"Hardware ROI Offset {axis}", (whole - part) // 2)
            self._set(f"Hardware ROI Size {axis}", part)
            self._set(f"Hardware Binning {axis}", self._binning)
        self._set("Exposure Mode", "Normal")
        rows, columns = (int(float(self._get(f"Image Size {axis} (pixels)"))) for axis in "YX")
        self.detector = Detector(
            shape=(rows, columns),
            angular_pixel=self._angular_pixel,
            dtype="uint16",
            saturation=int(np.iinfo(np.int16).max / self._adu),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with self._lock:
            self._client.disconnect()

    def check(self, plan: AcquisitionPlan) -> None:
        """See `ScanEngine`: one pass."""
        if plan.passes != 1:
            msg = "DE-Server scans in one pass here; set passes to 1"
            raise OutOfLimitsError(msg, parameter="passes")
        if not all(POINTS[0] <= n <= POINTS[1] for n in plan.shape):
            msg = f"a scan of {plan.shape[0]} × {plan.shape[1]} points; legal: {POINTS[0]} … {POINTS[1]} along either side"
            raise OutOfLimitsError(msg, parameter="field")

    async def arm(self, frames: int, dwell: float) -> tuple[int, int]:
        """See `Camera`. Buffers are small enough for frames to come within a tenth of a second."""
        self._series += 1
        self._ready = []
        buffered = int(np.clip(BUFFER_TIME / dwell, 1, min(FRAMES_IN_BUFFER, frames)))
        for name, value in (("Frames Per Second", 1.0 / dwell), ("Grabbing - Frames Per Buffer", buffered)):
            await asyncio.to_thread(self._set, name, value)
        return self._series, 0

    async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
        """See `ScanEngine`."""
        await asyncio.to_thread(self._start, plan)

    def stop(self) -> None:
        """See `ScanEngine`. DE-Server is told over a socket of its own, whatever the other one is at."""
        if self._running:
            self._running = False
            threading.Thread(target=self._client.stop_acquisition, name="end of scan", daemon=True).start()

    async def frame(self, limit: float) -> CameraFrame | None:
        """See `Camera`."""
        if not self._ready and not await asyncio.to_thread(self._fetch, limit):
            return None
        if not self._ready:
            raise TimeoutError
        return self._ready.pop(0)

    async def disarm(self) -> None:
        """See `Camera`. DE-Server drops what is left of an acquisition when the next begins."""
        self.stop()
        self._ready = []

    def _start(self, plan: AcquisitionPlan) -> None:
        rows, columns = plan.shape
        for axis, corner, count in (("H", plan.field.x, columns), ("V", plan.field.y, rows)):
            low = VOLTS[0] + (VOLTS[1] - VOLTS[0]) * corner / self._field
            high = low + (VOLTS[1] - VOLTS[0]) * count * plan.step / self._field
            self._set(f"Scan - Voltage {axis} Min", low)
            self._set(f"Scan - Voltage {axis} Max", high)
        self._set("Scan - Enable", "On")
        self._set("Scan - ROI Enable", "Off")
        self._set("Scan - Camera Frames Per Point", 1)
        self._set("Scan - Repeats", 1)
        with self._lock:
            self._client.SetScanSize(columns, rows)
            self._client.start_acquisition(1, True)
            self._info = self._client.get_movie_buffer_info()
        self._running = True

    def _fetch(self, limit: float) -> bool:
        """Take the next buffer; False where the series has ended."""
        from deapi.data_types import MovieBufferStatus

        info = self._info
        size = info.headerBytes + info.imageBufferBytes
        with self._lock:
            status, _, count, buffer = self._client.get_movie_buffer(None, size, 0, min(WAIT_MS, int(1e3 * limit)))
        if status == MovieBufferStatus.FINISHED:
            return False
        if status == MovieBufferStatus.TIMEOUT:
            return True
        if status != MovieBufferStatus.OK:
            msg = f"DE-Server's movie buffer has the status {status.name}"
            raise DEServerError(msg)
        numbers = np.frombuffer(buffer, np.int64, count, info.frameIndexStartPos)
        shape = count, info.imageH, info.imageW
        units = np.frombuffer(buffer, np.int16, math.prod(shape), info.headerBytes).reshape(shape)
        self._ready += [
            CameraFrame(self._series, int(number), self._electrons(pattern))
            for number, pattern in zip(numbers, units, strict=True)
        ]
        return True

    def _electrons(self, units: NDArray[np.int16]) -> NDArray[np.uint16]:
        electrons = units / self._adu
        electrons[electrons < self._threshold] = 0.0
        return np.rint(electrons).astype(np.uint16)

    def _get(self, name: str) -> Any:
        with self._lock:
            value = self._client.get_property(name)
        if value is None or value is False:
            msg = f"DE-Server has no property {name!r}"
            raise DEServerError(msg)
        return value

    def _set(self, name: str, value: Any) -> None:
        """Write a property, and read it back: DE-Server takes the nearest it can do."""
        with self._lock:
            done = self._client.set_property(name, value)
            found = self._client.get_property(name)
        same = str(found) == str(value)
        if isinstance(value, int | float):
            same = found is not None and abs(float(found) - value) <= 1e-4 * abs(value) + 1e-6
        if not done or not same:
            msg = f"{name}: set to {value}, but DE-Server has {found}"
            raise DEServerError(msg)
