"""Goal best_picture: the highest score of the final acquisition with the electrons that will be left.

Where to try next and how many electrons to pay for it are decided one after the other: step and defocus by the expected
improvement of the final score, then the dose that most lowers the variance of the predicted final score per electron.
README.md, "Goal best_picture", has the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.coordinates import as_settings
from agent.policy.final import final_dose, paid_doses, refuse_unaffordable
from agent.policy.improvement import Value, exact_improvement, explore_share, sampled_improvement
from agent.policy.limits import DEFOCUS, DOSE, SEMIANGLE, STEP, Array
from agent.policy.proposal import (
    PictureModel,
    Proposal,
    RejectedCandidate,
    Stop,
    exclude_failed,
    select_distinct,
    sobol_candidates,
    step_defocus_view,
    step_dose_view,
)
from agent.policy.score_model import ScoreModel
from agent.policy.space import SearchSpace
from agent.records import Alternative, ModelView, Recommendation

CANDIDATES = 512
REFINEMENTS = (0.04, 0.01)
"""Spread, in model coordinates, of the candidates around the best ones, round by round."""
REFINED_CENTRES = 3
"""How many of the best candidates are refined, each with as many new ones as NEIGHBOURS."""
NEIGHBOURS = 48
LOWER_DOSES = np.geomspace(1.0, 1 / 16, 7)
"""Doses, relative to what the electrons buy, at which the final acquisition may be better than there (damage)."""
FRONT = (1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""Doses relative to the recommended one, of the front of score and dose."""
FEWEST_BEFORE_STOP = 2
"""Scored trials before exploration may end by its price."""
LARGEST_SHARE = 2.0
"""No trial gets more than this multiple of the even share, so that later trials can still find something out."""

Projection = Callable[[Array], tuple[Array, Array]]
"""From trials (n, 3) to those that are legal as final acquisition and their final points, each (m, 3)."""


