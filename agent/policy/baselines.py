"""The policies without a model: the expert's settings, random search, and Sobol's sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from agent.config import expert_semiangle
from agent.errors import BadInputError
from agent.policy.apertures import search_space
from agent.policy.base import Observation, Problem
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.coordinates import as_settings
from agent.policy.final import paid_dose, recommend_best_observed, refuse_unaffordable
from agent.policy.limits import DOSE, SEMIANGLE, Array
from agent.policy.space import SearchSpace
from agent.records import ModelView, Recommendation, Settings, Suggestion

DOSE_SPREAD = (0.4, 1.6)
"""Where doses are to differ: between these multiples of the even share of a trial; their mean is then below it."""
DUPLICATE_DISTANCE = 1e-3
"""Points nearer than this in the model's coordinates are the same settings."""


class Baseline(ABC):
    """suggest/ingest around a rule for the next settings, which a subclass states in `choose`.

    Goal best_picture: all trials get the same electrons, so that their scores can be compared; they are at most those of the
    final acquisition per area. Goal cheapest: doses differ.
    """

    name: ClassVar[str]

    def __init__(self, problem: Problem, seed: int) -> None:
        """Prepare a campaign.

        Args:
            problem: the campaign's.
            seed: of everything random.

        Raises:
            BadInputError: where no settings are legal, or where the electrons pay for no exploration or final acquisition.
        """
        self.problem = problem
        self.seed = seed
        self.space = search_space(problem.description, problem.config, problem.overheads)
        self.budget = ExplorationBudget(problem, self.space)
        self.book = ObservationBook()
        if problem.config.goal.kind == "best_picture":
            refuse_unaffordable(self.space, problem, self.budget.final_electrons)

    @abstractmethod
    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """The rule.

        Args:
            book: what is known, pending trials included.

        Returns:
            Settings (3,) of the next trial, legal, and the reason for them; nan ends exploration.
        """

    def ingest(self, observations: Iterable[Observation]) -> None:
        """See Policy."""
        self.book.ingest(observations)

    def suggest(self, n_points: int = 1) -> list[Suggestion]:
        """See Policy. Each of several points is chosen as if those before it were pending."""
        book = self.book
        suggestions: list[Suggestion] = []
        while len(suggestions) < n_points and not self.budget.is_over(book):
            point, reason = self.choose(book)
            if not np.isfinite(point).all():
                break
            suggestions.append(self._explain(point, reason, book))
            book = book.with_pending(suggestions[-1].settings)
        return suggestions

    def recommend(self, electrons_left: float) -> Recommendation:
        """See Policy: the best trial."""
        return recommend_best_observed(self.book.scored_trials, self.problem, self.space, electrons_left)

    def view(self, electrons_left: float) -> ModelView | None:
        """None: there is no model."""
        return None

    def dose_range(self, book: ObservationBook) -> tuple[float, float]:
        """Smallest and largest dose that the next trial should have, e/Å²."""
        even, largest = self.budget.even_dose(book), self.budget.largest_dose(book)
        if self.problem.config.goal.kind == "cheapest":
            return DOSE_SPREAD[0] * even, min(DOSE_SPREAD[1] * even, largest)
        dose = max(min(even, self.budget.final_electrons / self.problem.final_area), self.budget.smallest_dose)
        return dose, dose

    def draw_one(self, book: ObservationBook) -> Array:
        """(3,) a trial drawn at random from the legal settings."""
        low, high = self.dose_range(book)
        generator = np.random.default_rng([self.seed, book.next_number])
        points = self.space.draw(generator.random((256, self.space.dimensions)), dose_min=low, dose_max=high)
        return points[0] if len(points) else self.space.lowest_dose_trial

    def _explain(self, point: Array, reason: str, book: ObservationBook) -> Suggestion:
        settings = as_settings(point)
        number, trials = len(book.exploration) + 1, self.problem.config.exploration.trials
        # More than were planned: a person has refused some, or they were lost.
        counted = f"trial {number} of {trials}, " if number <= trials else ""
        cost = f"{counted}{settings.dose * self.problem.trial_area:.3g} electrons"
        return Suggestion(
            settings=settings,
            source=self.name,
            reason=f"{reason}; {cost}",
            constraint=self.space.active_constraint(settings),
            nearest_trial=book.nearest(point, self.space),
        )


