"""Goal best_picture: the highest score of the final acquisition with the electrons that will be left.

Dose is a fidelity: what counts is the score at the dose of the *final* acquisition, which every trial, at whatever dose,
helps to predict through the model. Where to try next and how many electrons to pay for it are decided one after the other:

1. step and defocus by `qLogNoisyExpectedImprovement` (Ament et al. 2023) of the final score, given the trials under way;
2. the dose that most lowers the variance of the predicted final score, there and at the present recommendation, per
   electron. Known noise makes low doses tell nothing and the growing certainty makes high ones tell little more, so
   the ratio has a maximum in between; electrons not spent here go into the final picture.

The two dimensions are searched over a Sobol set of legal candidates, refined around the best: exact for discrete settings
and coupled limits, and at this size as good as a gradient search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.sampling import SobolQMCNormalSampler

from agent.errors import BadInputError
from agent.policy.base import Problem
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.final import final_dose, refuse_unaffordable
from agent.policy.limits import Array
from agent.policy.proposal import (
    Proposal,
    Rejected,
    best_distinct,
    candidates,
    step_defocus_view,
    step_dose_view,
    without_failed,
)
from agent.policy.score_model import ScoreModel
from agent.policy.space import SearchSpace, as_points, as_settings
from agent.records import ModelView, Recommendation

CANDIDATES = 512
REFINEMENTS = (0.04, 0.01)
"""Spread, in model coordinates, of the candidates around the best ones, round by round."""
REFINED = 3
"""How many of the best candidates are refined, each with as many new ones as NEIGHBOURS."""
NEIGHBOURS = 48
MC_SAMPLES = 128
LOWER_DOSES = np.geomspace(1.0, 1 / 16, 7)
"""Doses, relative to what the electrons buy, at which the final acquisition may be better than there (damage)."""
LARGEST_SHARE = 2.0
"""No trial gets more than this multiple of the even share, lest nothing be left for what later trials find out."""

Projection = Callable[[Array], tuple[Array, Array]]
"""From trials to those that are legal as final acquisition, and themselves as such."""


class BestPicture:
    """See the module. `problem`, `space` and `budget` belong to one campaign.

    Raises BadInputError where the electrons that exploration leaves pay for no legal final acquisition.
    """

    def __init__(self, problem: Problem, space: SearchSpace, budget: ExplorationBudget) -> None:
        self.problem, self.space, self.budget = problem, space, budget
        refuse_unaffordable(space, problem, budget.final_electrons)

    def propose(self, model: ScoreModel, book: ObservationBook, seed: int) -> Proposal | str:
        """See ModelGoal. Predictions in the reason are those of the final acquisition."""
        dose_max = self.budget.largest_dose(book)
        trials = candidates(self.space, seed, CANDIDATES, dose_max=dose_max)

        def project(points: Array) -> tuple[Array, Array]:
            return self._finals(model, self.budget.final_electrons, without_failed(self.space, points, book))

        trials, finals, value = self._search(trials, project, self._acquisition(model, book, seed), seed)
        if len(trials) == 0:
            return "no new settings are legal for both a trial that can be paid and the final acquisition"
        best, *others = best_distinct(self.space, finals, value, 2)
        point = self._with_dose(trials[best], self._best_dose(model, book, trials[best], finals[best]))
        mean, sd = model.predict(self.space.to_unit(finals), finals[:, 2])
        unit = self.problem.description.dose_unit

        def expectation(i: int) -> str:
            return (
                f"expected to improve the final picture by {np.exp(value[i]):.2g} bit/Å² "
                f"(predicted {mean[i]:.3g} ± {sd[i]:.2g} there, at {finals[i, 2]:.3g} {unit})"
            )

        return Proposal(
            point,
            f"{expectation(best)}; {point[2]:.3g} {unit} tell most about it per electron",
            tuple(
                Rejected(self._with_dose(trials[i], point[2]), f"{expectation(i)}, less than chosen") for i in others
            ),
        )

    def recommend(self, model: ScoreModel, electrons_left: float) -> Recommendation:
        """The highest posterior mean over all legal settings.

        The mean, not mean − sd: the score itself is what the user gets, so a neutral expectation serves best. (On synthetic
        landscapes mean − sd/2 and mean − sd did slightly worse.)
        """
        refuse_unaffordable(self.space, self.problem, electrons_left)
        best = self._best_final(model, electrons_left)
        mean, sd = (float(v[0]) for v in model.predict(self.space.to_unit(best[None]), best[None, 2]))
        unit = self.problem.description.dose_unit
        bought = electrons_left / self.problem.final_area
        reason = f"highest predicted score of all legal settings, {mean:.4g} ± {sd:.2g} bit/Å² at {best[2]:.4g} {unit}"
        if best[2] < bought * (1 - 1e-6):
            saturated = np.isclose(best[2], final_dose(self.space, best[:1], bought)[0])
            why = "more would exceed what a pattern may hold" if saturated else "more is predicted to damage"
            reason += f"; the electrons left would buy {bought:.4g}, but {why}"
        return Recommendation(settings=as_settings(best), predicted=mean, predicted_sd=sd, reason=reason)

    def view(self, model: ScoreModel, electrons_left: float) -> ModelView:
        """Step × defocus at the final dose; step × dose where defocus is fixed."""
        dose = electrons_left / self.problem.final_area
        if "defocus" in self.space.variables:
            return step_defocus_view(model, self.space, dose)
        return step_dose_view(model, self.space, self.space.axes[1].low, dose)

    # -- where ---------------------------------------------------------------------------------------------------

    def _acquisition(self, model: ScoreModel, book: ObservationBook, seed: int) -> Callable[[Array], Array]:
        """log expected improvement, bit/Å², of final points (n, 3)."""
        scored, under_way = (as_points(o.settings for o in some) for some in (book.scored, book.in_state("pending")))
        _, known = self._finals(model, self.budget.final_electrons, scored)
        _, pending = self._finals(model, self.budget.final_electrons, under_way)

        def score(samples: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
            shape = torch.as_tensor(model.curve.shape(self.space.dose_of(X.numpy())))
            return shape * (model.curve.gain + model.curve.spread * samples[..., 0])

        acquisition = qLogNoisyExpectedImprovement(
            model.gp,
            X_baseline=torch.as_tensor(self.space.to_unit(known if len(known) else scored)),
            sampler=SobolQMCNormalSampler(torch.Size([MC_SAMPLES]), seed=seed),
            objective=GenericMCObjective(score),
            X_pending=torch.as_tensor(self.space.to_unit(pending)) if len(pending) else None,
        )

        def value(finals: Array) -> Array:
            with torch.no_grad():
                return acquisition(torch.as_tensor(self.space.to_unit(finals))[:, None]).numpy()

        return value

    def _best_final(self, model: ScoreModel, electrons: float) -> Array:
        """Final point (3,) with the highest predicted score; the same for the same model."""

        def mean(finals: Array) -> Array:
            return model.predict(self.space.to_unit(finals), finals[:, 2])[0]

        trials = candidates(self.space, 0, 2 * CANDIDATES)
        _, finals, value = self._search(trials, partial(self._finals, model, electrons), mean, 0)
        if len(finals) == 0:
            msg = f"no settings of a trial are legal for a final acquisition with {electrons:.4g} electrons"
            raise BadInputError(msg)
        return finals[np.argmax(value)]

    def _search(
        self, trials: Array, project: Projection, evaluate: Callable[[Array], Array], seed: int
    ) -> tuple[Array, Array, Array]:
        """Trials (n, 3) that have a final, refined around the best ones; their finals (n, 3) and values (n,)."""
        generator = np.random.default_rng([seed, 1])
        dose_max = trials[:, 2].max(initial=0.0)
        trials, finals = project(trials)
        if len(trials) == 0:
            return trials, finals, np.zeros(0)
        value = evaluate(finals)
        for spread in REFINEMENTS:
            near, near_finals = project(self._around(trials[np.argsort(-value)[:REFINED]], spread, generator, dose_max))
            if len(near):
                trials, finals = np.concatenate([trials, near]), np.concatenate([finals, near_finals])
                value = np.concatenate([value, evaluate(near_finals)])
        return trials, finals, value

    def _around(self, centres: Array, spread: float, generator: np.random.Generator, dose_max: float) -> Array:
        """Legal trials (n, 3) near `centres` (m, 3) in step and defocus."""
        step, defocus, _ = self.space.axes
        points = np.repeat(centres, NEIGHBOURS, axis=0)
        if step.values is None and not step.fixed:
            points[:, 0] *= (step.high / step.low) ** generator.normal(0, spread, len(points))
        if defocus.values is None and not defocus.fixed:
            points[:, 1] += (defocus.high - defocus.low) * generator.normal(0, spread, len(points))
        low, high = self.space.dose_interval(points[:, 0])
        points[:, 2] = np.maximum(np.minimum(points[:, 2], np.minimum(high, dose_max)), low)
        return points[self.space.is_legal(points) & (points[:, 2] <= dose_max)]

    def _finals(self, model: ScoreModel, electrons: float, trials: Array) -> tuple[Array, Array]:
        """Those of `trials` (n, 3) that are legal as final acquisition, and themselves with its dose, each (m, 3).

        The dose is what `electrons` buy over the area, or a lower one whose predicted score is higher by more than its sd.
        """
        bought = final_dose(self.space, trials[:, 0], electrons / self.problem.final_area)
        trials, bought = trials[np.isfinite(bought)], bought[np.isfinite(bought)]
        points = np.repeat(trials[:, None], len(LOWER_DOSES), axis=1)
        lower = [final_dose(self.space, trials[:, 0], bought * part) for part in LOWER_DOSES]
        points[..., 2] = np.where(np.isfinite(lower), lower, bought).T
        flat = points.reshape(-1, 3)
        mean, sd = (
            v.reshape(len(trials), len(LOWER_DOSES)) for v in model.predict(self.space.to_unit(flat), flat[:, 2])
        )
        advantage = mean - mean[:, :1] - sd
        advantage[:, 0] = 0.0
        return trials, points[np.arange(len(trials)), np.argmax(advantage, axis=1)]

    # -- how many electrons --------------------------------------------------------------------------------------

    def _best_dose(self, model: ScoreModel, book: ObservationBook, trial: Array, final: Array) -> float:
        """Dose of the next trial, e/Å²: the largest reduction of variance at `final` and at the recommendation per electron."""
        even = max(self.budget.even_dose(book), self.budget.smallest_dose)
        dose_max = min(self.budget.largest_dose(book), max(LARGEST_SHARE * even, float(trial[2])))
        doses = self.space.legal_doses(float(trial[0]), dose_max=dose_max)
        pending = as_points(o.settings for o in book.in_state("pending"))
        known = model.given(self.space.to_unit(pending), pending[:, 2]) if len(pending) else model
        tried = np.stack([np.full(len(doses), trial[0]), np.full(len(doses), trial[1]), doses], axis=1)
        points = np.concatenate([[final, self._best_final(model, self.budget.final_electrons)], tried])
        covariance = known.covariance(self.space.to_unit(points), points[:, 2])
        observed = np.diag(covariance)[2:] + model.noise.variance(doses)
        reduction = (covariance[:2, 2:] ** 2 / observed).sum(axis=0)
        return float(doses[np.argmax(reduction / doses)])

    def _with_dose(self, trial: Array, dose: float) -> Array:
        """`trial` at the legal dose nearest to `dose`."""
        doses = self.space.legal_doses(float(trial[0]))
        low, high = self.space.dose_interval(trial[:1])
        nearest = doses[np.argmin(np.abs(doses - dose))] if self.space.axes[2].values is not None else dose
        return np.array([trial[0], trial[1], np.clip(nearest, low[0], max(low[0], high[0]))])
