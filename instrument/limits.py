"""What a plan has to keep to, whatever the microscope: the limits of its description."""

from __future__ import annotations

from instrument.errors import OutOfLimitsError
from instrument.models import AcquisitionPlan, Description, PlanCheck


def check_limits(plan: AcquisitionPlan, description: Description) -> None:
    """Refuse a plan that does not keep to the description of the instrument.

    Args:
        plan: to be checked.
        description: legal apertures, steps, defoci, doses, electrons per pattern and area.

    Raises:
        OutOfLimitsError: with the value and what is legal.
    """
    description = description.through(plan.semiangle)
    description.step.check("step", plan.step)
    description.defocus.check("defocus", plan.defocus)
    description.dose.check("dose", plan.dose)
    if plan.passes == 2 and plan.interlacing != description.two_passes:
        possible = f"one, or two with {description.two_passes} interlacing" if description.two_passes else "one"
        msg = f"two passes with {plan.interlacing} interlacing are not possible here; legal: {possible}; change passes"
        raise OutOfLimitsError(msg, parameter="passes", value=plan.passes)
    _check_pattern(plan, description)
    _check_dwell(plan, description)
    low, high = description.electrons_per_pattern
    per_pattern = plan.electrons_per_pattern
    if not low * (1 - 1e-6) <= per_pattern <= high * (1 + 1e-6):
        msg = (
            f"dose {plan.dose:g} {description.dose_unit} at a step of {plan.step:g} Å"
            f"{' in two passes' if plan.patterns_per_cell > 1 else ''} puts {per_pattern:g} into a "
            f"pattern; legal: {low:g} … {high:g}; change the dose or the step"
        )
        raise OutOfLimitsError(msg, parameter="electrons_per_pattern", value=per_pattern, minimum=low, maximum=high)
    area, field = description.area, plan.field
    if not area.contains(field):
        msg = (
            f"the field y {field.y:g} … {field.y + field.height:g}, x {field.x:g} … {field.x + field.width:g} Å leaves "
            f"the area that can be scanned, y {area.y:g} … {area.y + area.height:g}, x {area.x:g} … "
            f"{area.x + area.width:g} Å"
        )
        raise OutOfLimitsError(msg, parameter="field", area=area.model_dump())
    for y, x in plan.positions or ():
        if not (field.y <= y <= field.y + field.height and field.x <= x <= field.x + field.width):
            msg = f"position ({y:g}, {x:g}) Å lies outside of the plan's field"
            raise OutOfLimitsError(msg, parameter="positions", value=[y, x])


def check_cost(plan: AcquisitionPlan, check: PlanCheck, description: Description) -> None:
    """Refuse an exposure that is larger than a single one may be, or whose beam the detector does not bear.

    Args:
        plan: within the other limits.
        check: what the microscope says it costs.
        description: of the instrument.

    Raises:
        OutOfLimitsError: with the value and what is legal.
    """
    description = description.through(plan.semiangle)
    electrons, most = max(check.electrons, plan.electrons), description.exposure_limit
    if most is not None and electrons > most * (1 + 1e-9):
        msg = f"this acquisition takes {electrons:g} electrons; a single one may take {most:g}; lower the dose or the field"
        raise OutOfLimitsError(msg, parameter="electrons", value=electrons, maximum=most)
    rate, bearable = disc_rate(plan, check, description), description.detector.count_rate_limit
    if bearable is not None and rate > bearable and not needs_beam_stop(plan, check, description):
        msg = (
            f"the bright-field disc would give a pixel {rate:.4g} counts/s; the detector bears {bearable:g}; "
            "lower the beam current, or use a larger disc"
        )
        raise OutOfLimitsError(msg, parameter="count_rate", value=rate, maximum=bearable)


def disc_rate(plan: AcquisitionPlan, check: PlanCheck, description: Description) -> float:
    """Counts per second of a pixel of the bright-field disc, where nothing stops it; 0 where the dwell time is not known.

    Args:
        plan: to be exposed.
        check: what the microscope says it costs.
        description: of the instrument.
    """
    if check.dwell_time <= 0:
        return 0.0
    description = description.through(plan.semiangle)
    counts = plan.electrons_per_pattern * (description.detector.counts_per_electron or 1.0)
    return counts / (description.disc_pixels * check.dwell_time)


def needs_beam_stop(plan: AcquisitionPlan, check: PlanCheck, description: Description) -> bool:
    """Whether the beam stop has to be in, so that the detector bears the beam.

    Args:
        plan: to be exposed.
        check: what the microscope says it costs.
        description: of the instrument.
    """
    stop = description.beam_stop
    return stop is not None and disc_rate(plan, check, description) > stop.needed_above


def _check_pattern(plan: AcquisitionPlan, description: Description) -> None:
    """Refuse an order of positions that the scan engine does not have."""
    wanted, offered = plan.scan_pattern, description.scan_patterns
    if wanted in offered:
        return
    what, change = ("explicit positions are", "leave positions out")
    if wanted != "positions":
        what, change = f"a {wanted} scan is", "change the pattern"
    msg = f"{what} not possible here; legal: {', '.join(offered)}; {change}"
    raise OutOfLimitsError(msg, parameter="pattern", value=wanted, legal=list(offered))


def _check_dwell(plan: AcquisitionPlan, description: Description) -> None:
    """Refuse a dose that no dwell time of the scan engine gives."""
    values, per_pattern = description.electrons_per_pattern_values, plan.electrons_per_pattern
    if values is None or any(abs(per_pattern / value - 1) <= 1e-6 for value in values):
        return
    per_cell = plan.patterns_per_cell / plan.step**2
    doses = ", ".join(f"{value * per_cell:.7g}" for value in values)
    msg = (
        f"dose {plan.dose:g} {description.dose_unit} at a step of {plan.step:g} Å puts {per_pattern:.7g} into a pattern, and "
        f"no dwell time of this scan engine does; legal at this step: {doses} {description.dose_unit}; change the dose"
    )
    raise OutOfLimitsError(
        msg, parameter="electrons_per_pattern", value=per_pattern, minimum=values[0], maximum=values[-1]
    )


def with_legal_dose(plan: AcquisitionPlan, description: Description) -> AcquisitionPlan:
    """A plan with the nearest legal number of electrons in a pattern below its own; above, where none is below.

    Args:
        plan: within the other limits.
        description: of the instrument.
    """
    description = description.through(plan.semiangle)
    wanted = plan.electrons_per_pattern
    low, high = description.electrons_per_pattern
    if (values := description.electrons_per_pattern_values) is None:
        legal = min(max(wanted, low), high)
    else:
        legal = max((v for v in values if v <= wanted * (1 + 1e-9)), default=values[0])
    return plan.model_copy(update={"dose": plan.dose * legal / wanted})
