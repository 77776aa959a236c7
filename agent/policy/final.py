"""The dose of the final acquisition: what the electrons left buy over the area, where that is legal."""

from __future__ import annotations

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.limits import TOLERANCE, Array
from agent.policy.space import SearchSpace


def final_dose(space: SearchSpace, step: Array, dose: float | Array) -> Array:
    """Largest legal dose, e/Å², up to `dose`, at `step`, both (n,); nan where the smallest legal one is above."""
    low, high = space.dose_interval(step, final=True)
    bought = space.final_doses.at_most(np.minimum(dose, high))
    return np.where(bought >= low * (1 - TOLERANCE), bought, np.nan)


def refuse_unaffordable(space: SearchSpace, problem: Problem, electrons: float) -> None:
    """Raise BadInputError where `electrons` do not pay for a final acquisition at any legal step."""
    step = space.axes[0]
    steps = step.values if step.values is not None else np.geomspace(step.low, step.high, 64)
    dose = electrons / problem.final_area
    if np.isnan(final_dose(space, steps, dose)).all():
        unit = problem.description.dose_unit
        least = float(space.dose_interval(steps, final=True)[0].min())
        msg = (
            f"{electrons:.4g} electrons over the area of {problem.final_area:.4g} Å² are {dose:.4g} {unit}; the smallest "
            f"legal dose is {least:.4g} {unit}: raise electrons, lower exploration.share or choose a smaller area"
        )
        raise BadInputError(msg)
