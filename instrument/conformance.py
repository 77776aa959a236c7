"""What `Microscope` promises, tried out on an adapter: `python -m instrument conformance mylab:make`.

It exposes about eight scans of at most 12 × 12 positions, at a low dose, in the middle of the area. In a test of one's own:
`assert not [each for each in await try_promises(microscope) if each.failure]`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np

from instrument.beam import HOLD_LIMIT
from instrument.errors import BlankedError
from instrument.limits import check_limits, with_legal_dose
from instrument.microscope import CountsBeamTime, Frame, Microscope
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, Description, Parameter, Rectangle

POSITIONS = 12
BLANK_LIMIT = 0.01
LOOP_LIMIT = 0.25
"""s that the event loop may stand still; the promise is 0.02, but other programs have their share of the processor."""
STOP_LIMIT = 2.0
PATIENCE = 300.0
"""s after which a scan is given up."""


class BrokenPromiseError(Exception):
    """What the microscope did instead."""


@dataclass(frozen=True)
class Finding:
    """One promise; `failure` says what happened instead, "" where it was kept."""

    promise: str
    failure: str = ""


@dataclass
class _Trial:
    microscope: Microscope
    description: Description

    def plan(self) -> AcquisitionPlan:
        """A new, small plan in the middle of the area."""
        return small_plan(self.description, f"conformance-{secrets.token_hex(4)}")

    @asynccontextmanager
    async def scan(self, plan: AcquisitionPlan | None = None) -> AsyncIterator[AsyncGenerator[Frame, None]]:
        """Frames of a plan; closed at the end."""
        frames = cast("AsyncGenerator[Frame, None]", self.microscope.acquire(plan or self.plan()))
        async with aclosing(frames), asyncio.timeout(PATIENCE):
            yield frames

    async def require_blanked(self, when: str) -> None:
        """The beam has to be off."""
        _require((await self.microscope.health()).blanked, f"health says that the beam is on {when}")


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenPromiseError(otherwise)


def small_plan(description: Description, name: str) -> AcquisitionPlan:
    """A plan of at most 12 × 12 positions in the middle of the area, at a low dose that the description allows.

    Args:
        description: of the instrument.
        name: id of the plan.

    Raises:
        BrokenPromiseError: step, dose and electrons per pattern of the description leave nothing to be chosen.
    """
    area = description.area
    low, high = description.electrons_per_pattern
    for step in _values(description.step):
        lowest = max(description.dose.bounds[0], low / step**2)
        highest = min(description.dose.bounds[1], high / step**2)
        positions = min(POSITIONS, math.floor(min(area.height, area.width) / step + 1e-6))
        if lowest > highest or positions < 2:
            continue
        size = positions * step
        # On the grid of the steps from the area's corner, so that a recording has its positions there.
        y, x = (math.floor((edge - size) / 2 / step + 1e-6) * step for edge in (area.height, area.width))
        plan = AcquisitionPlan(
            id=name,
            campaign="conformance",
            region="conformance",
            field=Rectangle(y=area.y + y, x=area.x + x, height=size, width=size),
            step=step,
            defocus=min(_values(description.defocus), key=abs),
            dose=min(4 * lowest, highest),
        )
        return plan if description.electrons_per_pattern_values is None else with_legal_dose(plan, description)
    msg = "no step and dose of the description put a legal number of electrons into a pattern"
    raise BrokenPromiseError(msg)


def _values(parameter: Parameter) -> list[float]:
    if parameter.values is not None:
        return sorted(parameter.values)
    low, high = parameter.bounds
    return [min(max(1.0, low), high), high, low]


async def _describes(trial: _Trial) -> None:
    check_limits(trial.plan(), trial.description)
    again = await trial.microscope.describe()
    _require(again.detector == trial.description.detector, "a second description has another detector")


async def _checks(trial: _Trial) -> None:
    plan = trial.plan()
    check = await trial.microscope.check(plan)
    _require(check.n_positions == plan.n_positions, f"check counts {check.n_positions} of {plan.n_positions} positions")
    _require(
        check.electrons >= plan.electrons * (1 - 1e-6),
        f"check counts {check.electrons:g} electrons, the patterns alone take {plan.electrons:g}",
    )
    _require(
        check.duration >= check.dwell_time * plan.n_positions * (1 - 1e-6), "the scan is shorter than its dwell times"
    )
    _require(check.illuminated.contains(plan.field), "the illuminated area does not contain the field")
    await trial.require_blanked("after a check")


async def _delivers(trial: _Trial) -> None:
    plan, detector = trial.plan(), trial.description.detector
    seen: list[int] = []
    async with trial.scan(plan) as frames:
        async for frame in frames:
            seen.append(frame.index)
            right = frame.pattern.shape == detector.shape and frame.pattern.dtype == np.dtype(detector.dtype)
            _require(right, f"a frame of {frame.pattern.shape} {frame.pattern.dtype}; the description says otherwise")
    _require(sorted(seen) == list(range(plan.n_positions)), f"{len(seen)} frames, {len(set(seen))} different ones")
    await trial.require_blanked("after the scan has ended")


async def _scans_in_two_passes(trial: _Trial) -> None:
    """As `_delivers`, for a plan of two passes where the description offers them."""
    two_passes = trial.description.two_passes
    if two_passes is None:
        return
    plan = trial.plan().model_copy(update={"passes": 2, "interlacing": two_passes})
    plan = with_legal_dose(plan, trial.description)
    check = await trial.microscope.check(plan)
    _require(check.n_positions == plan.n_positions, f"check counts {check.n_positions} of {plan.n_positions} positions")
    async with trial.scan(plan) as frames:
        seen = [frame.index async for frame in frames]
    _require(sorted(seen) == list(range(plan.n_positions)), f"{len(seen)} frames, {len(set(seen))} different ones")


async def _counts_beam_time(trial: _Trial) -> None:
    microscope, current = trial.microscope, trial.description.beam_current
    if not isinstance(microscope, CountsBeamTime) or current is None:
        return
    plan, before = trial.plan(), microscope.beam_time()
    async with trial.scan(plan) as frames:
        async for _ in frames:
            pass
    electrons = (microscope.beam_time() - before) * current * 1e-12 / ELEMENTARY_CHARGE
    reserved = (await microscope.check(plan)).electrons
    _require(
        plan.electrons * 0.99 <= electrons <= reserved * 1.01 + 1,
        f"beam_time makes {electrons:g} electrons of a scan that takes {plan.electrons:g} … {reserved:g}",
    )


async def _stops_when_closed(trial: _Trial) -> None:
    async with trial.scan() as frames:
        await anext(frames)
    await trial.require_blanked("after the iterator was closed")


async def _blanks_quickly(trial: _Trial) -> None:
    def seconds() -> float:
        began = time.monotonic()
        trial.microscope.blank()
        return time.monotonic() - began

    fastest = min([await asyncio.to_thread(seconds) for _ in range(3)])
    _require(
        fastest < BLANK_LIMIT, f"blank takes {1e3 * fastest:.0f} ms; at most {1e3 * BLANK_LIMIT:.0f} ms are allowed"
    )


async def _stops_when_blanked(trial: _Trial) -> None:
    taken, began = 0, 0.0
    try:
        async with trial.scan() as frames:
            async for _ in frames:
                taken += 1
                if taken == 3:
                    await asyncio.to_thread(trial.microscope.blank)
                    await trial.require_blanked("after `blank`")
                    began = time.monotonic()
    except BlankedError:
        _require(time.monotonic() - began < STOP_LIMIT, f"it took more than {STOP_LIMIT:g} s to stop after `blank`")
    else:
        raise BrokenPromiseError("`blank` did not end the scan with BlankedError")
    await trial.require_blanked("after the scan was stopped")


async def _exposes_again(trial: _Trial) -> None:
    trial.microscope.blank()
    await _delivers(trial)


async def _pauses_when_held(trial: _Trial) -> None:
    plan, taken = trial.plan(), 0
    try:
        async with trial.scan(plan) as frames:
            async for _ in frames:
                taken += 1
                if taken == 3:
                    await asyncio.sleep(HOLD_LIMIT + 0.25)
                    await trial.require_blanked(f"although a frame has been held for more than {HOLD_LIMIT:g} s")
    except BlankedError:
        return
    _require(taken == plan.n_positions, f"after the pause {plan.n_positions - taken} frames were missing")
    await trial.require_blanked("after the scan has ended")


async def _leaves_the_loop_alone(trial: _Trial) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    watching = asyncio.ensure_future(watch())
    try:
        async with trial.scan() as frames:
            async for _ in frames:
                await asyncio.sleep(0)
    finally:
        watching.cancel()
    _require(
        longest < LOOP_LIMIT, f"the event loop stood still for {longest:.2f} s; blocking calls belong into a thread"
    )


PROMISES: tuple[tuple[str, Callable[[_Trial], Awaitable[None]]], ...] = (
    ("the description allows a plan, and stays the same", _describes),
    ("check counts positions, time, electrons and area, and exposes nothing", _checks),
    ("every frame comes once, as described, and the beam is off at the end", _delivers),
    ("two passes are scanned where the description offers them", _scans_in_two_passes),
    ("beam_time counts what the beam was on", _counts_beam_time),
    ("closing the iterator turns the beam off", _stops_when_closed),
    ("blank may be called from any thread, again and again, and takes milliseconds", _blanks_quickly),
    ("blank ends a running scan", _stops_when_blanked),
    ("a scan after a blank is complete", _exposes_again),
    ("the beam is off while a frame is being held", _pauses_when_held),
    ("the event loop is left alone", _leaves_the_loop_alone),
)


async def try_promises(microscope: Microscope) -> list[Finding]:
    """Try all promises, one after the other. Exposes the specimen.

    Args:
        microscope: blanked, and used by nobody else.

    Returns:
        What was found, in the order of PROMISES.
    """
    microscope.blank()
    description = await microscope.describe()
    found: list[Finding] = []
    for promise, attempt in PROMISES:
        try:
            await attempt(_Trial(microscope, description))
        except BrokenPromiseError as error:
            found.append(Finding(promise, str(error)))
        except Exception as error:
            found.append(Finding(promise, f"{type(error).__name__}: {error}"))
        else:
            found.append(Finding(promise))
        finally:
            microscope.blank()
    return found


def main(microscope: Microscope) -> int:
    """Try all promises and print what was found, a line each.

    Args:
        microscope: to be tried.

    Returns:
        The exit code: 0 where all were kept, 1 otherwise.
    """
    found = asyncio.run(try_promises(microscope))
    for each in found:
        print(f"FAILED  {each.promise}: {each.failure}" if each.failure else f"ok      {each.promise}")
    return int(any(each.failure for each in found))
