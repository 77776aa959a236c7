"""The final acquisition: the dose that the electrons left buy, and what to recommend without a model."""

from __future__ import annotations

import math

import numpy as np

from agent.aims import Goal
from agent.errors import BadInputError
from agent.policy.base import Observation, Problem
from agent.policy.limits import STEP, TOLERANCE, Array
from agent.policy.space import SearchSpace
from agent.policy.target import Target, target_of
from agent.records import Recommendation
from agent.scan_prices import NONE


def final_dose(space: SearchSpace, step: Array, dose: float | Array) -> Array:
    """Largest legal dose of the final acquisition that the electrons pay for.

    Args:
        space: the legal settings.
        step: (n,) Å.
        dose: what the electrons buy, e/Å²; one for all or (n,).

    Returns:
        (n,) e/Å², at most `dose`; nan where the smallest legal dose is above.
    """
    low, high = space.dose_interval(step, final=True)
    affordable = space.dose_at_most(step, np.minimum(dose, high), final=True)
    return np.where(affordable >= low * (1 - TOLERANCE), affordable, np.nan)


def paid_dose(space: SearchSpace, step: Array, electrons: float | Array, area: float) -> Array:
    """Largest legal dose of the final acquisition for which electrons pay, with what its scan takes besides.

    Args:
        space: the legal settings.
        step: (n,) Å.
        electrons: to spend on it; one number for all or (n,).
        area: of the final acquisition, Å².

    Returns:
        (n,) e/Å²; nan where they pay for no legal dose.
    """
    return final_dose(space, step, electrons / area - space.overheads.final(step))


def paid_doses(space: SearchSpace, points: Array, electrons: float | Array, area: float) -> Array:
    """As `paid_dose`, of settings with whichever aperture.

    Args:
        space: the legal settings.
        points: (n, dimensions), whose doses do not count.
        electrons: to spend on it; one number for all or (n,).
        area: of the final acquisition, Å².

    Returns:
        (n,) e/Å²; nan where they pay for no legal dose.
    """
    dose, spent = np.full(len(points), np.nan), np.broadcast_to(electrons, len(points))
    for part, inside in space.split(points):
        dose[inside] = paid_dose(part, points[inside, STEP], spent[inside], area)
    return dose


def refuse_unaffordable(space: SearchSpace, problem: Problem, electrons: float) -> None:
    """Check that electrons pay for a final acquisition at some legal step.

    Args:
        space: the legal settings.
        problem: with the area of the final acquisition.
        electrons: to spend on it.

    Raises:
        BadInputError: where they pay for none.
    """
    step = space.axes[STEP]
    steps = step.values if step.values is not None else np.geomspace(step.low, step.high, 64)
    dose = electrons / problem.final_area
    if all(np.isnan(paid_dose(part, steps, electrons, problem.final_area)).all() for part in space.parts):
        unit = problem.description.dose_unit
        costs = [part.dose_interval(steps, final=True)[0] + part.overheads.final(steps) for part in space.parts]
        least = float(np.min(costs))
        scanned = " with what its scan takes besides" if space.overheads.final != NONE else ""
        msg = (
            f"{electrons:.4g} electrons over the area of {problem.final_area:.4g} Å² are {dose:.4g} {unit}; the smallest "
            f"legal dose{scanned} is {least:.4g} {unit}: raise electrons, lower exploration.share or choose a smaller area"
        )
        raise BadInputError(msg)


def recommend_best_observed(
    scored: list[Observation], problem: Problem, space: SearchSpace, electrons_left: float
) -> Recommendation:
    """The best trial, for policies without a model.

    Args:
        scored: trials that have a score.
        problem: the campaign's.
        space: the legal settings.
        electrons_left: electrons that the final acquisition may use.

    Returns:
        Goal best_picture: the settings of the highest score at the dose that the electrons left buy. Goal cheapest: the trial
        with the lowest dose that surely reached the target.

    Raises:
        BadInputError: where there is no scored trial, or where the electrons left pay for no legal acquisition.
    """
    if not scored:
        msg = "there is no scored trial to recommend anything from"
        raise BadInputError(msg)
    if problem.config.goal.kind == "cheapest":
        return _recommend_cheapest_observed(scored, problem)
    refuse_unaffordable(space, problem, electrons_left)
    dose = electrons_left / problem.final_area
    for observation in sorted(scored, key=lambda o: -(o.score or 0.0)):
        s = observation.settings
        affordable = float(paid_doses(space, space.points([s]), electrons_left, problem.final_area)[0])
        if np.isfinite(affordable):
            reason = (
                f"trial {observation.trial} scored highest, {observation.score:.4g} bit/Å² "
                f"at {s.dose:.4g} {problem.description.dose_unit}"
            )
            return Recommendation(settings=s.model_copy(update={"dose": affordable}), reason=reason)
    msg = f"no trial's step is legal at the {dose:.4g} {problem.description.dose_unit} that are left"
    raise BadInputError(msg)


def _recommend_cheapest_observed(scored: list[Observation], problem: Problem) -> Recommendation:
    """The lowest dose whose score reaches the target with the goal's confidence; else the highest score."""
    goal, target = problem.config.goal, target_of(problem, scored)
    if target is not None:
        sufficient = [o for o in scored if _surely_reached(o, goal, target)]
        if sufficient:
            best = min(sufficient, key=lambda o: o.settings.dose)
            reason = (
                f"trial {best.trial} is the cheapest that reached the target of {target.words} "
                f"with a probability of {goal.confidence:g}"
            )
            return Recommendation(settings=best.settings, reason=reason)
    best = max(scored, key=lambda o: o.score or 0.0)
    said = "the target is not known yet" if target is None else f"no trial surely reached {target.words}"
    return Recommendation(settings=best.settings, reason=f"{said}; trial {best.trial} scored highest, {best.score:.4g}")


def _surely_reached(trial: Observation, goal: Goal, target: Target) -> bool:
    if goal.resolution is not None and trial.resolution is not None and trial.resolution > goal.resolution:
        return False
    score, variance = trial.score or 0.0, trial.variance or 0.0
    if goal.resolution is not None and trial.resolution is not None:  # it was measured, not predicted
        needed = (trial.resolution / goal.resolution) ** 2 * score
        return bool(score - goal.quantile * variance**0.5 >= needed)
    return bool(score - goal.quantile * math.hypot(variance**0.5, target.sd) >= target.score)
