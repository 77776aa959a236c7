"""The expert's step and defocus, whatever the data say."""

from __future__ import annotations

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.baseline import Baseline
from agent.policy.book import ObservationBook
from agent.policy.limits import Array
from agent.records import Settings


class ExpertPolicy(Baseline):
    """Repeats config.expert. Raises BadInputError where there is none, or where it is not legal."""

    name = "expert"

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        if problem.config.expert is None:
            msg = "policy expert needs the key expert: [step in Å, defocus in Å]"
            raise BadInputError(msg)
        self.step, self.defocus = problem.config.expert
        low, high = (float(v[0]) for v in self.space.dose_interval(np.array([self.step])))
        dose = float(np.clip(self.budget.even_dose(self.book), low, max(low, high)))
        illegal = self.space.why_illegal(Settings(step=self.step, defocus=self.defocus, dose=dose))
        if illegal:
            msg = f"expert [{self.step:g}, {self.defocus:g}] is not legal: {illegal}"
            raise BadInputError(msg)

    def _next(self, book: ObservationBook) -> tuple[Array, str]:
        low, high = self._dose_range(book)
        doses = self.space.legal_doses(self.step, dose_max=high)
        wanted = np.exp(np.random.default_rng([self.seed, book.next_number]).uniform(np.log(low), np.log(high)))
        dose = doses[np.argmin(np.abs(np.log(doses / wanted)))] if doses.size else np.nan
        return np.array([self.step, self.defocus, dose]), "the expert's settings"
