"""A column, a scan engine and a camera that misbehave as they are told, to compose a microscope of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from examples import between, detector, square

from instrument.adapters.parts import CameraFrame
from instrument.errors import OutOfLimitsError
from instrument.models import AcquisitionPlan, Health, ScanPattern

SHAPE = (8, 8)
Frames = list[CameraFrame]


def counts_of(number: int) -> np.ndarray:
    """What the camera sees at a position."""
    return np.full(SHAPE, number + 1, np.uint16)


class FakeColumn:
    voltage = 80e3
    semiangle = 21.4
    beam_current = 20.0
    defocus = between(-1000, 1000)

    def __init__(self) -> None:
        self.on = False
        self.focus = 0.0

    async def set_defocus(self, defocus: float) -> None:
        self.focus = defocus

    async def unblank(self) -> None:
        self.on = True

    def blank(self) -> None:
        self.on = False

    async def health(self) -> Health:
        return Health(blanked=not self.on)


class FakeCamera:
    detector = detector(8, 6.0)
    fastest = 1e-4
    latency = 0.0

    def __init__(self) -> None:
        self.series = 0
        self.queue: asyncio.Queue[CameraFrame | None] = asyncio.Queue()
        self.armed = False

    async def arm(self, frames: int, dwell: float) -> tuple[int, int]:
        self.series += 1
        self.armed = True
        return self.series, 1

    async def frame(self, limit: float) -> CameraFrame | None:
        return await asyncio.wait_for(self.queue.get(), limit)

    async def disarm(self) -> None:
        self.armed = False


class FakeScan:
    """Triggers the camera at every position, at once.

    Args:
        camera: is told its frames.
        fault: what becomes of them on their way.
        column: without whose beam they are dark; None: the beam is always on.
    """

    step = between(0.2, 10)
    dwell_times: tuple[float, ...] = (1e-5, 1.0)
    area = square(500)
    line_overhead = 0.0
    scan_patterns: tuple[ScanPattern, ...] = ("raster",)

    def __init__(
        self,
        camera: FakeCamera,
        fault: Callable[[Frames], Frames] = lambda frames: frames,
        column: FakeColumn | None = None,
    ) -> None:
        self._camera, self._fault, self._column = camera, fault, column
        self.ends = True

    def check(self, plan: AcquisitionPlan) -> None:
        if plan.step > 9:
            msg = "the fields of this scan engine are small; legal: steps up to 9 Å"
            raise OutOfLimitsError(msg)

    async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
        lit = self._column is None or self._column.on
        frames = [CameraFrame(self._camera.series, 1 + n, counts_of(n) * lit) for n in range(plan.n_positions)]
        for frame in self._fault(frames):
            self._camera.queue.put_nowait(frame)
        if self.ends:
            self._camera.queue.put_nowait(None)

    def stop(self) -> None:
        while not self._camera.queue.empty():
            self._camera.queue.get_nowait()
