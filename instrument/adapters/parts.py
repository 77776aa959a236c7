"""What a microscope is composed of: a column, a scan engine and a camera, each as small a protocol as its vendor allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from instrument.models import AcquisitionPlan, Detector, Health, Parameter, Rectangle, ScanPattern

SETTLE_POLL = 0.02


class NotConfirmedError(Exception):
    """A setting was written, and what is read back is something else."""


class Column(Protocol):
    """Gun, lenses and blanker."""

    @property
    def voltage(self) -> float:
        """eV."""
        ...

    @property
    def semiangle(self) -> float:
        """Convergence semi-angle, mrad."""
        ...

    @property
    def beam_current(self) -> float:
        """pA."""
        ...

    @property
    def defocus(self) -> Parameter:
        """Legal values, Å, positive for underfocus."""
        ...

    async def set_defocus(self, defocus: float) -> None:
        """Set it, and return when it is confirmed and has settled.

        Args:
            defocus: Å, positive for underfocus.

        Raises:
            NotConfirmedError: the read-back says otherwise.
        """
        ...

    async def unblank(self) -> None:
        """Let the beam onto the specimen."""
        ...

    def blank(self) -> None:
        """Turn the beam off, from any thread, within 10 ms."""
        ...

    async def health(self) -> Health:
        """Whether the beam is off, and whether all is well."""
        ...


class ScanEngine(Protocol):
    """Moves the probe, and triggers the camera once at every position, in the order of the plan."""

    @property
    def step(self) -> Parameter:
        """Legal steps, Å."""
        ...

    @property
    def dwell_times(self) -> tuple[float, float] | tuple[float, ...]:
        """Shortest and longest, s; with more than two values these are the only ones."""
        ...

    @property
    def area(self) -> Rectangle:
        """What can be scanned, Å."""
        ...

    @property
    def line_overhead(self) -> float:
        """Flyback, s per line."""
        ...

    @property
    def scan_patterns(self) -> tuple[ScanPattern, ...]:
        """In which orders it can visit a field; other plans never reach `start`."""
        ...

    def check(self, plan: AcquisitionPlan) -> None:
        """Raise OutOfLimitsError for what cannot be scanned for another reason (two passes, for example)."""
        ...

    async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
        """Begin to scan; returns at once.

        Args:
            plan: whose positions are wanted.
            dwell: s at each.
        """
        ...

    def stop(self) -> None:
        """End the scan, from any thread, at once; nothing happens where none runs."""
        ...


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """A frame as the camera knows it.

    Attributes:
        series: of the camera's arming.
        number: that the camera has given it in the series: which trigger it belongs to.
        pattern: (detector_y, detector_x) counts, an array of its own.
    """

    series: int | str
    number: int
    pattern: NDArray[np.uint8] | NDArray[np.uint16]


class Camera(Protocol):
    """A pixelated detector that takes one frame a trigger."""

    @property
    def detector(self) -> Detector:
        """As calibrated."""
        ...

    @property
    def fastest(self) -> float:
        """Shortest time from frame to frame, s."""
        ...

    @property
    def latency(self) -> float:
        """s by which a frame may come late."""
        ...

    async def arm(self, frames: int, dwell: float) -> tuple[int | str, int]:
        """Get ready for triggers; what a receiver needs is connected before.

        Args:
            frames: to be taken.
            dwell: s, exposure of each.

        Returns:
            Name of the series, and number of its first frame.
        """
        ...

    async def frame(self, limit: float) -> CameraFrame | None:
        """The next frame, whichever it is; None where the series has ended.

        Args:
            limit: s to wait.

        Raises:
            TimeoutError: none came.
        """
        ...

    async def disarm(self) -> None:
        """End the series and drop what is under way; also after an abort."""
        ...


async def confirm(
    write: Callable[[float], Awaitable[None]],
    read: Callable[[], Awaitable[float]],
    value: float,
    *,
    what: str,
    tolerance: float,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Write a setting, once more if need be, and wait until what is read back agrees.

    Args:
        write, read: of the setting.
        value: wanted.
        what: name and unit, for the message: "defocus, Å".
        tolerance: by which the read-back may differ.
        limit: s for either attempt.
        clock: monotonic, s.

    Raises:
        NotConfirmedError: with what was read.
    """
    found = float("nan")
    for _ in range(2):
        await write(value)
        until = clock() + limit
        while True:
            found = await read()
            if abs(found - value) <= tolerance:
                return
            if clock() > until:
                break
            await asyncio.sleep(SETTLE_POLL)
    msg = (
        f"{what}: set to {value:g}, read back as {found:g}; within {tolerance:g} is needed, twice tried for {limit:g} s"
    )
    raise NotConfirmedError(msg)
