"""Promises of `acquire`: frames, their counts, their time, and the beam around them. The specimen is exposed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np

from instrument.beam import HOLD_LIMIT
from instrument.conformance.checking import patterned, two_passes
from instrument.conformance.describing import HEALTH_LIMIT
from instrument.conformance.trial import BrokenPromiseError, NotOfferedError, Promise, Trial, require, scaled, timed
from instrument.errors import BlankedError
from instrument.microscope import CountsBeamTime
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, ScanPattern

LOOP_LIMIT = 0.25
"""s that the event loop may stand still; the promise is 0.02, but other programs have their share of the processor."""
STOP_LIMIT = 2.0
LATE = 2.0
"""s beyond frame time and latency after which the server takes a frame for lost."""


def _complete(indices: list[int], plan: AcquisitionPlan) -> None:
    require(
        sorted(indices) == list(range(plan.n_positions)), f"{len(indices)} frames, {len(set(indices))} different ones"
    )


async def _delivers(trial: Trial) -> None:
    seen = await trial.watched()
    _complete(seen.indices, seen.plan)


async def _delivers_as_described(trial: Trial) -> None:
    seen, detector = await trial.watched(), trial.description.detector
    require(
        not seen.strange, f"frames of {', '.join(sorted(seen.strange))}; described: {detector.shape} {detector.dtype}"
    )


async def _hands_over(trial: Trial) -> None:
    seen = await trial.watched()
    changed = sum(not np.array_equal(pattern, before) for pattern, before in seen.kept)
    require(changed == 0, f"{changed} of {len(seen.kept)} patterns changed after they were handed over; yield a copy")


async def _counts(trial: Trial) -> None:
    seen, detector = await trial.watched(), trial.description.detector
    mean = float(np.mean(seen.counts))
    require(mean > 0, "all patterns are empty: is the detector in the beam?")
    require(seen.saturated == 0, f"{seen.saturated} patterns are saturated at the lowest dose")
    if detector.counts_per_electron is None:
        return
    expected = seen.plan.electrons_per_pattern * detector.counts_per_electron
    allowed = 2 * expected + detector.dark_counts * detector.shape[0] * detector.shape[1]
    require(mean <= allowed, f"{mean:.4g} counts in a pattern, but the plan implies {expected:.4g}")


async def _counts_more_for_more(trial: Trial) -> None:
    if trial.description.detector.counts_per_electron is None:
        raise NotOfferedError("counts per electron are not known")
    seen = await trial.watched()
    higher = scaled(trial.description, seen.plan, 4.0)
    if higher is None:
        raise NotOfferedError("no higher dose is legal")
    bright = await trial.watch(higher)
    dark = trial.description.detector.dark_counts * np.prod(trial.description.detector.shape)
    ratio = (np.mean(bright.counts) - dark) / max(1e-9, np.mean(seen.counts) - dark)
    asked = higher.dose / seen.plan.dose
    require(bool(asked / 2 < ratio < asked * 2), f"{asked:.3g} times the dose gives {ratio:.3g} times the counts")


async def _is_in_time(trial: Trial) -> None:
    seen, told = await trial.watched(), trial.description
    check = await trial.microscope.check(seen.plan)
    allowed = LATE + told.latency + check.dwell_time + told.frame_overhead + told.line_overhead + told.settle_time
    timed(seen.longest_gap, allowed, "a frame")


async def _is_blanked_afterwards(trial: Trial) -> None:
    await trial.watched()
    await trial.require_blanked("after the scan has ended")


async def _answers_while_exposing(trial: Trial) -> None:
    seen = await trial.watched()
    timed(max((seconds for _, seconds in seen.health), default=0.0), HEALTH_LIMIT, "health during a scan")
    ill = [each.message for each, _ in seen.health if not each.ok]
    require(not ill, f"health is not ok during a scan: {ill[:1]}")


async def _leaves_the_loop_alone(trial: Trial) -> None:
    longest = (await trial.watched()).longest_stall
    for _ in range(2):
        if longest >= LOOP_LIMIT:  # once may be another program's doing
            longest = min(longest, (await trial.watch(trial.plan())).longest_stall)
    require(
        longest < LOOP_LIMIT, f"the event loop stood still for {longest:.2f} s; blocking calls belong into a thread"
    )


async def _scans_two_passes(trial: Trial) -> None:
    plan = two_passes(trial)
    _complete((await trial.watch(plan)).indices, plan)


def _scans(pattern: ScanPattern) -> Callable[[Trial], Awaitable[None]]:
    async def attempt(trial: Trial) -> None:
        plan = patterned(trial, pattern)
        _complete((await trial.watch(plan)).indices, plan)

    return attempt


async def _counts_beam_time(trial: Trial) -> None:
    microscope, current = trial.microscope, trial.description.beam_current
    if not isinstance(microscope, CountsBeamTime) or current is None:
        raise NotOfferedError("it has no beam_time(), or no current")
    plan, before = trial.plan(), microscope.beam_time()
    await trial.watch(plan)
    electrons = (microscope.beam_time() - before) * current * 1e-12 / ELEMENTARY_CHARGE
    reserved = (await microscope.check(plan)).electrons
    require(
        plan.electrons * 0.99 <= electrons <= reserved * 1.01 + 1,
        f"beam_time makes {electrons:g} electrons of a scan that takes {plan.electrons:g} … {reserved:g}",
    )


async def _stops_when_closed(trial: Trial) -> None:
    async with trial.scan() as frames:
        await anext(frames)
    await trial.require_blanked("after the iterator was closed")


async def _is_off_before_the_first_frame(trial: Trial) -> None:
    async with trial.scan():
        await trial.require_blanked("before a frame was asked for")


async def _stops_when_blanked(trial: Trial) -> None:
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
        require(time.monotonic() - began < STOP_LIMIT, f"it took more than {STOP_LIMIT:g} s to stop after `blank`")
    else:
        raise BrokenPromiseError("`blank` did not end the scan with BlankedError")
    await trial.require_blanked("after the scan was stopped")


async def _exposes_again(trial: Trial) -> None:
    trial.microscope.blank()
    plan = trial.plan()
    _complete((await trial.watch(plan)).indices, plan)
    await trial.require_blanked("after the scan has ended")


async def _pauses_when_held(trial: Trial) -> None:
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
    require(taken == plan.n_positions, f"after the pause {plan.n_positions - taken} frames were missing")
    await trial.require_blanked("after the scan has ended")


PROMISES = tuple(
    Promise(name, attempt, beam=True)
    for name, attempt in (
        ("every frame comes once", _delivers),
        ("frames have the shape and type of the description", _delivers_as_described),
        ("a pattern that was handed over stays as it was", _hands_over),
        ("patterns hold counts, and not more than the plan implies", _counts),
        ("a higher dose gives more counts", _counts_more_for_more),
        ("frames are in time", _is_in_time),
        ("the beam is off when the scan has ended", _is_blanked_afterwards),
        ("health answers during a scan", _answers_while_exposing),
        ("the event loop is left alone", _leaves_the_loop_alone),
        ("two passes are scanned where the description offers them", _scans_two_passes),
        ("a serpentine is scanned where the description offers it", _scans("serpentine")),
        ("a spiral is scanned where the description offers it", _scans("spiral")),
        ("explicit positions are scanned where the description offers them", _scans("positions")),
        ("beam_time counts what the beam was on", _counts_beam_time),
        ("the beam is off until the first frame is asked for", _is_off_before_the_first_frame),
        ("closing the iterator turns the beam off", _stops_when_closed),
        ("blank ends a running scan", _stops_when_blanked),
        ("a scan after a blank is complete", _exposes_again),
        ("the beam is off while a frame is being held", _pauses_when_held),
    )
)
