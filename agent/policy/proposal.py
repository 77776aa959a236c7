"""What a goal answers when it is asked with a model of the score, and the candidates it chooses from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from agent.policy.book import ObservationBook
from agent.policy.limits import Array
from agent.policy.score_model import ScoreModel
from agent.policy.space import SearchSpace, as_points
from agent.records import ModelView, Recommendation

DISTINCT = 0.15
"""Alternatives shown to a person differ at least this much from the choice and each other, in model coordinates."""
FAILED = 0.03
"""Settings this near to a trial that failed are not proposed again: nothing was learned there, and it may fail again."""
GRID = 25
"""Points along each edge of a view of the model."""


@dataclass(frozen=True)
class Rejected:
    """A candidate (3,) that was not chosen, and why."""

    point: Array
    reason: str


@dataclass(frozen=True)
class Proposal:
    """The next trial (3,), the reason, and the best rejected candidates."""

    point: Array
    reason: str
    rejected: tuple[Rejected, ...] = ()


class ModelGoal(Protocol):
    """How a goal turns a model of the score into settings."""

    def propose(self, model: ScoreModel, book: ObservationBook, seed: int) -> Proposal | str:
        """The next trial, or why there is none."""
        ...

    def recommend(self, model: ScoreModel, electrons_left: float) -> Recommendation:
        """Settings of the final acquisition. Raises BadInputError where `electrons_left` pay for none."""
        ...

    def view(self, model: ScoreModel, electrons_left: float) -> ModelView:
        """The model over the two most telling settings."""
        ...


def candidates(space: SearchSpace, seed: int, count: int, *, dose_max: float = math.inf) -> Array:
    """About `count` (a power of two) legal trials (n, 3), evenly spread."""
    from scipy.stats import qmc

    cube = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(seed)).random_base2(count.bit_length() - 1)
    return space.draw(cube, dose_max=dose_max)


def without_failed(space: SearchSpace, points: Array, book: ObservationBook) -> Array:
    """Those of `points` (n, 3) whose step and defocus are not next to those of a trial that failed.

    Where both are discrete or fixed, the dose must be near as well: a whole step is not given up for one failure.
    """
    failed = book.in_state("failed")
    if len(points) == 0 or not failed:
        return points
    unit, known = space.to_unit(points), space.to_unit(as_points(o.settings for o in failed))
    if any(a.values is None and not a.fixed for a in space.axes[:2]) and "dose" in space.variables:
        unit, known = unit[:, :-1], known[:, :-1]
    return points[(np.linalg.norm(unit[:, None] - known[None], axis=-1) > FAILED).all(axis=1)]


def distance(space: SearchSpace, points: Array, others: Array) -> Array:
    """(n,) distance of `points` (n, 3) from the nearest of `others` (m, 3), m ≥ 1, in model coordinates."""
    return np.linalg.norm(space.to_unit(points)[:, None] - space.to_unit(others)[None], axis=-1).min(axis=1)


def best_distinct(space: SearchSpace, points: Array, value: Array, others: int) -> list[int]:
    """Index of the highest value, and of up to `others` next ones that differ visibly from those before."""
    order = np.argsort(-value, kind="stable")
    chosen = [int(order[0])]
    for index in order[1:]:
        if len(chosen) > others:
            break
        if distance(space, points[[index]], points[chosen])[0] > DISTINCT:
            chosen.append(int(index))
    return chosen


def grid_values(space: SearchSpace, name: str, high: float = math.inf) -> Array:
    """Values of a setting along an edge of a view up to `high`: the discrete ones, or GRID (step and dose logarithmic)."""
    axis = next(a for a in space.axes if a.name == name)
    high = max(min(axis.high, high), axis.low)
    if axis.values is not None:
        return axis.values[axis.values <= high]
    if high <= axis.low:
        return np.array([axis.low])
    return np.linspace(axis.low, high, GRID) if name == "defocus" else np.geomspace(axis.low, high, GRID)


def step_dose_view(model: ScoreModel, space: SearchSpace, defocus: float, dose_max: float) -> ModelView:
    """The model over step (x) and dose (y), up to `dose_max`, at one defocus."""
    x, y = grid_values(space, "step"), grid_values(space, "dose", dose_max)
    step, dose = np.meshgrid(x, y)
    points = np.stack([step.ravel(), np.full(step.size, defocus), dose.ravel()], axis=1)
    return _view(model, space, points, "step", "dose", (x, y), {"defocus": defocus})


def step_defocus_view(model: ScoreModel, space: SearchSpace, dose: float) -> ModelView:
    """The model over step (x) and defocus (y) at the dose of the final acquisition, less where it would saturate."""
    x, y = grid_values(space, "step"), grid_values(space, "defocus")
    step, defocus = (v.ravel() for v in np.meshgrid(x, y))
    _, high = space.dose_interval(step, final=True)
    points = np.stack([step, defocus, np.minimum(dose, high)], axis=1)
    return _view(model, space, points, "step", "defocus", (x, y), {"dose": dose})


def _view(
    model: ScoreModel,
    space: SearchSpace,
    points: Array,
    x_name: Literal["step"],
    y_name: Literal["defocus", "dose"],
    edges: tuple[Array, Array],
    fixed: dict[str, float],
) -> ModelView:
    shape = (len(edges[1]), len(edges[0]))
    mean, sd = (v.reshape(shape).tolist() for v in model.predict(space.to_unit(points), points[:, 2]))
    legal = space.is_legal(points, final=True).reshape(shape).tolist()
    return ModelView(
        x_name=x_name,
        y_name=y_name,
        x=tuple(edges[0].tolist()),
        y=tuple(edges[1].tolist()),
        mean=tuple(map(tuple, mean)),
        sd=tuple(map(tuple, sd)),
        legal=tuple(map(tuple, legal)),
        fixed=fixed,
    )
