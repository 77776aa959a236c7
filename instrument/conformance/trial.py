"""What every promise is tried with: small plans, scans that are counted, and words for what went wrong."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from instrument.limits import with_legal_dose
from instrument.microscope import Frame, Microscope
from instrument.models import AcquisitionPlan, Description, Health, Parameter, Rectangle

POSITIONS = 10
"""Along either side of a scan, at most."""
PATIENCE = 300.0
"""s after which a scan is given up."""
KEPT = 8
"""Patterns of a watched scan that are kept, to see whether the adapter writes over them."""


class BrokenPromiseError(Exception):
    """What the microscope did instead."""


class NotOfferedError(Exception):
    """Why a promise does not apply to this microscope."""


@dataclass(frozen=True)
class Finding:
    """One promise.

    Attributes:
        promise: in words.
        failure: what happened instead; "" where it was kept.
        skipped: why it was not tried; "" where it was.
    """

    promise: str
    failure: str = ""
    skipped: str = ""


@dataclass
class Watched:
    """What was seen during one complete scan.

    Attributes:
        plan: that was scanned.
        indices: in the order of their arrival.
        counts: sum of each pattern.
        strange: shapes and types that the description does not have.
        saturated: patterns of which half the bright-field disc or more is saturated.
        longest_gap: s between two frames, and before the first.
        longest_stall: s for which the event loop stood still.
        health: answers during the scan, with the s that each took.
        kept: the first patterns as they were handed over, with a copy made at that moment.
    """

    plan: AcquisitionPlan
    indices: list[int] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    strange: set[str] = field(default_factory=set)
    saturated: int = 0
    longest_gap: float = 0.0
    longest_stall: float = 0.0
    health: list[tuple[Health, float]] = field(default_factory=list)
    kept: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)

    def take(self, frame: Frame, description: Description) -> None:
        """Note a frame.

        Args:
            frame: as it arrived.
            description: of the microscope.
        """
        detector, pattern = description.detector, frame.pattern
        self.indices.append(frame.index)
        self.counts.append(float(pattern.sum(dtype=np.float64)))
        if pattern.shape != detector.shape or pattern.dtype != np.dtype(detector.dtype):
            self.strange.add(f"{pattern.shape} {pattern.dtype}")
        self.saturated += int(np.count_nonzero(pattern >= detector.saturation) > max(4.0, description.disc_pixels / 2))
        if len(self.kept) < KEPT:
            self.kept.append((pattern, pattern.copy()))


class Trial:
    """One microscope on trial.

    Args:
        microscope: blanked, and used by nobody else.
        description: of it.
        dose: e/Å² of the scans; None: as low as is legal, four times the least.

    Attributes:
        electrons: that the scans have cost so far, at most.
    """

    def __init__(self, microscope: Microscope, description: Description, dose: float | None = None) -> None:
        self.microscope = microscope
        self.description = description
        self.electrons = 0.0
        self._dose = dose
        self._watched: Watched | str | None = None

    def plan(self, **changes: Any) -> AcquisitionPlan:
        """A new, small plan in the middle of the area."""
        plan = small_plan(self.description, f"check-{secrets.token_hex(4)}", self._dose)
        return plan.model_copy(update=changes) if changes else plan

    @asynccontextmanager
    async def scan(self, plan: AcquisitionPlan | None = None) -> AsyncIterator[AsyncGenerator[Frame, None]]:
        """Frames of a plan; closed at the end."""
        plan = plan or self.plan()
        self.electrons += max(plan.electrons, (await self.microscope.check(plan)).electrons)
        frames = cast("AsyncGenerator[Frame, None]", self.microscope.acquire(plan))
        async with aclosing(frames), asyncio.timeout(PATIENCE):
            yield frames

    async def watched(self) -> Watched:
        """One complete scan, of which several promises have something to see; scanned once."""
        if self._watched is None:
            try:
                self._watched = await self.watch(self.plan())
            except Exception as error:
                self._watched = f"the scan failed: {type(error).__name__}: {error}"
        if isinstance(self._watched, str):
            raise BrokenPromiseError(self._watched)
        return self._watched

    async def watch(self, plan: AcquisitionPlan) -> Watched:
        """Scan a plan to its end and note what happens.

        Args:
            plan: to be scanned.
        """
        seen = Watched(plan)
        tasks = [asyncio.ensure_future(each) for each in (self._watch_loop(seen), self._ask_health(seen))]
        try:
            async with self.scan(plan) as frames:
                last = time.monotonic()
                async for frame in frames:
                    now = time.monotonic()
                    seen.longest_gap = max(seen.longest_gap, now - last)
                    seen.take(frame, self.description)
                    await asyncio.sleep(0)
                    last = time.monotonic()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return seen

    async def _watch_loop(self, seen: Watched) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            seen.longest_stall, last = max(seen.longest_stall, now - last), now

    async def _ask_health(self, seen: Watched) -> None:
        while True:
            began = time.monotonic()
            seen.health.append((await self.microscope.health(), time.monotonic() - began))
            await asyncio.sleep(0.2)

    async def require_blanked(self, when: str) -> None:
        """The beam has to be off."""
        require((await self.microscope.health()).blanked, f"health says that the beam is on {when}")


@dataclass(frozen=True)
class Promise:
    """One thing that a microscope promises.

    Attributes:
        name: in words.
        attempt: tries it; raises BrokenPromiseError, or NotOfferedError where it does not apply.
        beam: whether trying it exposes the specimen.
    """

    name: str
    attempt: Callable[[Trial], Awaitable[None]]
    beam: bool = False


def require(kept: bool, otherwise: str) -> None:
    """Raise BrokenPromiseError with what happened instead, unless the promise was kept."""
    if not kept:
        raise BrokenPromiseError(otherwise)


def timed(seconds: float, limit: float, what: str) -> None:
    """Raise BrokenPromiseError where something took longer than it may."""
    require(seconds < limit, f"{what} takes {1e3 * seconds:.0f} ms; at most {1e3 * limit:.0f} ms are allowed")


def small_plan(description: Description, name: str, dose: float | None = None) -> AcquisitionPlan:
    """A plan of at most 10 × 10 positions in the middle of the area, at a low dose that the description allows.

    Args:
        description: of the instrument.
        name: id of the plan.
        dose: e/Å² to be used; None: four times the least that is legal.

    Raises:
        BrokenPromiseError: step, dose and electrons per pattern of the description leave nothing to be chosen.
    """
    area = description.area
    low, high = description.electrons_per_pattern
    for step in values_of(description.step):
        lowest = max(description.dose.bounds[0], low / step**2)
        highest = min(description.dose.bounds[1], high / step**2)
        positions = min(POSITIONS, math.floor(min(area.height, area.width) / step + 1e-6))
        if lowest > highest or positions < 2 or (dose is not None and not lowest <= dose <= highest):
            continue
        size = positions * step
        # On the grid of the steps from the area's corner, so that a recording has its positions there.
        y, x = (math.floor((edge - size) / 2 / step + 1e-6) * step for edge in (area.height, area.width))
        plan = AcquisitionPlan(
            id=name,
            campaign="check",
            region="check",
            field=Rectangle(y=area.y + y, x=area.x + x, height=size, width=size),
            step=step,
            defocus=min(values_of(description.defocus), key=abs),
            dose=min(4 * lowest, highest) if dose is None else dose,
        )
        return plan if description.electrons_per_pattern_values is None else with_legal_dose(plan, description)
    wanted = "a legal number of electrons" if dose is None else f"a dose of {dose:g} {description.dose_unit}"
    msg = f"no step and dose of the description put {wanted} into a pattern"
    raise BrokenPromiseError(msg)


def values_of(parameter: Parameter) -> list[float]:
    """Some legal values of a setting."""
    if parameter.values is not None:
        return sorted(parameter.values)
    low, high = parameter.bounds
    return [min(max(1.0, low), high), high, low]


def scaled(description: Description, plan: AcquisitionPlan, factor: float) -> AcquisitionPlan | None:
    """The same plan at a legal dose that is about `factor` times as high; None where there is none."""
    dose = plan.dose * factor
    low, high = description.electrons_per_pattern
    if not description.dose.bounds[0] <= dose <= description.dose.bounds[1]:
        return None
    changed = plan.model_copy(update={"dose": dose, "id": f"{plan.id}-scaled"})
    if description.electrons_per_pattern_values is not None:
        changed = with_legal_dose(changed, description)
    legal = low <= changed.electrons_per_pattern <= high and changed.dose > 1.4 * plan.dose
    return changed if legal else None
