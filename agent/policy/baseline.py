"""What the policies without a model share: even doses, and the best trial as recommendation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Observation, Problem
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.final import final_dose, refuse_unaffordable
from agent.policy.limits import Array
from agent.policy.space import SearchSpace, as_settings
from agent.records import ModelView, Recommendation, Settings, Suggestion

CONFIDENCE = 0.9
"""Goal cheapest: probability with which the recommended settings reach the target."""
CONFIDENT = 1.2815515655446004
"""Standard normal quantile of CONFIDENCE."""
SPREAD = (0.4, 1.6)
"""Where doses are to differ: between these multiples of the even share of a trial; their mean is then below it."""


class Baseline(ABC):
    """suggest/ingest around a rule for the next settings.

    For the best picture all trials get the same dose, so that their scores can be compared; it is not above that of the
    final acquisition. For the cheapest settings doses differ.
    """

    name: ClassVar[str]

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed
        self.space = SearchSpace(problem.description, problem.config)
        self.budget = ExplorationBudget(problem, self.space)
        self.book = ObservationBook()
        if problem.config.goal.kind == "best_picture":
            refuse_unaffordable(self.space, problem, self.budget.final_electrons)

    @abstractmethod
    def _next(self, book: ObservationBook) -> tuple[Array, str]:
        """Settings (3,) of the next trial and the reason for them; nan where there are none."""

    def ingest(self, observations: Iterable[Observation]) -> None:
        """See Policy."""
        self.book.ingest(observations)

    def suggest(self, n_points: int = 1) -> list[Suggestion]:
        """See Policy."""
        book = self.book
        suggestions: list[Suggestion] = []
        while len(suggestions) < n_points and self.budget.largest_dose(book) >= self.budget.smallest_dose:
            point, reason = self._next(book)
            if not np.isfinite(point).all():
                break
            suggestions.append(self._suggestion(point, reason, book))
            book = book.with_pending(suggestions[-1].settings)
        return suggestions

    def recommend(self, electrons_left: float) -> Recommendation:
        """See best_observed."""
        return best_observed(self.book.scored, self.problem, self.space, electrons_left)

    def view(self, electrons_left: float) -> ModelView | None:
        """None: there is no model."""
        return None

    def _dose_range(self, book: ObservationBook) -> tuple[float, float]:
        """Smallest and largest dose wanted of the next trial, e/Å²."""
        even, largest = self.budget.even_dose(book), self.budget.largest_dose(book)
        if self.problem.config.goal.kind == "cheapest":
            return SPREAD[0] * even, min(SPREAD[1] * even, largest)
        wanted = max(min(even, self.budget.final_electrons / self.problem.final_area), self.budget.smallest_dose)
        return wanted, wanted

    def _suggestion(self, point: Array, reason: str, book: ObservationBook) -> Suggestion:
        settings = as_settings(point)
        return Suggestion(
            settings=settings,
            source=self.name,
            reason=f"{reason}; {_share(settings, self.problem, book)}",
            constraint=self.space.active_constraint(settings),
            nearest_trial=book.nearest(point, self.space),
        )


def best_observed(
    scored: list[Observation], problem: Problem, space: SearchSpace, electrons_left: float
) -> Recommendation:
    """The best trial, at the dose that `electrons_left` buy; for goal cheapest the cheapest that surely reached the target.

    Raises BadInputError where there is no scored trial or `electrons_left` are too few for any legal acquisition.
    """
    if not scored:
        msg = "there is no scored trial to recommend anything from"
        raise BadInputError(msg)
    if problem.config.goal.kind == "cheapest":
        return _cheapest_observed(scored, problem)
    refuse_unaffordable(space, problem, electrons_left)
    dose = electrons_left / problem.final_area
    for observation in sorted(scored, key=lambda o: -(o.score or 0.0)):
        s = observation.settings
        affordable = float(final_dose(space, np.array([s.step]), dose)[0])
        if np.isfinite(affordable):
            reason = (
                f"trial {observation.trial} scored highest, {observation.score:.4g} bit/Å² "
                f"at {s.dose:.4g} {problem.description.dose_unit}"
            )
            return Recommendation(settings=s.model_copy(update={"dose": affordable}), reason=reason)
    msg = f"no trial's step is legal at the {dose:.4g} {problem.description.dose_unit} that are left"
    raise BadInputError(msg)


def _cheapest_observed(scored: list[Observation], problem: Problem) -> Recommendation:
    """The lowest dose whose score is above the target by CONFIDENT standard deviations; else the highest score."""
    if problem.target is not None:
        sure = [o for o in scored if (o.score or 0.0) - CONFIDENT * (o.variance or 0.0) ** 0.5 >= problem.target]
        if sure:
            best = min(sure, key=lambda o: o.settings.dose)
            reason = (
                f"trial {best.trial} is the cheapest that reached the target of {problem.target:.4g} bit/Å² "
                f"with a probability of {CONFIDENCE:g}"
            )
            return Recommendation(settings=best.settings, reason=reason)
    best = max(scored, key=lambda o: o.score or 0.0)
    target = (
        "the target is not known yet" if problem.target is None else f"no trial surely reached {problem.target:.4g}"
    )
    return Recommendation(
        settings=best.settings, reason=f"{target}; trial {best.trial} scored highest, {best.score:.4g}"
    )


def _share(settings: Settings, problem: Problem, book: ObservationBook) -> str:
    """The cost of a trial in words."""
    electrons = settings.dose * problem.trial_area
    return f"trial {len(book.exploration) + 1} of {problem.config.exploration.trials}, {electrons:.3g} electrons"
