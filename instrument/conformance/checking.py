"""Promises of `check`: what a plan costs, and that asking costs nothing. Nothing is exposed."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

import numpy as np

from instrument.conformance.describing import ANSWER_LIMIT
from instrument.conformance.trial import NotOfferedError, Promise, Trial, require, scaled, timed
from instrument.limits import with_legal_dose
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, ScanPattern, same_angle

ROUNDING = 1e-6


async def _counts_positions(trial: Trial) -> None:
    plan = trial.plan()
    check = await trial.microscope.check(plan)
    require(check.n_positions == plan.n_positions, f"check counts {check.n_positions} of {plan.n_positions} positions")
    require(check.shape == plan.shape, f"check has a scan of {check.shape}, the plan one of {plan.shape}")


async def _counts_electrons(trial: Trial) -> None:
    plan = trial.plan()
    check = await trial.microscope.check(plan)
    require(
        check.electrons >= plan.electrons * (1 - ROUNDING),
        f"check counts {check.electrons:g} electrons, the patterns alone take {plan.electrons:g}",
    )


async def _dwells(trial: Trial) -> None:
    current = trial.description.beam_current
    if current is None:
        raise NotOfferedError("the beam current is not known")
    plan = trial.plan()
    dwell = (await trial.microscope.check(plan)).dwell_time
    electrons = dwell * current * 1e-12 / ELEMENTARY_CHARGE
    require(
        0.95 <= electrons / plan.electrons_per_pattern <= 1.05,
        f"a dwell time of {dwell:g} s at {current:g} pA puts {electrons:g} electrons into a pattern, the plan asks for "
        f"{plan.electrons_per_pattern:g}",
    )


async def _takes_its_time(trial: Trial) -> None:
    plan = trial.plan()
    check = await trial.microscope.check(plan)
    least = check.dwell_time * plan.n_positions
    require(check.duration >= least * (1 - ROUNDING), "the scan is shorter than its dwell times")


async def _counts_bytes(trial: Trial) -> None:
    plan, detector = trial.plan(), trial.description.detector
    told = (await trial.microscope.check(plan)).bytes
    whole = plan.n_positions * math.prod(detector.shape) * np.dtype(detector.dtype).itemsize
    require(whole <= told <= 2 * whole, f"check counts {told} bytes, the patterns have {whole}")


async def _illuminates_the_field(trial: Trial) -> None:
    plan = trial.plan()
    lit = (await trial.microscope.check(plan)).illuminated
    require(lit.contains(plan.field), "the illuminated area does not contain the field")


async def _asks_for_nothing(trial: Trial) -> None:
    plan = trial.plan()
    first = await trial.microscope.check(plan)
    await trial.require_blanked("after a check")
    began = time.monotonic()
    second = await trial.microscope.check(plan)
    timed(time.monotonic() - began, ANSWER_LIMIT, "check")
    require(first == second, "the same plan costs something else when it is checked again")


async def _charges_more_for_more(trial: Trial) -> None:
    plan = trial.plan()
    higher = scaled(trial.description, plan, 2.0)
    if higher is None:
        raise NotOfferedError("no higher dose is legal")
    low, high = await trial.microscope.check(plan), await trial.microscope.check(higher)
    require(
        high.electrons > 1.2 * low.electrons,
        f"{higher.dose / plan.dose:.3g} times the dose costs {high.electrons:g} instead of {low.electrons:g} electrons",
    )


async def _charges_for_area(trial: Trial) -> None:
    plan = trial.plan()
    half = plan.model_copy(
        update={"field": plan.field.model_copy(update={"height": plan.step * max(1, plan.shape[0] // 2)})}
    )
    whole, part = await trial.microscope.check(plan), await trial.microscope.check(half)
    require(part.electrons < whole.electrons, "half the lines cost as many electrons as all")
    require(part.n_positions == half.n_positions, f"check counts {part.n_positions} of {half.n_positions} positions")


async def _checks_two_passes(trial: Trial) -> None:
    plan = two_passes(trial)
    check = await trial.microscope.check(plan)
    require(check.n_positions == plan.n_positions, f"check counts {check.n_positions} of {plan.n_positions} positions")


def _checks(pattern: ScanPattern) -> Callable[[Trial], Awaitable[None]]:
    async def attempt(trial: Trial) -> None:
        plan = patterned(trial, pattern)
        check = await trial.microscope.check(plan)
        told = f"check counts {check.n_positions} of {plan.n_positions} positions"
        require(check.n_positions == plan.n_positions, told)
        require(
            check.electrons >= plan.electrons * (1 - ROUNDING),
            f"check counts {check.electrons:g} electrons, the patterns alone take {plan.electrons:g}",
        )

    return attempt


async def _dwells_with_other_apertures(trial: Trial) -> None:
    for plan in other_apertures(trial):
        behind = trial.description.through(plan.semiangle)
        check, current = await trial.microscope.check(plan), behind.beam_current
        require(
            check.n_positions == plan.n_positions, f"check counts {check.n_positions} of {plan.n_positions} positions"
        )
        if current is None:
            continue
        electrons = check.dwell_time * current * 1e-12 / ELEMENTARY_CHARGE
        require(
            0.95 <= electrons / plan.electrons_per_pattern <= 1.05,
            f"a dwell time of {check.dwell_time:g} s at the {current:g} pA of {behind.semiangle:g} mrad puts {electrons:g} "
            f"electrons into a pattern, the plan asks for {plan.electrons_per_pattern:g}",
        )


def other_apertures(trial: Trial) -> list[AcquisitionPlan]:
    """The small plan through each aperture that is not in at present. Raises NotOfferedError."""
    told = trial.description
    others = [angle for angle in told.semiangles if not same_angle(angle, told.semiangle)]
    if not others:
        raise NotOfferedError("its aperture is fixed")
    return [with_legal_dose(trial.plan(semiangle=angle), told) for angle in others]


def two_passes(trial: Trial) -> AcquisitionPlan:
    """The small plan in two passes. Raises NotOfferedError."""
    interlacing = trial.description.two_passes
    if interlacing is None:
        raise NotOfferedError("it scans in one pass")
    return with_legal_dose(trial.plan(passes=2, interlacing=interlacing), trial.description)


def patterned(trial: Trial, pattern: ScanPattern) -> AcquisitionPlan:
    """The small plan in another order; as positions, a few of it in one that no raster has. Raises NotOfferedError."""
    if pattern not in trial.description.scan_patterns:
        raise NotOfferedError(f"its scan patterns are {', '.join(trial.description.scan_patterns)}")
    if pattern != "positions":
        return trial.plan(pattern=pattern)
    plan = trial.plan()
    positions = plan.scan_positions()[::-5][:9]
    return plan.model_copy(update={"positions": tuple((float(y), float(x)) for y, x in positions)})


PROMISES = (
    Promise("check counts the positions of a raster", _counts_positions),
    Promise("check counts all electrons", _counts_electrons),
    Promise("dwell time and beam current make the electrons of a pattern", _dwells),
    Promise(
        "dwell time and beam current make the electrons of a pattern with every aperture", _dwells_with_other_apertures
    ),
    Promise("a scan takes at least its dwell times", _takes_its_time),
    Promise("check counts the bytes of the patterns", _counts_bytes),
    Promise("the illuminated area contains the field", _illuminates_the_field),
    Promise("check exposes nothing, and says the same again within a second", _asks_for_nothing),
    Promise("a higher dose costs more", _charges_more_for_more),
    Promise("fewer lines cost less", _charges_for_area),
    Promise("two passes are checked where the description offers them", _checks_two_passes),
    Promise("a serpentine is checked where the description offers it", _checks("serpentine")),
    Promise("a spiral is checked where the description offers it", _checks("spiral")),
    Promise("explicit positions are checked where the description offers them", _checks("positions")),
)
