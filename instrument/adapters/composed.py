"""Column + scan engine + camera = `Microscope`."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any

import numpy as np

from instrument import optics
from instrument.adapters.joining import MOST_MISSING, FrameJoin, Gaps
from instrument.adapters.parts import Camera, Column, ScanEngine
from instrument.beam import Hold
from instrument.errors import BlankedError, OutOfLimitsError
from instrument.limits import check_limits
from instrument.microscope import Frame
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, Description, Health, Parameter, PlanCheck

log = logging.getLogger(__name__)

POLL = 0.1
"""s of waiting for a frame after which a blanked beam is noticed."""
PATIENCE = 1.0
"""s beyond dwell time, flyback and the camera's latency for which a missing frame is waited for."""


class ComposedMicroscope:
    """A `Microscope` made of three parts, whose frames are joined to positions by their numbers.

    While the consumer holds a frame for too long the scan is given up with BlankedError: few scan engines can pause.

    Args:
        name: of the whole.
        column, scan, camera: its parts; the camera is triggered by the scan engine.
        most_missing: part of the frames that may be missing. They are masked; with more the acquisition fails.
        settle_time: s after a change of defocus, besides what the column itself waits for.
        to_enter: async context managers, such as a camera, that are entered before the first question, for a factory that
            has no event loop; `close` leaves them.

    Attributes:
        gaps: account of the last acquisition; None before the first.
    """

    def __init__(
        self,
        name: str,
        column: Column,
        scan: ScanEngine,
        camera: Camera,
        *,
        most_missing: float = MOST_MISSING,
        settle_time: float = 0.0,
        to_enter: Sequence[AbstractAsyncContextManager[Any]] = (),
    ) -> None:
        self._name, self._column, self._scan, self._camera = name, column, scan, camera
        self._most_missing, self._settle_time = most_missing, settle_time
        self._to_enter, self._entered = list(to_enter), AsyncExitStack()
        self._blanked = threading.Event()
        self._hold = Hold(self.blank, lambda: None)
        self.gaps: Gaps | None = None

    async def describe(self) -> Description:
        """What the three parts allow together."""
        while self._to_enter:
            await self._entered.enter_async_context(self._to_enter[0])
            del self._to_enter[0]
        column, scan, camera = self._column, self._scan, self._camera
        fixed = len(scan.dwell_times) > 2
        fastest = max(min(scan.dwell_times), camera.fastest)
        dwells = [each for each in sorted(scan.dwell_times) if each >= fastest * (1 - 1e-9)]
        if not dwells:
            msg = f"the camera needs {camera.fastest:g} s a frame, the scan engine stays {max(scan.dwell_times):g} s at most"
            raise OutOfLimitsError(msg)
        electrons = [each * self._electrons_per_second for each in (dwells if fixed else (fastest, max(dwells)))]
        finest, coarsest = scan.step.bounds
        return Description(
            name=self._name,
            voltage=column.voltage,
            semiangle=column.semiangle,
            beam_current=column.beam_current,
            detector=camera.detector,
            step=scan.step,
            defocus=column.defocus,
            dose=Parameter(
                kind="continuous", unit="e/Å²", minimum=electrons[0] / coarsest**2, maximum=electrons[-1] / finest**2
            ),
            electrons_per_pattern=(electrons[0], electrons[-1]),
            electrons_per_pattern_values=tuple(electrons) if fixed else None,
            scan_patterns=scan.scan_patterns,
            area=scan.area,
            line_overhead=scan.line_overhead,
            settle_time=self._settle_time,
            latency=camera.latency,
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """The cost of a plan: the beam is on in flyback, too. Raises OutOfLimitsError."""
        told = await self.describe()
        check_limits(plan, told)
        self._scan.check(plan)
        dwell = plan.electrons_per_pattern / self._electrons_per_second
        lines = plan.n_positions // plan.line_length
        lit = plan.n_positions * dwell + lines * told.line_overhead
        radius = optics.probe_diameter(told.semiangle, plan.defocus, told.voltage) / 2
        pixels = math.prod(told.detector.shape) * np.dtype(told.detector.dtype).itemsize
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=dwell,
            electrons=lit * self._electrons_per_second,
            duration=lit + told.settle_time,
            bytes=plan.n_positions * pixels,
            illuminated=plan.field.grown(radius),
        )

    def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Set, arm, scan; frames come as the camera delivers them. See `Microscope.acquire`.

        Raises:
            GapsError: too many frames are missing.
            NotConfirmedError: the column does not do what it was told.
            BlankedError: `blank` was called, or a frame was held for too long.
        """
        return self._acquire(plan, lit=True)

    def acquire_blanked(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """The same with the beam blanked, for dry runs. See `ScansBlanked`."""
        return self._acquire(plan, lit=False)

    async def _acquire(self, plan: AcquisitionPlan, *, lit: bool) -> AsyncGenerator[Frame]:
        check = await self.check(plan)
        self._blanked.clear()
        self.gaps = None
        self._column.blank()
        await self._column.set_defocus(plan.defocus)
        await asyncio.sleep(self._settle_time)
        series, first = await self._camera.arm(plan.n_positions, check.dwell_time)
        join = FrameJoin(plan.n_positions, series, first=first, most_missing=self._most_missing)
        try:
            await self._begin(plan, check.dwell_time, lit=lit)
            patience = check.dwell_time + self._scan.line_overhead + self._camera.latency + PATIENCE
            async with aclosing(self._frames(join, plan.n_positions, patience)) as frames:
                async for frame in frames:
                    with self._hold:
                        yield frame
            self._column.blank()
            self.gaps = join.give_up()
            if str(self.gaps):
                log.warning("%s: %s", plan.id, self.gaps)
        finally:
            self.blank()
            self.gaps = join.gaps
            await self._camera.disarm()

    async def close(self) -> None:
        """Blank, and leave what had been entered."""
        self.blank()
        await self._entered.aclose()

    def lost_frames(self) -> int:
        """How many frames of the last acquisition are missing, and are to be masked. See `LosesFrames`."""
        return 0 if self.gaps is None else len(self.gaps.missing)

    def blank(self) -> None:
        """Turn the beam off, then end the scan."""
        self._blanked.set()
        self._column.blank()
        self._scan.stop()

    async def health(self) -> Health:
        """Of the column."""
        return await self._column.health()

    @property
    def _electrons_per_second(self) -> float:
        return self._column.beam_current * 1e-12 / ELEMENTARY_CHARGE

    async def _begin(self, plan: AcquisitionPlan, dwell: float, *, lit: bool) -> None:
        self._require_beam(0, plan.n_positions)
        if lit:
            await self._column.unblank()
        if self._blanked.is_set():  # between the two
            self._column.blank()
        self._require_beam(0, plan.n_positions)
        await self._scan.start(plan, dwell)

    async def _frames(self, join: FrameJoin, expected: int, patience: float) -> AsyncGenerator[Frame]:
        """Frames with their positions, until all are there, the series has ended or none of it comes any more."""
        taken, last = 0, time.monotonic()
        while not join.complete and time.monotonic() - last < patience:
            try:
                frame = await self._camera.frame(POLL)
            except TimeoutError:
                self._require_beam(taken, expected)
                continue
            if frame is None:
                return
            self._require_beam(taken, expected)
            index = join.position(frame.series, frame.number)
            if index is not None:
                taken += 1
                yield Frame(index, frame.pattern)
                last = time.monotonic()

    def _require_beam(self, taken: int, expected: int) -> None:
        if self._blanked.is_set():
            msg = f"the beam was blanked after {taken} of {expected} patterns"
            raise BlankedError(msg)