class BestPicture:
    """A ModelGoal. `problem`, `space` and `budget` belong to one campaign."""

    def __init__(self, problem: Problem, space: SearchSpace, budget: ExplorationBudget) -> None:
        """Prepare a campaign.

        Args:
            problem: the campaign's.
            space: the legal settings.
            budget: of exploration.

        Raises:
            BadInputError: where the electrons that exploration leaves pay for no legal final acquisition.
        """
        self.problem, self.space, self.budget = problem, space, budget
        refuse_unaffordable(space, problem, budget.final_electrons)

    def learn(self, book: ObservationBook) -> None:
        """See ModelGoal. Only scores count here."""

    def propose(self, model: PictureModel, book: ObservationBook, seed: int) -> Proposal | Stop | str:
        """See ModelGoal. Predictions in the reason are those of the final acquisition."""
        dose_max = self.budget.largest_dose(book)
        trials = sobol_candidates(self.space, seed, CANDIDATES, dose_max=dose_max)

        def project(points: Array) -> tuple[Array, Array]:
            return self._project(model, self.budget.final_electrons, exclude_failed(self.space, points, book))

        incumbent = self._best_final(model, self.budget.final_electrons)
        trials, finals, value = self._search(trials, project, self._acquisition(model, book, incumbent, seed), seed)
        if len(trials) == 0:
            return "no new settings are legal for both a trial that can be paid and the final acquisition"
        best, *others = select_distinct(self.space, finals, value, 2)
        point = self._with_dose(trials[best], self._best_dose(model, book, trials[best], finals[best]))
        if self.problem.config.exploration.stop == "cost" and len(book.scored_trials) >= FEWEST_BEFORE_STOP:
            loss = self._price(model, book, incumbent, point)
            if np.exp(value[best]) < loss:
                return Stop(
                    f"no trial is worth its electrons: the best one is expected to improve the final picture by "
                    f"{np.exp(value[best]):.2g} bit/Å², and its electrons there are worth {loss:.2g}"
                )
        mean, sd = model.predict(finals)
        unit = self.problem.description.dose_unit

        def expectation(i: int) -> str:
            return (
                f"expected to improve the final picture by {np.exp(value[i]):.2g} bit/Å² "
                f"(predicted {mean[i]:.3g} ± {sd[i]:.2g} there, at {finals[i, DOSE]:.3g} {unit})"
            )

        return Proposal(
            point,
            f"{expectation(best)}; {point[DOSE]:.3g} {unit} tell most about it per electron",
            tuple(
                RejectedCandidate(self._with_dose(trials[i], point[DOSE]), f"{expectation(i)}, less than chosen")
                for i in others
            ),
            explore_share(model, incumbent, finals[best]),
            float(np.exp(value[best])),
        )

    def recommend(self, model: PictureModel, electrons_left: float) -> Recommendation:
        """See ModelGoal. The highest posterior mean over all legal settings."""
        refuse_unaffordable(self.space, self.problem, electrons_left)
        best = self._best_final(model, electrons_left)
        mean, sd = (float(v[0]) for v in model.predict(best[None]))
        unit = self.problem.description.dose_unit
        affordable = electrons_left / self.problem.final_area - float(self.space.at(best).overheads.final(best[:1])[0])
        reason = (
            f"highest predicted score of all legal settings, {mean:.4g} ± {sd:.2g} bit/Å² at {best[DOSE]:.4g} {unit}"
        )
        if best[DOSE] < affordable * (1 - 1e-6):
            saturated = np.isclose(best[DOSE], final_dose(self.space.at(best), best[:1], affordable)[0])
            why = "more would exceed what a pattern may hold" if saturated else "more is predicted to damage"
            reason += f"; the electrons left would buy {affordable:.4g}, but {why}"
        front = self._front(model, best)
        return Recommendation(settings=as_settings(best), predicted=mean, predicted_sd=sd, reason=reason, front=front)

    def view(self, model: PictureModel, electrons_left: float) -> ModelView:
        """See ModelGoal. Step × defocus at the final dose; step × dose where defocus is fixed."""
        dose = electrons_left / self.problem.final_area
        if "defocus" in self.space.variables:
            place = self._best_final(model, electrons_left) if self.space.dimensions > SEMIANGLE else None
            return step_defocus_view(model, self.space, dose, place)
        return step_dose_view(model, self.space, self.space.axes[DEFOCUS].low, dose)

    def _front(self, model: PictureModel, recommended: Array) -> tuple[Alternative, ...]:
        """Less dose, each at its best settings and worse than more: the Pareto front of score and dose."""
        points: list[Alternative] = []
        dose, besides = float(recommended[DOSE]), float(self.space.at(recommended).overheads.final(recommended[:1])[0])
        for part in FRONT:
            try:
                best = self._best_final(model, (part * dose + besides) * self.problem.final_area)
            except BadInputError:  # no legal acquisition has so little dose
                break
            mean, sd = (float(v[0]) for v in model.predict(best[None]))
            if not points or best[DOSE] < points[-1].settings.dose:
                settings, reason = as_settings(best), f"{100 * best[DOSE] / dose:.3g} % of the dose"
                points.append(Alternative(settings=settings, predicted=mean, predicted_sd=sd, reason=reason))
        return tuple(points)

    # -- where ---------------------------------------------------------------------------------------------------

    def _acquisition(self, model: PictureModel, book: ObservationBook, incumbent: Array, seed: int) -> Value:
        """ln expected improvement of final points (n, 3), in bit/Å², pending trials included."""
        pending = self.space.points(o.settings for o in book.in_state("pending"))
        if not isinstance(model, ScoreModel):
            return exact_improvement(model.condition_on_pending(pending) if len(pending) else model, incumbent)
        scored = self.space.points(o.settings for o in book.scored_trials)
        _, known = self._project(model, self.budget.final_electrons, scored)
        _, waiting = self._project(model, self.budget.final_electrons, pending)
        return sampled_improvement(model, known if len(known) else scored, waiting, seed)

    def _best_final(self, model: PictureModel, electrons: float) -> Array:
        """Final point (3,) with the highest predicted score; the same for the same model."""

        def mean(finals: Array) -> Array:
            return model.predict(finals)[0]

        trials = sobol_candidates(self.space, 0, 2 * CANDIDATES)
        _, finals, value = self._search(trials, partial(self._project, model, electrons), mean, 0)
        if len(finals) == 0:
            msg = f"no settings of a trial are legal for a final acquisition with {electrons:.4g} electrons"
            raise BadInputError(msg)
        best: Array = finals[np.argmax(value)]
        return best

    def _search(
        self, trials: Array, project: Projection, evaluate: Callable[[Array], Array], seed: int
    ) -> tuple[Array, Array, Array]:
        """Trials (n, 3) that have a final point, refined around the best; their final points (n, 3) and values (n,)."""
        generator = np.random.default_rng([seed, 1])
        dose_max = self.space.charge(trials).max(initial=0.0)
        trials, finals = project(trials)
        if len(trials) == 0:
            return trials, finals, np.zeros(0)
        value = evaluate(finals)
        for spread in REFINEMENTS:
            centres = trials[np.argsort(-value)[:REFINED_CENTRES]]
            near, near_finals = project(self._draw_around(centres, spread, generator, dose_max))
            if len(near):
                trials, finals = np.concatenate([trials, near]), np.concatenate([finals, near_finals])
                value = np.concatenate([value, evaluate(near_finals)])
        return trials, finals, value

    def _draw_around(self, centres: Array, spread: float, generator: np.random.Generator, dose_max: float) -> Array:
        """Legal trials near `centres` (m, dimensions) in step and defocus, with the same apertures."""
        step, defocus = self.space.axes[STEP], self.space.axes[DEFOCUS]
        points = np.repeat(centres, NEIGHBOURS, axis=0)
        if step.values is None and not step.fixed:
            points[:, STEP] *= (step.high / step.low) ** generator.normal(0, spread, len(points))
        if defocus.values is None and not defocus.fixed:
            points[:, DEFOCUS] += (defocus.high - defocus.low) * generator.normal(0, spread, len(points))
        paid = np.zeros(len(points))
        for part, inside in self.space.split(points):
            steps = points[inside, STEP]
            low, high = part.dose_interval(steps)
            paid[inside] = dose_max - part.overheads.trial(steps)
            dose = np.maximum(np.minimum(points[inside, DOSE], np.minimum(high, paid[inside])), low)
            points[inside, DOSE] = part.dose_at_most(steps, dose)
        legal: Array = points[self.space.is_legal(points) & (points[:, DOSE] <= paid)]
        return legal

    def _project(self, model: PictureModel, electrons: float, trials: Array) -> tuple[Array, Array]:
        """Those of `trials` (n, 3) that are legal as final acquisition, and their final points, each (m, 3).

        The dose is what `electrons` buy over the area, or a lower one whose predicted score is higher by more than its sd.
        """
        affordable = paid_doses(self.space, trials, electrons, self.problem.final_area)
        trials, affordable = trials[np.isfinite(affordable)], affordable[np.isfinite(affordable)]
        points = np.repeat(trials[:, None], len(LOWER_DOSES), axis=1)
        for part, inside in self.space.split(trials):
            lower = [final_dose(part, trials[inside, STEP], affordable[inside] * less) for less in LOWER_DOSES]
            points[inside, :, DOSE] = np.where(np.isfinite(lower), lower, affordable[inside]).T
        flat = points.reshape(-1, self.space.dimensions)
        mean, sd = (v.reshape(len(trials), len(LOWER_DOSES)) for v in model.predict(flat))
        advantage = mean - mean[:, :1] - sd
        advantage[:, 0] = 0.0
        return trials, points[np.arange(len(trials)), np.argmax(advantage, axis=1)]

    # -- how many electrons --------------------------------------------------------------------------------------

    def _best_dose(self, model: PictureModel, book: ObservationBook, trial: Array, final: Array) -> float:
        """Dose of the next trial, e/Å², that per electron most reduces the variance at `final` and at the best final point."""
        even = max(self.budget.even_dose(book), self.budget.smallest_dose)
        space = self.space.at(trial)
        besides = float(space.overheads.trial(trial[:1])[0])
        dose_max = min(self.budget.largest_dose(book), max(LARGEST_SHARE * even, float(trial[DOSE]) + besides))
        doses = space.legal_doses(float(trial[STEP]), dose_max=dose_max)
        pending = self.space.points(o.settings for o in book.in_state("pending"))
        known = model
        if len(pending):
            known = model.condition_on_pending(pending)
        options = np.repeat(trial[None], len(doses), axis=0)
        options[:, DOSE] = doses
        points = np.concatenate([[final, self._best_final(model, self.budget.final_electrons)], options])
        covariance = known.covariance(points)
        observed = np.diag(covariance)[2:] + model.noise.variance(doses)
        reduction = (covariance[:2, 2:] ** 2 / observed).sum(axis=0)
        return float(doses[np.argmax(reduction / (doses + besides))])

    def _price(self, model: PictureModel, book: ObservationBook, incumbent: Array, trial: Array) -> float:
        """By how much, bit/Å², the final picture gets worse if a trial (3,) takes its electrons."""
        left = self.budget.electrons - self.budget.spent(book) + self.budget.final_electrons
        after = left - float(self.space.charge(trial[None])[0]) * self.problem.trial_area
        points = np.repeat(incumbent[None], 2, axis=0)
        points[:, DOSE] = paid_doses(self.space, points, np.array([left, after]), self.problem.final_area)
        if not np.isfinite(points).all():
            return 0.0
        mean, _ = model.predict(points)
        return float(mean[0] - mean[1])

    def _with_dose(self, trial: Array, dose: float) -> Array:
        """`trial` (dimensions,) at the legal dose nearest to `dose`."""
        space, point = self.space.at(trial), trial.copy()
        doses = space.legal_doses(float(trial[STEP]))
        low, high = space.dose_interval(trial[:1])
        nearest = doses[np.argmin(np.abs(doses - dose))] if space.dose_is_discrete else dose
        point[DOSE] = np.clip(nearest, low[0], max(low[0], high[0]))
        return point
