"""What a policy was told, and the electrons exploration may still spend."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Observation, ObservationState, Problem
from agent.policy.limits import Array
from agent.policy.space import SearchSpace
from agent.records import ElectronBudget, Settings
from agent.scan_prices import NONE


class ObservationBook:
    """The latest observation of each trial, in the order of their numbers, whatever the order they came in."""

    def __init__(self) -> None:
        self._by_trial: dict[int, Observation] = {}

    def ingest(self, observations: Iterable[Observation]) -> None:
        """Add observations, or replace earlier ones of the same trial.

        Args:
            observations: in any order.
        """
        for observation in observations:
            self._by_trial[observation.trial] = observation

    @property
    def all(self) -> list[Observation]:
        """Everything that is known."""
        return [self._by_trial[n] for n in sorted(self._by_trial)]

    @property
    def exploration(self) -> list[Observation]:
        """The trials that count against exploration's share, in whatever state."""
        return [o for o in self.all if o.role == "exploration"]

    @property
    def scored_trials(self) -> list[Observation]:
        """The trials that have a score with its variance, both numbers: no model ever sees a NaN."""
        done = (o for o in self.all if o.state == "done")
        return [o for o in done if _is_number(o.score) and _is_number(o.variance) and (o.variance or 0.0) >= 0]

    @property
    def defocus_offset(self) -> float:
        """By how much defocus as measured exceeds the set-points, Å, median of the scored trials; 0: not measured."""
        found = [o.defocus_measured - o.settings.defocus for o in self.scored_trials if _is_number(o.defocus_measured)]
        return float(np.median(found)) if found else 0.0

    def in_state(self, state: ObservationState) -> list[Observation]:
        """The trials that are pending, done or failed."""
        return [o for o in self.all if o.state == state]

    @property
    def next_number(self) -> int:
        """Number of the trial that is suggested next."""
        return max(self._by_trial, default=0) + 1

    def copy(self) -> ObservationBook:
        """An independent book with the same observations."""
        other = ObservationBook()
        other.ingest(self.all)
        return other

    def with_pending(self, settings: Settings) -> ObservationBook:
        """A copy in which a further trial is pending.

        Args:
            settings: of that trial.

        Returns:
            An independent book.
        """
        other = self.copy()
        other.ingest([Observation(trial=self.next_number, settings=settings, state="pending")])
        return other

    def nearest(self, point: Array, space: SearchSpace) -> int | None:
        """The scored trial that is nearest in the model's coordinates.

        Args:
            point: (3,) step Å, defocus Å, dose e/Å².
            space: whose model coordinates measure the distance.

        Returns:
            Its number; None where no trial has a score.
        """
        scored = self.scored_trials
        if not scored:
            return None
        known = space.normalize(space.points(o.settings for o in scored))
        return scored[int(np.argmin(np.linalg.norm(known - space.normalize(point[None]), axis=1)))].trial


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


class ExplorationBudget:
    """Keeps exploration within its share: every trial is affordable and leaves enough for the ones that remain.

    Raises BadInputError where the share does not pay for the campaign's trials at the smallest legal dose.
    """

    def __init__(self, problem: Problem, space: SearchSpace) -> None:
        self.problem = problem
        self._space = space
        self.smallest_dose = space.smallest_dose
        exploration = problem.config.exploration
        self._budget = ElectronBudget(total=problem.config.electrons, share=exploration.share)
        self.electrons = self._budget.exploration_share
        least = self.smallest_dose * problem.trial_area * exploration.trials
        unit = problem.description.dose_unit
        scanned = " with what a scan takes besides" if space.overheads.trial != NONE else ""
        if least > self.electrons:
            msg = (
                f"the budget of {problem.config.electrons:.4g} electrons is too small: {exploration.trials} trials at the "
                f"smallest legal dose ({self.smallest_dose:.4g} {unit}{scanned} over {problem.trial_area:.4g} Å²) need "
                f"{least:.4g}, exploration.share {exploration.share:g} pays {self.electrons:.4g}; "
                "raise electrons, or use fewer trials or a smaller field"
            )
            raise BadInputError(msg)
        self.final_electrons = self._budget.final_share
        self._one_setting = not space.variables

    def spent(self, book: ObservationBook) -> float:
        """Electrons of exploration so far, those of pending trials included. A trial that failed unexposed costs none."""
        return self.electrons - self._left_as_dose(book) * self.problem.trial_area * self._overhead(book)

    def is_over(self, book: ObservationBook) -> bool:
        """Whether no trial is to follow: there is too little left for one, or the only settings there are have a score."""
        return (self._one_setting and bool(book.scored_trials)) or self.largest_dose(book) < self.smallest_dose

    def largest_dose(self, book: ObservationBook) -> float:
        """Largest dose of the next trial, e/Å²; below `smallest_dose` where exploration is over."""
        reserve = (self._remaining(book) - 1) * self.smallest_dose
        return self._left_as_dose(book) - reserve

    def even_dose(self, book: ObservationBook) -> float:
        """The dose, e/Å², at which each of the remaining trials gets the same."""
        return self._left_as_dose(book) / self._remaining(book)

    def _remaining(self, book: ObservationBook) -> int:
        """Trials to come, the next included."""
        return max(self.problem.config.exploration.trials - len(book.exploration), 1)

    def _overhead(self, book: ObservationBook) -> float:
        """What trials have cost so far relative to what was expected of them, at least 1."""
        asked = self._charges(o for o in book.exploration if o.electrons) * self.problem.trial_area
        return max(sum(o.electrons for o in book.exploration) / asked, 1.0) if asked else 1.0

    def _charges(self, trials: Iterable[Observation]) -> float:
        """What trials are expected to take together, as a dose over the area of one, e/Å²."""
        return float(self._space.charge(self._space.points(o.settings for o in trials)).sum())

    def _left_as_dose(self, book: ObservationBook) -> float:
        """What is left, as a dose over the area of a trial, e/Å²."""
        booked = sum(o.electrons for o in book.exploration)
        unbooked = self._charges(o for o in book.exploration if not o.electrons and o.state != "failed")
        left = self._budget.model_copy(update={"exploration": booked}).exploration_left
        return left / (self.problem.trial_area * self._overhead(book)) - unbooked
