"""Promises of `describe`, `health`, `blank` and the heartbeat. Nothing is exposed."""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np

from instrument.conformance.trial import NotOfferedError, Promise, Trial, require, timed
from instrument.limits import check_cost, check_limits
from instrument.microscope import CountsBeamTime, NeedsHeartbeat, ReadsBack
from instrument.models import Description, Health, same_angle
from instrument.settings import APERTURE, IN, OUT, STOP
from instrument.terms import unkept
from instrument.text import printable

ANSWER_LIMIT = 1.0
"""s for what only has to be looked up; `health` may take 10 where it has to ask."""
HEALTH_LIMIT = 10.0
BLANK_LIMIT = 0.01


async def _describes(trial: Trial) -> None:
    plan = trial.plan()
    check_limits(plan, trial.description)
    check_cost(plan, await trial.microscope.check(plan), trial.description)


async def _stays_the_same(trial: Trial) -> None:
    began = time.monotonic()
    again = await trial.microscope.describe()
    timed(time.monotonic() - began, ANSWER_LIMIT, "describe")
    for name in ("name", "detector", "step", "defocus", "area", "beam_current", "semiangle", "apertures"):
        same = getattr(again, name) == getattr(trial.description, name)
        require(same, f"a second description has another {name}: {getattr(again, name)!r}")


async def _travels(trial: Trial) -> None:
    told = trial.description
    require(
        Description.model_validate_json(told.model_dump_json()) == told, "the description changes on its way as JSON"
    )
    require(
        bool(told.name.strip()) and printable(told.name) == told.name, f"the name {told.name!r} is empty or unprintable"
    )


async def _knows_its_detector(trial: Trial) -> None:
    detector = trial.description.detector
    rows, columns = detector.shape
    require(rows > 0 and columns > 0, f"a detector of {rows} × {columns} pixels")
    largest = int(np.iinfo(detector.dtype).max)
    require(
        detector.saturation <= largest, f"saturation at {detector.saturation}, but {detector.dtype} ends at {largest}"
    )
    outside = [(y, x) for y, x in detector.dead_pixels if not (0 <= y < rows and 0 <= x < columns)]
    require(not outside, f"{len(outside)} dead pixels outside of the detector, the first at {outside[:1]}")


async def _states_its_electrons(trial: Trial) -> None:
    told = trial.description
    low, high = told.electrons_per_pattern
    require(0 < low <= high and math.isfinite(high), f"electrons_per_pattern of {low:g} … {high:g}")
    values = told.electrons_per_pattern_values or ()
    outside = [value for value in values if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6)]
    require(not outside, f"electrons_per_pattern_values hold {outside[:3]}, outside of {low:g} … {high:g}")
    known = told.beam_current is not None and told.beam_current > 0
    require(
        known or told.repeatable or told.detector.counts_per_electron is None,
        "neither a beam current nor a recording: what an aborted scan has cost cannot be known",
    )


async def _says_how_late(trial: Trial) -> None:
    told = trial.description
    for name in ("latency", "settle_time", "line_overhead", "frame_overhead"):
        require(0 <= getattr(told, name) < 3600, f"{name} of {getattr(told, name):g} s")


async def _is_well(trial: Trial) -> None:
    began = time.monotonic()
    health = await trial.microscope.health()
    timed(time.monotonic() - began, HEALTH_LIMIT, "health")
    require(health.blanked, "health says that the beam is on before anything was asked for")
    require(health.ok, f"health is not ok: {health.message or 'without a message'}; nothing would be exposed")
    wrong = [complaint for each in health.conditions if (complaint := each.complaint(tripped=False))]
    require(not wrong, f"{'; '.join(wrong)}; nothing would be exposed")


async def _names_its_conditions(trial: Trial) -> None:
    health = await trial.microscope.health()
    names = [each.name for each in health.conditions]
    require(len(set(names)) == len(names), f"two conditions of health have the same name: {', '.join(names)}")
    require(Health.model_validate_json(health.model_dump_json()) == health, "health changes on its way as JSON")
    for each in health.conditions:
        limited = each.low is not None and each.high is not None
        require(
            not limited or (each.high or 0) - (each.low or 0) > 2 * each.margin,
            f"{each.name} could never be well again: its limits lie closer than twice its margin",
        )


async def _blanks_quickly(trial: Trial) -> None:
    def seconds() -> float:
        began = time.monotonic()
        trial.microscope.blank()
        return time.monotonic() - began

    timed(min([await asyncio.to_thread(seconds) for _ in range(3)]), BLANK_LIMIT, "blank")
    await trial.require_blanked("after `blank`")


