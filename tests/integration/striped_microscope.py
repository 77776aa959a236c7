"""A small, complete Microscope for the tests of server and client: fast, deterministic, with a beam that can be watched."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from examples import between, check, description, detector, square

from instrument import (
    AcquisitionPlan,
    BlankedError,
    Condition,
    Description,
    Frame,
    Health,
    OutOfLimitsError,
    PlanCheck,
)
from instrument.beam import Hold
from instrument.models import ELEMENTARY_CHARGE

CURRENT = 8e-4
"""pA: 100 electrons in 20 ms."""


def pattern_of(index: int, shape: tuple[int, int]) -> np.ndarray:
    """The counts that frame `index` must have; a function of the index alone."""
    rows, columns = np.indices(shape)
    return ((rows * 7 + columns * 3 + index) % 251).astype(np.uint16)


class StripedMicroscope:
    """Exposes one frame per `frame_interval` seconds (0: as fast as frames are taken).

    Attributes:
        beam_on: whether the specimen is being dosed.
        exposed: frames made with the beam on, by acquisition id.
        held_at: the frame before which a scan stays, beam on, until it is blanked; None: nowhere.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int] = (16, 16),
        frame_interval: float = 0.0,
        region_dose_limit: float | None = None,
        name: str = "striped",
    ) -> None:
        self.shape = shape
        self.frame_interval = frame_interval
        self.region_dose_limit = region_dose_limit
        self.name = name
        self.beam_on = False
        self.exposed: dict[str, int] = {}
        self.held_at: int | None = None
        self.counts_per_electron = 1e5
        self.conditions: tuple[Condition, ...] = ()
        self.blanks = 0
        self._blanked = threading.Event()
        self._frame = pattern_of(0, shape)
        self._hold = Hold(lambda: self._set_beam(False), lambda: self._set_beam(True))

    def _set_beam(self, on: bool) -> None:
        self.beam_on = on and not self._blanked.is_set()

    async def describe(self) -> Description:
        return description(
            name=self.name,
            beam_current=CURRENT,
            detector=detector(
                shape=self.shape, angular_pixel=1.0, dead_pixels=((1, 2),), counts_per_electron=self.counts_per_electron
            ),
            step=between(0.1, 10.0),
            dose=between(1.0, 1e6, "e/Å²"),
            scan_patterns=("raster", "serpentine", "spiral", "positions"),
            electrons_per_pattern=(1.0, 1e7),
            area=square(500.0),
            region_dose_limit=self.region_dose_limit,
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        if plan.n_positions > 100_000:
            msg = f"{plan.n_positions} positions; at most 100000"
            raise OutOfLimitsError(msg)
        return check(
            plan,
            overhead=10.0,
            margin=2.0,
            dwell_time=plan.electrons_per_pattern * 1.6e-8,
            duration=plan.n_positions * self.frame_interval,
            bytes=plan.n_positions * 2 * math.prod(self.shape),
        )

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        self._blanked.clear()
        self.beam_on = True
        try:
            for index in range(plan.n_positions):
                if index == self.held_at:
                    await asyncio.to_thread(self._blanked.wait)
                if self.frame_interval:
                    await asyncio.sleep(self.frame_interval)
                if self._blanked.is_set():
                    msg = "blanked"
                    raise BlankedError(msg)
                self.exposed[plan.id] = self.exposed.get(plan.id, 0) + 1
                with self._hold:
                    yield Frame(index, pattern_of(index, self.shape))
        finally:
            self.beam_on = False

    def blank(self) -> None:
        self._blanked.set()
        self.beam_on = False
        self.blanks += 1

    async def health(self) -> Health:
        return Health(blanked=not self.beam_on, message=f"pid {os.getpid()}", conditions=self.conditions)


class WatchedMicroscope(StripedMicroscope):
    """Writes down every change of the beam, in the file that BEAM_FILE names; one frame every 20 ms.

    Where STUCK_AT is set it blocks the event loop for 5 s after so many frames, as a driver's call may.
    """

    @property
    def beam_on(self) -> bool:
        return self._beam_on

    @beam_on.setter
    def beam_on(self, on: bool) -> None:
        self._beam_on = on
        with Path(os.environ["BEAM_FILE"]).open("a") as lines:
            lines.write(f"{time.time()} {'on' if on else 'off'}\n")

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        async with contextlib.aclosing(super().acquire(plan)) as frames:
            async for frame in frames:
                if frame.index == int(os.environ.get("STUCK_AT", "-1")):
                    time.sleep(5.0)  # noqa: ASYNC251
                yield frame


def blank_from_outside() -> None:
    """What a watchdog calls for a WatchedMicroscope."""
    with Path(os.environ["BEAM_FILE"]).open("a") as lines:
        lines.write(f"{time.time()} off by watchdog {os.getpid()}\n")


def make_watched() -> WatchedMicroscope:
    """Factory for `python -m instrument serve`, where a test has to see the beam from outside."""
    return WatchedMicroscope(frame_interval=0.02)


def make_quick() -> StripedMicroscope:
    """Factory whose dwell times and current do not agree."""
    return StripedMicroscope(frame_interval=0.0005)


class HonestMicroscope(StripedMicroscope):
    """Its dwell times make the electrons that were asked for, and its counts show them. One frame every 0.5 ms."""

    def __init__(self) -> None:
        super().__init__(frame_interval=0.0005)
        self.counts_per_electron = 1e3

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        dwell = plan.electrons_per_pattern * ELEMENTARY_CHARGE / (CURRENT * 1e-12)
        times = {"dwell_time": dwell, "duration": dwell * plan.n_positions}
        return (await super().check(plan)).model_copy(update=times)

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        async with contextlib.aclosing(super().acquire(plan)) as frames:
            async for frame in frames:
                yield Frame(frame.index, (frame.pattern * (plan.electrons_per_pattern / 32)).astype(np.uint16))


def make_honest() -> HonestMicroscope:
    """Factory for `python -m instrument check`."""
    return HonestMicroscope()


class StuckMicroscope(StripedMicroscope):
    """Its driver keeps the event loop, and the interpreter, for itself nearly half of the time."""

    async def health(self) -> Health:
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            pass
        return await super().health()


def make_stuck() -> StripedMicroscope:
    """Factory for `python -m instrument serve` whose event loop is blocked for 0.9 s of every 1.9 s."""
    return StuckMicroscope(frame_interval=0.01)


def make() -> StripedMicroscope:
    """Factory for `python -m instrument serve`; one frame every 20 ms."""
    return StripedMicroscope(frame_interval=0.02)
