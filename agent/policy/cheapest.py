"""Goal cheapest: the fewest electrons per area whose score still reaches the target.

The cost of settings is their dose. The next trial maximises saving × probability of reaching the target, expected improvement
under a constraint with a known objective (Gardner et al., ICML 2014). README.md, "Goal cheapest", has the equation.
"""

from __future__ import annotations

import math

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.coordinates import as_settings
from agent.policy.limits import DEFOCUS, DOSE, SEMIANGLE, STEP, Array
from agent.policy.proposal import (
    PictureModel,
    Proposal,
    RejectedCandidate,
    Stop,
    exclude_failed,
    select_distinct,
    sobol_candidates,
    step_dose_view,
)
from agent.policy.space import SearchSpace
from agent.policy.target import Target, target_of
from agent.records import Alternative, ModelView, Recommendation

CANDIDATES = 1024
FINAL_CANDIDATES = 256
"""Pairs of step and defocus at which the cheapest sufficient dose is looked for."""
DOSES = 48
"""Doses per pair, and again between the two around the first that is sufficient."""
FRONT = (4.0, 2.0, 1 / 2, 1 / 4, 1 / 8)
"""Doses relative to the recommended one, of the front of score and dose."""


class Cheapest:
    """A ModelGoal. `problem`, `space` and `budget` belong to one campaign."""

    def __init__(self, problem: Problem, space: SearchSpace, budget: ExplorationBudget) -> None:
        """Prepare a campaign.

        Args:
            problem: the campaign's.
            space: the legal settings.
            budget: of exploration.
        """
        self.problem, self.space, self.budget = problem, space, budget
        self.target = target_of(problem, ())

    def learn(self, book: ObservationBook) -> None:
        """See ModelGoal. Resolutions tell at which score the wanted one is reached."""
        self.target = target_of(self.problem, book.scored_trials)

    def propose(self, model: PictureModel, book: ObservationBook, seed: int) -> Proposal | Stop | str:
        """See ModelGoal."""
        if (target := self.target) is None:
            return "the target is not known yet"
        pool = sobol_candidates(self.space, seed, CANDIDATES, dose_max=self.budget.largest_dose(book))
        pool = exclude_failed(self.space, pool, book)
        if len(pool) == 0:
            return "every legal trial that can be paid is like one that failed"
        pending = self.space.points(o.settings for o in book.in_state("pending"))
        if len(pending):
            model = model.condition_on_pending(pending)
        log_probability = self._log_probability(model, pool, target)
        probability = np.exp(log_probability)
        sufficient = self._find_cheapest(model, target, math.inf)
        reference = sufficient[DOSE] if sufficient is not None else self.space.axes[DOSE].high
        # What saves nothing stays in the order of its probability, behind everything that saves.
        log_saving = np.log(np.maximum(np.log(reference / pool[:, DOSE]), 1e-6))
        value = log_saving + log_probability
        best, *others = select_distinct(self.space, pool, value, 2)

        def expectation(i: int) -> str:
            saving = 100 * (1 - pool[i, DOSE] / reference)
            saved = f"saves {saving:.0f} % of the electrons " if sufficient is not None else ""
            return f"{saved}with a probability of {probability[i]:.2f} to reach {target.words}"

        first = "" if sufficient is not None else "nothing reaches the target surely yet; "
        rejected = tuple(RejectedCandidate(pool[i], f"{expectation(i)}, a poorer bargain") for i in others)
        return Proposal(pool[best], first + expectation(best), rejected)

    def recommend(self, model: PictureModel, electrons_left: float) -> Recommendation:
        """See ModelGoal. The lowest dose that reaches the target with the goal's confidence, else the likeliest."""
        if (target := self.target) is None:
            msg = "the target score is not known yet: acquire the reference first, or set goal.score"
            raise BadInputError(msg)
        affordable = electrons_left / self.problem.final_area
        cheapest = self._find_cheapest(model, target, affordable)
        best = self._find_likeliest(model, target, affordable) if cheapest is None else cheapest
        mean, sd = (float(v[0]) for v in model.predict(best[None]))
        probability = float(np.exp(self._log_probability(model, best[None], target))[0])
        reason = (
            f"cheapest settings predicted to reach {target.words} with a probability of at least "
            f"{self.problem.config.goal.confidence:g}"
            if cheapest is not None
            else f"nothing legal surely reaches {target.words}; this does with a probability of {probability:.2f}"
        )
        front = self._front(model, float(best[DOSE]), affordable)
        return Recommendation(settings=as_settings(best), predicted=mean, predicted_sd=sd, reason=reason, front=front)

    def _front(self, model: PictureModel, dose: float, affordable: float) -> tuple[Alternative, ...]:
        """Other doses, each at its best settings, from the largest: the Pareto front of score and dose."""
        points = self._final_candidates(affordable).reshape(-1, self.space.dimensions)
        means, sds = model.predict(points)
        found: list[Alternative] = []
        for part in FRONT:
            payable = points[:, DOSE] <= part * dose * (1 + 1e-9)
            if not payable.any():
                break
            index = int(np.argmax(np.where(payable, means, -np.inf)))
            settings = as_settings(points[index])
            if not found or (settings.dose < found[-1].settings.dose and means[index] < found[-1].predicted):
                reason = f"{100 * settings.dose / dose:.3g} % of the dose"
                mean, sd = float(means[index]), float(sds[index])
                found.append(Alternative(settings=settings, predicted=mean, predicted_sd=sd, reason=reason))
        return tuple(found)

    def view(self, model: PictureModel, electrons_left: float) -> ModelView:
        """See ModelGoal. Step × dose, at the defocus of the recommendation where that is not fixed."""
        defocus, place = self.space.axes[DEFOCUS].low, None
        if "defocus" in self.space.variables or self.space.dimensions > SEMIANGLE:
            recommended = self.recommend(model, electrons_left).settings
            defocus, place = recommended.defocus, self.space.points([recommended])[0]
        return step_dose_view(model, self.space, defocus, electrons_left / self.problem.final_area, place)

    def _log_probability(self, model: PictureModel, points: Array, target: Target) -> Array:
        """ln P(noiseless score ≥ target), (n,)."""
        from scipy.special import log_ndtr

        mean, sd = model.predict(points)
        log_probability: Array = log_ndtr((mean - target.score) / np.hypot(sd, target.sd))
        return log_probability

    def _margin(self, model: PictureModel, points: Array, target: Target) -> Array:
        """(n,) bit/Å² by which the score exceeds the target with the goal's confidence."""
        mean, sd = model.predict(points)
        return mean - self.problem.config.goal.quantile * np.hypot(sd, target.sd) - target.score

    def _final_candidates(self, dose_max: float) -> Array:
        """(n, doses, dimensions): pairs of step and defocus that are legal up to `dose_max`, each at ascending doses."""
        places = sobol_candidates(self.space, 0, FINAL_CANDIDATES, dose_max=dose_max)
        if len(places) == 0:
            msg = (
                f"the electrons left buy {dose_max:.4g} {self.problem.description.dose_unit}, less than any legal dose"
            )
            raise BadInputError(msg)
        _, first = np.unique(np.delete(places, DOSE, axis=1), axis=0, return_index=True)
        places = places[np.sort(first)]
        doses = [self.space.at(p).legal_doses(p[STEP], dose_max=dose_max, count=DOSES) for p in places]
        longest = max(map(len, doses))
        grid = np.repeat(places[:, None], longest, axis=1)
        grid[..., DOSE] = [np.pad(d, (0, longest - len(d)), mode="edge") for d in doses]
        return grid

    def _find_cheapest(self, model: PictureModel, target: Target, dose_max: float) -> Array | None:
        """Point (3,) with the lowest sufficient dose up to `dose_max`; None where none is sufficient."""
        grid = self._final_candidates(dose_max)
        sufficient = self._margin(model, grid.reshape(-1, self.space.dimensions), target).reshape(grid.shape[:2]) >= 0
        if not sufficient.any():
            return None
        lowest = np.where(sufficient, grid[..., DOSE], np.inf)
        i, j = np.unravel_index(np.argmin(lowest), lowest.shape)
        best: Array = grid[i, j]
        if j == 0 or self.space.dose_is_discrete:
            return best
        finer = np.repeat(best[None], DOSES, axis=0)
        finer[:, DOSE] = np.geomspace(grid[i, j - 1, DOSE], best[DOSE], DOSES)
        best = finer[np.argmax(self._margin(model, finer, target) >= 0)]
        return best

    def _find_likeliest(self, model: PictureModel, target: Target, dose_max: float) -> Array:
        """Point (3,) with the highest probability of reaching the target."""
        points = self._final_candidates(dose_max).reshape(-1, self.space.dimensions)
        best: Array = points[np.argmax(self._log_probability(model, points, target))]
        return best