async def _blanks_from_many_threads(trial: Trial) -> None:
    await asyncio.gather(*(asyncio.to_thread(trial.microscope.blank) for _ in range(8)))
    await trial.require_blanked("after eight threads have called `blank` at once")


async def _pulses(trial: Trial) -> None:
    microscope = trial.microscope
    if not isinstance(microscope, NeedsHeartbeat):
        raise NotOfferedError("it has no heartbeat()")

    def seconds() -> float:
        began = time.monotonic()
        microscope.heartbeat()
        return time.monotonic() - began

    timed(min([await asyncio.to_thread(seconds) for _ in range(3)]), BLANK_LIMIT, "heartbeat")
    await trial.require_blanked("after a heartbeat")


async def _counts_no_time_when_blanked(trial: Trial) -> None:
    microscope = trial.microscope
    if not isinstance(microscope, CountsBeamTime):
        raise NotOfferedError("it has no beam_time()")
    before = microscope.beam_time()
    await asyncio.sleep(0.05)
    after = microscope.beam_time()
    require(before >= 0 and after == before, f"beam_time went from {before:g} to {after:g} s with the beam off")


async def _keeps_its_pace(trial: Trial) -> None:
    told, microscope = trial.description, trial.microscope
    if not told.slews and told.beam_stop is None:
        raise NotOfferedError("it states neither slews nor a beam stop")
    wrong = await unkept(microscope, told)
    require(not wrong, wrong)
    for name in told.slews:
        bounds = told.defocus.bounds if name == "defocus" else (0.0, 0.0)
        require(all(map(math.isfinite, bounds)), f"{name} has no limits between which it could be walked")


async def _moves_its_beam_stop(trial: Trial) -> None:
    microscope = trial.microscope
    if trial.description.beam_stop is None or not isinstance(microscope, ReadsBack):
        raise NotOfferedError("it states no beam stop")
    for wanted, word in ((OUT, "out"), (IN, "in")):
        await microscope.set({STOP: wanted})
        found = (await microscope.read_back()).get(STOP)
        require(found == wanted, f"the beam stop was put {word} and is told as {found}; 1 is in, 0 is out")
    await trial.require_blanked("after moving the beam stop")


async def _changes_apertures(trial: Trial) -> None:
    told, microscope = trial.description, trial.microscope
    if not told.apertures:
        raise NotOfferedError("its aperture is fixed")
    wrong = await unkept(microscope, told)
    require(not wrong, wrong)
    assert isinstance(microscope, ReadsBack)
    own = next(each for each in told.apertures if same_angle(each.semiangle, told.semiangle))
    same = own.beam_current in (None, told.beam_current)
    require(same, f"beam_current is {told.beam_current} pA, and {own.beam_current} pA in the list of apertures")
    before = (await microscope.read_back())[APERTURE]
    try:
        for angle in told.semiangles:
            await microscope.set({APERTURE: angle})
            await asyncio.sleep(told.settle_time)
            found = (await microscope.read_back())[APERTURE]
            near = abs(found - angle) <= told.tolerances[APERTURE]
            require(near, f"semiangle was set to {angle:g} mrad and is told as {found:g}")
            again = await microscope.describe()
            same = again.semiangle == told.semiangle and again.beam_current == told.beam_current
            require(
                same, f"with the aperture of {angle:g} mrad in, the description has another semiangle or beam_current"
            )
            await trial.require_blanked("after a change of apertures")
    finally:
        await microscope.set({APERTURE: before})


PROMISES = (
    Promise("the description allows a plan", _describes),
    Promise("a second description is the same, and is there within a second", _stays_the_same),
    Promise("the description survives the wire, and the name can be printed", _travels),
    Promise("dead pixels and saturation fit the detector", _knows_its_detector),
    Promise("electrons per pattern have limits, and the beam a current", _states_its_electrons),
    Promise("latency and overheads are stated in seconds", _says_how_late),
    Promise("the column is well and its beam is off", _is_well),
    Promise("conditions of health have names, limits and margins that make sense", _names_its_conditions),
    Promise("blank may be called from any thread, again and again, and takes milliseconds", _blanks_quickly),
    Promise("blank may be called from many threads at once", _blanks_from_many_threads),
    Promise("the heartbeat takes milliseconds and turns nothing on", _pulses),
    Promise("what has a slew or a beam stop can be set and read back, and walked in time", _keeps_its_pace),
    Promise("the beam stop goes out and in, and says so", _moves_its_beam_stop),
    Promise("every aperture can be put in and read back, and the description stays as it is", _changes_apertures),
    Promise("beam_time stands still while the beam is off", _counts_no_time_when_blanked),
)
