"""Goal cheapest: the fewest electrons per area whose score still reaches the target.

The cost of settings is their dose. The next trial maximises, in logarithms, expected saving × probability of reaching the
target: ln(d*/d) · Φ((μ − target)/σ), with d* the dose of the present recommendation. This is expected improvement under a
constraint with a known objective (Gardner et al. 2014). Trials under way count as measured at their predicted score, which
also keeps a second one away from them.
"""

from __future__ import annotations

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.baseline import CONFIDENCE, CONFIDENT
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.limits import Array
from agent.policy.proposal import Proposal, Rejected, best_distinct, candidates, step_dose_view, without_failed
from agent.policy.score_model import ScoreModel
from agent.policy.space import SearchSpace, as_points, as_settings
from agent.records import ModelView, Recommendation

CANDIDATES = 1024
PLACES = 256
"""Pairs of step and defocus at which the cheapest sufficient dose is looked for."""
DOSES = 48
"""Doses per pair, and again between the two around the first that is sufficient."""


class Cheapest:
    """See the module. `problem`, `space` and `budget` belong to one campaign."""

    def __init__(self, problem: Problem, space: SearchSpace, budget: ExplorationBudget) -> None:
        self.problem, self.space, self.budget = problem, space, budget

    def propose(self, model: ScoreModel, book: ObservationBook, seed: int) -> Proposal | str:
        """See ModelGoal."""
        target = self.problem.target
        if target is None:
            return "the target is not known yet"
        pool = candidates(self.space, seed, CANDIDATES, dose_max=self.budget.largest_dose(book))
        pool = without_failed(self.space, pool, book)
        if len(pool) == 0:
            return "every legal trial that can be paid is like one that failed"
        pending = as_points(o.settings for o in book.in_state("pending"))
        known = model.given(self.space.to_unit(pending), pending[:, 2]) if len(pending) else model
        probability = np.exp(self._log_probability(known, pool, target))
        surest = self._cheapest(known, target, self.space.axes[2].high)
        reference = surest[2] if surest is not None else self.space.axes[2].high
        # What saves nothing stays in the order of its probability, behind everything that saves.
        log_saving = np.log(np.maximum(np.log(reference / pool[:, 2]), 1e-6))
        value = log_saving + self._log_probability(known, pool, target)
        best, *others = best_distinct(self.space, pool, value, 2)

        def expectation(i: int) -> str:
            saved = f"saves {100 * (1 - pool[i, 2] / reference):.0f} % of the electrons " if surest is not None else ""
            return f"{saved}with a probability of {probability[i]:.2f} to reach {target:.4g} bit/Å²"

        first = "" if surest is not None else "nothing reaches the target surely yet; "
        rejected = tuple(Rejected(pool[i], f"{expectation(i)}, a poorer bargain") for i in others)
        return Proposal(pool[best], first + expectation(best), rejected)

    def recommend(self, model: ScoreModel, electrons_left: float) -> Recommendation:
        """The lowest dose at which the score reaches the target with a probability of CONFIDENCE, else the likeliest."""
        target = self.problem.target
        if target is None:
            msg = "the target score is not known yet: acquire the reference first, or set goal.score"
            raise BadInputError(msg)
        bought = electrons_left / self.problem.final_area
        cheapest = self._cheapest(model, target, bought)
        best = self._likeliest(model, target, bought) if cheapest is None else cheapest
        mean, sd = (float(v[0]) for v in model.predict(self.space.to_unit(best[None]), best[None, 2]))
        probability = float(np.exp(self._log_probability(model, best[None], target))[0])
        reason = (
            f"cheapest settings predicted to reach {target:.4g} bit/Å² with a probability of at least {CONFIDENCE:g}"
            if cheapest is not None
            else f"nothing legal surely reaches {target:.4g} bit/Å²; this does with a probability of {probability:.2f}"
        )
        return Recommendation(settings=as_settings(best), predicted=mean, predicted_sd=sd, reason=reason)

    def view(self, model: ScoreModel, electrons_left: float) -> ModelView:
        """Step × dose, at the defocus of the recommendation where that is not fixed."""
        defocus = self.space.axes[1].low
        if "defocus" in self.space.variables:
            defocus = self.recommend(model, electrons_left).settings.defocus
        return step_dose_view(model, self.space, defocus, electrons_left / self.problem.final_area)

    def _log_probability(self, model: ScoreModel, points: Array, target: float) -> Array:
        """ln P(noiseless score ≥ target), (n,)."""
        from scipy.special import log_ndtr

        mean, sd = model.predict(self.space.to_unit(points), points[:, 2])
        return log_ndtr((mean - target) / sd)

    def _margin(self, model: ScoreModel, points: Array, target: float) -> Array:
        """(n,) bit/Å² by which the score exceeds the target with a probability of CONFIDENCE."""
        mean, sd = model.predict(self.space.to_unit(points), points[:, 2])
        return mean - CONFIDENT * sd - target

    def _final_candidates(self, bought: float) -> Array:
        """(n, doses, 3): places that are legal up to the dose `bought`, at ascending doses."""
        places = candidates(self.space, 0, PLACES, dose_max=bought)
        if len(places) == 0:
            msg = f"the electrons left buy {bought:.4g} {self.problem.description.dose_unit}, less than any legal dose"
            raise BadInputError(msg)
        _, first = np.unique(places[:, :2], axis=0, return_index=True)
        places = places[np.sort(first)]
        doses = [self.space.legal_doses(step, dose_max=bought, count=DOSES) for step in places[:, 0]]
        longest = max(map(len, doses))
        grid = np.repeat(places[:, None], longest, axis=1)
        grid[..., 2] = [np.pad(d, (0, longest - len(d)), mode="edge") for d in doses]
        return grid

    def _cheapest(self, model: ScoreModel, target: float, bought: float) -> Array | None:
        """Point (3,) with the lowest sufficient dose up to `bought`; None where none is."""
        grid = self._final_candidates(bought)
        enough = self._margin(model, grid.reshape(-1, 3), target).reshape(grid.shape[:2]) >= 0
        if not enough.any():
            return None
        lowest = np.where(enough, grid[..., 2], np.inf)
        i, j = np.unravel_index(np.argmin(lowest), lowest.shape)
        if j == 0 or self.space.axes[2].values is not None:
            return grid[i, j]
        finer = np.repeat(grid[i, j][None], DOSES, axis=0)
        finer[:, 2] = np.geomspace(grid[i, j - 1, 2], grid[i, j, 2], DOSES)
        return finer[np.argmax(self._margin(model, finer, target) >= 0)]

    def _likeliest(self, model: ScoreModel, target: float, bought: float) -> Array:
        """Point (3,) with the highest probability of reaching the target."""
        points = self._final_candidates(bought).reshape(-1, 3)
        return points[np.argmax(self._log_probability(model, points, target))]