class ExpertPolicy(Baseline):
    """Repeats the step and defocus of config.expert, whatever the data say."""

    name = "expert"

    def __init__(self, problem: Problem, seed: int) -> None:
        """See Baseline.

        Raises:
            BadInputError: also where config.expert is missing or not legal.
        """
        super().__init__(problem, seed)
        if problem.config.expert is None:
            msg = "policy expert needs the key expert: [step in Å, defocus in Å]"
            raise BadInputError(msg)
        self.step, self.defocus = problem.config.expert
        self.semiangle = expert_semiangle(problem.description, problem.config)
        settings = Settings(step=self.step, defocus=self.defocus, dose=1.0, semiangle=self.semiangle)
        self._place = self.space.points([settings])[0]
        self._own = self.space.at(self._place)
        low, high = (float(v[0]) for v in self._own.dose_interval(np.array([self.step])))
        besides = float(self._own.overheads.trial(np.array([self.step]))[0])
        dose = float(np.clip(self.budget.even_dose(self.book) - besides, low, max(low, high)))
        if self._own.dose_is_discrete and (doses := self._own.legal_doses(self.step)).size:
            dose = float(doses[np.argmin(np.abs(np.log(doses / dose)))])
        illegal = self.space.why_illegal(settings.model_copy(update={"dose": dose}))
        if illegal:
            msg = f"expert [{self.step:g}, {self.defocus:g}] is not legal: {illegal}"
            raise BadInputError(msg)

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        low, high = self.dose_range(book)
        doses = self._own.legal_doses(self.step, dose_max=high)
        ideal = np.exp(np.random.default_rng([self.seed, book.next_number]).uniform(np.log(low), np.log(high)))
        dose = doses[np.argmin(np.abs(np.log(doses / ideal)))] if doses.size else np.nan
        point = self._place.copy()
        point[DOSE] = dose
        return point, "the expert's settings"

    def recommend(self, electrons_left: float) -> Recommendation:
        """See Policy: these settings, also where no trial has a score."""
        if self.book.scored_trials or self.problem.config.goal.kind == "cheapest":
            return super().recommend(electrons_left)
        dose = float(paid_dose(self._own, np.array([self.step]), electrons_left, self.problem.final_area)[0])
        if not np.isfinite(dose):
            return super().recommend(electrons_left)
        settings = Settings(step=self.step, defocus=self.defocus, dose=dose, semiangle=self.semiangle)
        return Recommendation(settings=settings, reason="the expert's settings; no trial has a score")


class RandomPolicy(Baseline):
    """Draws each trial independently from the legal settings and keeps the best: the least a policy has to beat."""

    name = "random"

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        return self.draw_one(book), "drawn at random from the legal settings"


class SobolPolicy(Baseline):
    """Spreads the trials evenly over the legal settings and keeps the best."""

    name = "sobol"

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        low, high = self.dose_range(book)
        point = sobol_point(self.space, book, self.seed, dose_min=low, dose_max=high)
        return point, f"point {len(book.exploration) + 1} of a Sobol sequence over the legal settings"


def sobol_point(space: SearchSpace, book: ObservationBook, seed: int, *, dose_min: float, dose_max: float) -> Array:
    """The point of a scrambled Sobol sequence that belongs to the next trial, or the first after it that is new.

    Scrambling: Owen (1998), as in scipy.stats.qmc. Every prefix of Sobol's sequence fills the space evenly.

    Args:
        space: the legal settings.
        book: what has been tried, pending trials included.
        seed: of the scrambling.
        dose_min: smallest dose wanted, e/Å².
        dose_max: largest dose allowed, e/Å².

    Returns:
        (3,) step Å, defocus Å, dose e/Å².
    """
    from scipy.stats import qmc

    index = len(book.exploration)
    cube = qmc.Sobol(space.dimensions, scramble=True, rng=np.random.default_rng(seed)).random_base2(
        int(index + 64).bit_length()
    )
    if (apertures := len(space.parts)) > 1:
        # Shuffled anew in every round: in thirds, every third point of this sequence lies in the same one.
        rounds = np.tile(np.arange(apertures), (-(-len(cube) // apertures), 1))
        dealt = np.random.default_rng([seed, SEMIANGLE]).permuted(rounds, axis=1).ravel()[: len(cube)]
        cube[:, SEMIANGLE] = (dealt + 0.5) / apertures
    points = space.draw(cube, dose_min=dose_min, dose_max=dose_max)
    points = np.roll(points, -index, axis=0) if len(points) else space.lowest_dose_trial[None]
    known = space.normalize(space.points(o.settings for o in book.all))
    distance = np.linalg.norm(space.normalize(points)[:, None] - known[None], axis=-1)
    new = np.flatnonzero((distance > DUPLICATE_DISTANCE).all(axis=1))
    point: Array = points[new[0] if new.size else 0]
    return point
