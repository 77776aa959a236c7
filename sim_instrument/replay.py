# SPDX-License-Identifier: GPL-3.0-or-later
"""A recorded 4D data set served as an instrument: coarser steps, lower doses, parts of the field.

Recorded pattern (i, j) lies at ((i + ½)·s, (j + ½)·s) Å, s the recorded step. A plan's step is a multiple m of s; its
cell k along an axis is served with recorded index k₀ + k·m + (m − 1)//2, where k₀ is the field's edge rounded to the
recorded grid. Cell centres of even multiples fall between recorded positions, and a field's edge may as well: all
positions of a plan are then off by the same vector, at most half a recorded step per axis, which moves the picture and
changes nothing in it. Two passes share the cells of a plan as a checkerboard: the same patterns as one pass, each in one of them.

A dose asks for the fraction dose · step² / (mean counts of a recorded pattern) of each pattern's counts;
sim_instrument.recorded_counts draws them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument import (
    AcquisitionPlan,
    BlankedError,
    Description,
    Detector,
    Frame,
    Health,
    OutOfLimitsError,
    Parameter,
    PlanCheck,
    Rectangle,
)
from instrument.beam import Hold
from instrument.errors import BadInputError
from instrument.geometry import Geometry
from instrument.limits import check_limits
from instrument.recordings import RecordingOptions, as_type, counts_of, read_recording, whole_counts
from instrument.text import printable
from sim_instrument.recorded_counts import RecordedCounts

FRAME_TIME = 1e-3
"""Dwell time that plans are told, s: what drawing a pattern takes, since a recording does not know its own."""
_LATENCY = 60.0
"""s for which counts may have to be drawn."""
_BATCH = 32  # patterns drawn per visit to a thread


class ReplayMicroscope:
    """A `Microscope` whose specimen is a recording.

    Args:
        path: a recording of any format that `instrument.recordings` reads.
        state_dir: directory that remembers what has been used up; made if missing.
        options: what the file does not say, or says wrongly. The sign of a defocus known only in magnitude is a guess.
        geometry: what is known of the detector and advertised to agents; None: nothing.
        seed: of which counts are drawn.
        reuse: draw every acquisition from the whole recording. Repeats then share counts and are not independent.

    Raises:
        BadInputError: the file is no recording, has no whole counts, or a number is missing.
        ConflictError: `state_dir` belongs to another recording, seed or mode.
    """

    def __init__(
        self,
        path: Path,
        state_dir: Path,
        options: RecordingOptions | None = None,
        *,
        geometry: Geometry | None = None,
        seed: int = 0,
        reuse: bool = False,
    ) -> None:
        recording = read_recording(path, options or RecordingOptions())
        numbers = recording.require("voltage", "semiangle", "angular_pixel", "step", "defocus")
        counts = counts_of(recording)
        # The wire's types. Which of them is part of the recording's identity in `state_dir`, so it must not depend on the counts.
        dtype = np.uint8 if recording.patterns.dtype == np.uint8 else np.uint16
        patterns = _drawable(path, whole_counts(path, counts.patterns), dtype)
        self._step = numbers["step"]
        self._scan = recording.patterns.shape[:2]
        self._detector = patterns.shape[1:]
        self._dtype = patterns.dtype
        self._dead = () if counts.mask is None else tuple((int(y), int(x)) for y, x in np.argwhere(~counts.mask))
        self._reuse = reuse
        self._counts = RecordedCounts(patterns, state_dir, seed, reuse)
        notes = (recording.sources(), *recording.notes, *counts.notes)
        whole = self._describe_whole(f"replay of {printable(path.name)}", numbers, notes)
        self._whole = (geometry or Geometry()).applied(whole)
        # Set while the beam is off; `blank` may come from any thread.
        self._blanked = threading.Event()
        self._blanked.set()
        self._hold = Hold(lambda: None, lambda: None)

    @property
    def multiples(self) -> range:
        """Legal steps in recorded ones: as long as eight positions remain along the shorter side."""
        return range(1, max(1, min(self._scan) // 8) + 1)

    async def describe(self) -> Description:
        """What the recording allows now; the largest dose falls as it is used up.

        The upper end of `electrons_per_pattern` is what the least used position still holds: `check` refuses more than is left
        where a plan wants to go.
        """
        left = self._counts.left
        most = max(1.0, self._counts.mean * float(left.max()))
        state = "reuse: every acquisition draws from the whole recording; repeats share counts, so are not independent"
        if not self._reuse:
            state = f"counts are drawn without replacement; {100 * left.mean():.3g} % of the recording is left"
        dose = self._whole.dose.model_copy(update={"maximum": most / self._step**2})
        return self._whole.model_copy(
            update={"dose": dose, "electrons_per_pattern": (1.0, most), "notes": (*self._whole.notes, state)}
        )

    def _describe_whole(self, name: str, numbers: dict[str, float], notes: tuple[str, ...]) -> Description:
        """The instrument as long as nothing has been used up."""
        step, mean = self._step, self._counts.mean
        return Description(
            name=name,
            voltage=numbers["voltage"],
            wavelength=numbers.get("wavelength"),
            semiangle=numbers["semiangle"],
            detector=Detector(
                shape=self._detector,
                angular_pixel=numbers["angular_pixel"],
                dtype="uint8" if self._dtype == np.uint8 else "uint16",
                saturation=int(np.iinfo(self._dtype).max),
                counts_per_electron=None,
                dead_pixels=self._dead,
            ),
            two_passes="checkerboard",
            scan_patterns=("raster", "serpentine", "spiral", "positions"),
            step=Parameter(kind="discrete", unit="Å", values=tuple(m * step for m in self.multiples)),
            defocus=Parameter(kind="fixed", unit="Å", values=(numbers["defocus"],)),
            dose=Parameter(
                kind="continuous",
                unit="counts/Å²",
                minimum=1 / (self.multiples[-1] * step) ** 2,
                maximum=mean / step**2,
            ),
            electrons_per_pattern=(1.0, mean),
            area=Rectangle(y=0, x=0, height=self._scan[0] * step, width=self._scan[1] * step),
            latency=_LATENCY,
            repeatable=True,
            consumable=not self._reuse,
            notes=(
                "a recording: counts per electron are not known, doses are counts/Å²; dwell and duration are nominal",
                f"recorded step {step:g} Å, {mean:.0f} counts per pattern; scans shift by up to half a recorded step",
                *notes,
            ),
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """Cost of `plan`. Raises OutOfLimitsError, or ExhaustedError where too few counts are left."""
        self._counts.check(plan.id, self._positions(plan), self._fraction(plan))
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=FRAME_TIME,
            electrons=plan.electrons,
            duration=plan.n_positions * FRAME_TIME,
            bytes=plan.n_positions * int(np.prod(self._detector)) * self._dtype.itemsize,
            illuminated=plan.field,
        )

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Book the counts, then hand out the patterns in scan order. Raises as `check`, ConflictError, and BlankedError."""
        positions, fraction = self._positions(plan), self._fraction(plan)
        starts = await asyncio.to_thread(self._counts.take, plan.id, plan.model_dump_json(), positions, fraction)

        def draw(first: int) -> list[NDArray[Any]]:
            batch = range(first, min(first + _BATCH, len(positions)))
            return [self._counts.draw(plan.id, int(positions[k]), float(starts[k]), fraction) for k in batch]

        self._blanked.clear()
        try:
            for first in range(0, len(positions), _BATCH):
                for offset, pattern in enumerate(await asyncio.to_thread(draw, first)):
                    if self._blanked.is_set():
                        msg = f"the beam was blanked after {first + offset} of {len(positions)} patterns"
                        raise BlankedError(msg)
                    with self._hold:
                        yield Frame(first + offset, pattern)
        finally:
            self._blanked.set()

    def blank(self) -> None:
        """A running acquisition stops before its next pattern."""
        self._blanked.set()

    async def health(self) -> Health:
        """A recording is always well; it says how much of it is left."""
        return Health(
            blanked=self._blanked.is_set() or self._hold.paused,
            message=f"{100 * self._counts.left.mean():.3g} % of the recording is left",
        )

    def close(self) -> None:
        """Close the state file."""
        self._counts.close()

    def _fraction(self, plan: AcquisitionPlan) -> float:
        return plan.electrons_per_pattern / self._counts.mean

    def _positions(self, plan: AcquisitionPlan) -> NDArray[np.intp]:
        """Recorded positions, scan_y · n_x + scan_x, in the order of the plan. Raises OutOfLimitsError."""
        check_limits(plan, self._whole)
        step, (n_y, n_x) = self._step, self._scan
        if plan.positions is not None:
            index = plan.scan_positions() / step - 0.5
            nearest = np.rint(index).astype(np.intp)
            legal = (np.abs(index - nearest) < 0.01).all() and (nearest >= 0).all() and (nearest < [n_y, n_x]).all()
            flat: NDArray[np.intp] = nearest[:, 0] * n_x + nearest[:, 1]
            if not legal or len(np.unique(flat)) < len(flat):
                msg = f"explicit positions must be different recorded ones, ((i + ½)·{step:g}, (j + ½)·{step:g}) Å"
                raise OutOfLimitsError(msg, parameter="positions")
            return flat
        multiple = round(plan.step / step)
        rows, columns = (
            np.rint(edge / step).astype(np.intp) + np.arange(count) * multiple + (multiple - 1) // 2
            for edge, count in zip((plan.field.y, plan.field.x), plan.shape, strict=True)
        )
        raster = rows[:, None] * n_x + columns[None, :]
        in_scan_order = np.empty(plan.n_positions, dtype=np.intp)
        (indices,) = plan.rasters()
        in_scan_order[indices] = raster
        return in_scan_order


def _drawable(path: Path, patterns: NDArray[Any], dtype: type[np.uint8 | np.uint16]) -> NDArray[Any]:
    """Counts (n, ky, kx) in a type that goes over the wire. Raises BadInputError where they do not fit."""
    most = np.iinfo(np.uint16).max
    if patterns.dtype.itemsize > 2 and patterns.max() > most:
        msg = f"{path}: counts must lie between 0 and {most}, not {patterns.min():g} … {patterns.max():g}"
        raise BadInputError(msg)
    return as_type(patterns, dtype)
