"""What a goal answers when it is asked with a model of the score, and the candidates it chooses from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from agent.policy.book import ObservationBook
from agent.policy.limits import DEFOCUS, DOSE, SEMIANGLE, STEP, Array
from agent.policy.score_model import NoiseCurve
from agent.policy.space import SearchSpace
from agent.records import ModelView, Recommendation

DISTINCT_DISTANCE = 0.15
"""Alternatives shown to a person differ at least this much from the choice and each other, in model coordinates."""
FAILURE_DISTANCE = 0.03
"""Settings this near to a trial that failed are not proposed again: nothing was learned there, and it may fail again."""
VIEW_POINTS = 25
"""Points along each edge of a view of the model."""


@dataclass(frozen=True)
class RejectedCandidate:
    """A candidate (3,) that was not chosen, and why."""

    point: Array
    reason: str


@dataclass(frozen=True)
class Proposal:
    """The next trial.

    Attributes:
        point: (3,) step Å, defocus Å, dose e/Å².
        reason: in words.
        rejected: the best candidates that were not chosen.
        explore_share: see `improvement.explore_share`; None: the goal does not say.
        improvement: expected of the final picture, bit/Å²; None likewise.
    """

    point: Array
    reason: str
    rejected: tuple[RejectedCandidate, ...] = ()
    explore_share: float | None = None
    improvement: float | None = None


@dataclass(frozen=True)
class Stop:
    """No trial is worth its electrons any more, and why."""

    reason: str


class PictureModel(Protocol):
    """A model of the score over settings."""

    @property
    def noise(self) -> NoiseCurve:
        """Variance of a score against dose."""
        ...

    def predict(self, points: Array) -> tuple[Array, Array]:
        """The noiseless score of settings not tried yet.

        Args:
            points: (m, 3) step Å, defocus Å, dose e/Å².

        Returns:
            Mean and standard deviation, each (m,), bit/Å².
        """
        ...

    def covariance(self, points: Array) -> Array:
        """Posterior covariance of noiseless scores.

        Args:
            points: (m, 3) step Å, defocus Å, dose e/Å².

        Returns:
            (m, m), (bit/Å²)².
        """
        ...

    def condition_on_pending(self, points: Array) -> PictureModel:
        """The model once pending trials are measured as predicted.

        Args:
            points: (m, 3) step Å, defocus Å, dose e/Å².

        Returns:
            A model with the same mean, and less variance near the pending trials.
        """
        ...

    def data_share(self, points: Array) -> Array:
        """How much of what was uncertain before the first trial the trials have settled.

        Args:
            points: (m, 3) step Å, defocus Å, dose e/Å².

        Returns:
            (m,) from 0, all is prior, to 1, all is known from data.
        """
        ...


class ModelGoal(Protocol):
    """How a goal turns a model of the score into settings."""

    def learn(self, book: ObservationBook) -> None:
        """Take note of what trials say besides their scores.

        Args:
            book: all that is known.
        """
        ...

    def propose(self, model: PictureModel, book: ObservationBook, seed: int) -> Proposal | Stop | str:
        """The next trial.

        Args:
            model: of all scored trials.
            book: what is known, pending and failed trials included.
            seed: of the candidates and of Monte Carlo samples.

        Returns:
            The proposal; that exploration should end; or a sentence that says why nothing can be proposed.
        """
        ...

    def recommend(self, model: PictureModel, electrons_left: float) -> Recommendation:
        """Settings of the final acquisition.

        Args:
            model: of all scored trials.
            electrons_left: electrons that the final acquisition may use.

        Raises:
            BadInputError: where they pay for no legal acquisition.
        """
        ...

    def view(self, model: PictureModel, electrons_left: float) -> ModelView:
        """The model over the two most telling settings.

        Args:
            model: of all scored trials.
            electrons_left: electrons that the final acquisition may use.
        """
        ...


def sobol_candidates(space: SearchSpace, seed: int, count: int, *, dose_max: float = math.inf) -> Array:
    """Legal trials, evenly spread.

    Args:
        space: the legal settings.
        seed: of the scrambling of Sobol's sequence.
        count: how many, a power of two.
        dose_max: largest dose, e/Å².

    Returns:
        (n, 3) step Å, defocus Å, dose e/Å²; n ≤ `count`.
    """
    from scipy.stats import qmc

    cube = qmc.Sobol(space.dimensions, scramble=True, rng=np.random.default_rng(seed)).random_base2(
        count.bit_length() - 1
    )
    return space.draw(cube, dose_max=dose_max)


def exclude_failed(space: SearchSpace, points: Array, book: ObservationBook) -> Array:
    """Drop the points whose step and defocus are next to those of a trial that failed.

    Where both are discrete or fixed, the dose must be near as well: one failure does not rule out a step at all doses.

    Args:
        space: the legal settings.
        points: (n, 3) step Å, defocus Å, dose e/Å².
        book: with the failed trials.

    Returns:
        (m, 3), m ≤ n.
    """
    failed = book.in_state("failed")
    if len(points) == 0 or not failed:
        return points
    x, known = space.normalize(points), space.normalize(space.points(o.settings for o in failed))
    continuous = [a.values is None and not a.fixed for a in (space.axes[STEP], space.axes[DEFOCUS])]
    column = space.coordinates.dose_column
    if any(continuous) and column is not None:
        x, known = (np.delete(each, column, axis=1) for each in (x, known))
    far: Array = points[(np.linalg.norm(x[:, None] - known[None], axis=-1) > FAILURE_DISTANCE).all(axis=1)]
    return far


def select_distinct(space: SearchSpace, points: Array, value: Array, others: int) -> list[int]:
    """The best point, and the next best ones that a person would see as different.

    Args:
        space: whose model coordinates measure the distance.
        points: (n, 3) step Å, defocus Å, dose e/Å².
        value: (n,) to be maximised.
        others: how many besides the best.

    Returns:
        Indices in descending order of value, at most 1 + `others`.
    """
    order = np.argsort(-value, kind="stable")
    selected = [int(order[0])]
    for index in order[1:]:
        if len(selected) > others:
            break
        distance = np.linalg.norm(space.normalize(points[selected]) - space.normalize(points[[index]]), axis=-1)
        if distance.min() > DISTINCT_DISTANCE:
            selected.append(int(index))
    return selected


def step_dose_view(
    model: PictureModel, space: SearchSpace, defocus: float, dose_max: float, place: Array | None = None
) -> ModelView:
    """The model over step (x) and dose (y).

    Args:
        model: of the score.
        space: the legal settings.
        defocus: at which, Å.
        dose_max: largest dose shown, e/Å².
        place: (dimensions,) with the aperture of which it is; None: there is no choice, or the present one's.
    """
    x, y = _view_edge(space, STEP), _view_edge(space, DOSE, dose_max)
    step, dose = np.meshgrid(x, y)
    points = np.stack([step.ravel(), np.full(step.size, defocus), dose.ravel()], axis=1)
    points, aperture = _with_aperture(space, points, place)
    return _view(model, space, points, "dose", (x, y), {"defocus": defocus, **aperture})


def _with_aperture(space: SearchSpace, points: Array, place: Array | None) -> tuple[Array, dict[str, float]]:
    """Points (n, 3) with the aperture of a place, or the present one, where there is a choice; and which that is."""
    if space.dimensions <= SEMIANGLE:
        return points, {}
    angle = space.description.semiangle if place is None else float(place[SEMIANGLE])
    return np.column_stack([points, np.full(len(points), angle)]), {"semiangle": angle}


def step_defocus_view(model: PictureModel, space: SearchSpace, dose: float, place: Array | None = None) -> ModelView:
    """The model over step (x) and defocus (y).

    Args:
        model: of the score.
        space: the legal settings.
        dose: of the final acquisition, e/Å²; less is shown where it would saturate.
        place: (dimensions,) with the aperture of which it is; None: there is no choice, or the present one's.
    """
    x, y = _view_edge(space, STEP), _view_edge(space, DEFOCUS)
    step, defocus = (v.ravel() for v in np.meshgrid(x, y))
    points, aperture = _with_aperture(space, np.stack([step, defocus, np.full(step.size, dose)], axis=1), place)
    _, high = space.at(points[0]).dose_interval(step, final=True)
    points[:, DOSE] = np.minimum(dose, high)
    return _view(model, space, points, "defocus", (x, y), {"dose": dose, **aperture})


def _view_edge(space: SearchSpace, column: int, high: float = math.inf) -> Array:
    """Values of a setting up to `high`: the discrete ones, or VIEW_POINTS, of step and dose on a logarithmic scale."""
    axis = space.axes[column]
    high = max(min(axis.high, high), axis.low)
    if axis.values is not None:
        return axis.values[axis.values <= high]
    if high <= axis.low:
        return np.array([axis.low])
    return np.linspace(axis.low, high, VIEW_POINTS) if column == DEFOCUS else np.geomspace(axis.low, high, VIEW_POINTS)


def _view(
    model: PictureModel,
    space: SearchSpace,
    points: Array,
    y_name: Literal["defocus", "dose"],
    edges: tuple[Array, Array],
    fixed: dict[str, float],
) -> ModelView:
    shape = (len(edges[1]), len(edges[0]))
    mean, sd = (v.reshape(shape).tolist() for v in model.predict(points))
    legal = space.is_legal(points, final=True, any_dwell=True).reshape(shape).tolist()
    return ModelView(
        x_name="step",
        y_name=y_name,
        x=tuple(edges[0].tolist()),
        y=tuple(edges[1].tolist()),
        mean=tuple(map(tuple, mean)),
        sd=tuple(map(tuple, sd)),
        legal=tuple(map(tuple, legal)),
        fixed=fixed,
    )
