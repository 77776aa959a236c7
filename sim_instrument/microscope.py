# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated instrument as a `Microscope`: limits, clock, and frames as they are computed."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from instrument import (
    AcquisitionPlan,
    Aperture,
    BlankedError,
    ConflictError,
    Description,
    Detector,
    Frame,
    Health,
    OutOfLimitsError,
    Parameter,
    PlanCheck,
    Rectangle,
    optics,
)
from instrument.beam import Hold
from instrument.limits import check_limits
from instrument.settings import APERTURE
from sim_instrument.aperture_drive import ApertureDrive
from sim_instrument.beam_file import BeamFile
from sim_instrument.column import Column
from sim_instrument.damage import DamageState
from sim_instrument.detector import PixelDetector
from sim_instrument.multislice import Grid
from sim_instrument.potential import RIM, import_abtem
from sim_instrument.simulation import THREADS, Block, Exposure, Timing
from sim_instrument.specimen import SpecimenOptions, build_specimen

STEP_LIMITS = (0.2, 10.0)
DOSE_LIMITS = (1.0, 1e7)
_LOOK_AHEAD = 2 * THREADS
_LATENCY = 120.0
"""s for which a frame may have to be computed, with the potentials before the first one."""


class SimulatedMicroscope:
    """A column that is not there, looking at a flake of a bilayer.

    Args:
        specimen: which one; None: 2H-MoS2.
        column: its faults; the agent is told nominal values only. None: those of a good, real instrument.
        state_dir: remembers the dose that the flake has received; None: forgets it.
        beam_file: shows the beam, and lets others turn it off; None: nobody can.
        seed: of jitter, noise and bad pixels; the same seed and acquisition id give the same counts.
        real_time: honour dwell, flyback and settling times on the clock; otherwise as fast as can be computed.
        clock: monotonic time, s.
        sleep: waits for so many s.

    Raises:
        ConflictError: `state_dir` belongs to another flake.
    """

    def __init__(
        self,
        specimen: SpecimenOptions | None = None,
        column: Column | None = None,
        *,
        state_dir: Path | None = None,
        beam_file: Path | None = None,
        seed: int = 0,
        real_time: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.column = column or Column()
        self.specimen = build_specimen(specimen)
        self._damage = DamageState(self.specimen, self.column, state_dir)
        self._seed, self._real_time, self._clock, self._sleep = seed, real_time, clock, sleep
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="simulation")
        self._description = self._describe()
        if self.column.apertures:
            # Only then: a server settles and reads back whatever has these two.
            drive = ApertureDrive(self.column)
            self.set, self.read_back = drive.set, drive.read_back
        self._busy = False
        # Set while the beam is off or to be turned off; `blank` may come from any thread. Each acquisition has its
        # own, so that what a stopped one still computes stays stopped when the next begins.
        self._blanked = threading.Event()
        self._blanked.set()
        self._beam_time = 0.0
        self._beam_file = None if beam_file is None else BeamFile(beam_file)
        self._hold = Hold(lambda: self._show_beam(on=False), lambda: self._show_beam(on=not self._blanked.is_set()))

    @property
    def dose(self) -> NDArray[np.float64]:
        """(y, x) e/Å² that the flake has received so far, on pixels of 1 Å."""
        return self._damage.dose

    async def describe(self) -> Description:
        """What the facility knows: nominal values, legal settings, dead pixels."""
        return self._description

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """The cost of a plan, with flyback. Raises OutOfLimitsError with what is legal.

        Args:
            plan: to be checked.
        """
        column = self.column.through(plan.semiangle)
        for name, value, parameter in (
            ("step", plan.step, self._description.step),
            ("defocus", plan.defocus, self._description.defocus),
            ("dose", plan.dose, self._description.dose),
        ):
            parameter.check(name, value)
        timing = Timing.of(plan, column)
        if column.dwell_times is None and timing.dwell * column.max_frame_rate < 1 - 1e-6:
            raise _too_fast(plan, column, timing)
        check_limits(plan, self._description)
        radius = optics.probe_diameter(column.semiangle, plan.defocus, column.voltage) / 2
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=timing.dwell,
            electrons=float(timing.lit(plan, plan.n_positions)) * column.electrons_per_second,
            duration=timing.duration(plan) + column.settle,
            bytes=plan.n_positions * column.detector_pixels**2 * 2,
            illuminated=plan.field.grown(radius + optics.probe_diameter(column.semiangle, 0, column.voltage) / 2),
        )

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Expose; frames come in scan order.

        Args:
            plan: to be acquired.

        Raises:
            OutOfLimitsError: as `check`.
            ConflictError: another acquisition is running.
            BlankedError: `blank` was called meanwhile.
        """
        await self.check(plan)
        if self._busy:
            msg = "another acquisition is running; wait until it has ended"
            raise ConflictError(msg)
        self._busy = True
        blanked = self._blanked = threading.Event()
        pending: deque[tuple[Block, Future[NDArray[np.uint16]]]] = deque()
        try:
            exposure = await asyncio.wrap_future(
                self._pool.submit(Exposure, plan, self.specimen, self.column, self._seed, self._damage)
            )
            begin = self._clock() + self.column.settle
            self._show_beam(on=not blanked.is_set())
            waiting = iter(exposure.blocks)
            for _ in exposure.blocks:
                while len(pending) < _LOOK_AHEAD and (block := next(waiting, None)) is not None:
                    pending.append((block, self._pool.submit(exposure.counts, block, blanked.is_set)))
                if self._beam_file is not None and self._beam_file.turned_off():
                    blanked.set()
                block, future = pending.popleft()
                frames = await asyncio.wrap_future(future)
                first, stop = exposure.timing.lit(plan, np.array([block.first, block.stop])).tolist()
                if not blanked.is_set():
                    self._beam_time += stop - first
                if self._real_time:
                    end = exposure.timing.start(plan, block.stop - 1) + exposure.timing.dwell
                    await self._wait_until(begin + float(end), blanked)
                if not blanked.is_set():
                    await asyncio.to_thread(self._damage.expose, plan, block.first, block.stop)
                for index in range(block.first, block.stop):
                    if blanked.is_set():
                        msg = f"the beam was blanked after {index} of {plan.n_positions} patterns"
                        raise BlankedError(msg)
                    held = self._clock()
                    with self._hold:
                        yield Frame(index, frames[index - block.first])
                        if self._hold.paused:
                            begin += self._clock() - held
        finally:
            blanked.set()
            self._show_beam(on=False)
            for _, future in pending:
                future.cancel()
            self._busy = False

    def blank(self) -> None:
        """Stop a running acquisition before its next pattern."""
        self._blanked.set()
        self._show_beam(on=False)

    def _show_beam(self, *, on: bool) -> None:
        if self._beam_file is not None:
            self._beam_file.set(on=on)

    async def health(self) -> Health:
        """A column that is not there is always well."""
        return Health(blanked=self._blanked.is_set() or self._hold.paused)

    def beam_time(self) -> float:
        """s for which the beam was on, on the clock of the simulated scan."""
        return self._beam_time

    def warm_up(self, *, wait: bool = False) -> None:
        """Import what the first acquisition needs, in a thread; `acquire` waits for it by itself.

        Args:
            wait: return when that is done (seconds). Loading libraries may keep a heartbeat waiting.
        """
        if len(self.specimen.positions) == 0:  # a vacuum has no potential
            return
        done = self._pool.submit(import_abtem)
        if wait:
            done.result()

    def close(self) -> None:
        """Stop computing."""
        self.blank()
        self._pool.shutdown(cancel_futures=True)

    async def _wait_until(self, moment: float, blanked: threading.Event) -> None:
        """Sleep in short pieces, so that a blanked beam is noticed."""
        while (left := moment - self._clock()) > 0 and not blanked.is_set():
            await self._sleep(min(left, 0.1))

    def _describe(self) -> Description:
        column = self.column
        behind = [column.through(angle) for angle in column.apertures]
        # The widest probe's window has to stay on the flake, or the rim of the flake would be in the picture.
        widest = max(abs(column.true_defocus(sign * column.max_defocus)) for sign in (-1, 1))
        grids = [Grid.of(each, widest, self.specimen.layer_depth[-1]) for each in behind or [column]]
        margin = max(math.ceil(grid.window * grid.pixel / 2 + RIM) for grid in grids)
        size = self.specimen.options.size - 2 * margin
        return Description(
            name=f"simulated microscope, {self.specimen.options.material}",
            voltage=column.voltage,
            semiangle=column.semiangle,
            beam_current=column.beam_current,
            apertures=tuple(
                Aperture(
                    semiangle=each.semiangle,
                    beam_current=each.beam_current,
                    electrons_per_pattern=each.electrons_per_pattern,
                )
                for each in behind
            ),
            tolerances={APERTURE: ApertureDrive.TOLERANCE} if behind else {},
            detector=Detector(
                shape=(column.detector_pixels, column.detector_pixels),
                angular_pixel=column.angular_pixel,
                dtype="uint16",
                saturation=column.saturation,
                dead_pixels=PixelDetector(column, self._seed).dead_pixels,
            ),
            two_passes="offset",
            scan_patterns=("raster", "serpentine", "spiral", "positions"),
            step=Parameter(kind="continuous", unit="Å", minimum=STEP_LIMITS[0], maximum=STEP_LIMITS[1]),
            defocus=Parameter(kind="continuous", unit="Å", minimum=-column.max_defocus, maximum=column.max_defocus),
            dose=Parameter(kind="continuous", unit="e/Å²", minimum=DOSE_LIMITS[0], maximum=DOSE_LIMITS[1]),
            electrons_per_pattern=column.electrons_per_pattern,
            electrons_per_pattern_values=column.dwell_electrons,
            scan_rotation=column.nominal_rotation,
            mirrored=column.mirrored,
            spherical_aberration=column.nominal_spherical_aberration,
            area=Rectangle(y=margin, x=margin, height=size, width=size),
            frame_overhead=column.readout,
            line_overhead=column.flyback + (1 / column.line_trigger if column.line_trigger else 0.0),
            line_trigger=column.line_trigger,
            flyback_blanked=column.flyback_blanked,
            settle_time=column.settle,
            latency=_LATENCY,
        )


def _too_fast(plan: AcquisitionPlan, column: Column, timing: Timing) -> OutOfLimitsError:
    """The refusal of a dwell time that the detector cannot keep up with."""
    least = column.electrons_per_second / column.max_frame_rate
    per_cell = least * plan.patterns_per_cell
    passes, one_pass = (" in two passes", ", or one pass") if plan.patterns_per_cell > 1 else ("", "")
    msg = (
        f"{plan.dose:g} e/Å²{passes} at a step of {plan.step:g} Å and {column.beam_current:g} pA is a dwell time of "
        f"{1e6 * timing.dwell:.3g} µs, but the detector reads at most {column.max_frame_rate:g} frames/s; legal: "
        f"a dose of at least {per_cell / plan.step**2:.4g} e/Å², a step of at least "
        f"{math.sqrt(per_cell / plan.dose):.3g} Å{one_pass}"
    )
    return OutOfLimitsError(msg, parameter="electrons_per_pattern", value=plan.electrons_per_pattern, minimum=least)
