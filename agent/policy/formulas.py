"""The field's rules for step and defocus without looking at the data, and the seed paper's optimiser: fair baselines."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from agent.policy.base import Problem
from agent.policy.baselines import Baseline
from agent.policy.book import ObservationBook
from agent.policy.coordinates import as_settings
from agent.policy.final import paid_doses, refuse_unaffordable
from agent.policy.limits import DEFOCUS, SEMIANGLE, STEP, Array, probe_diameter
from agent.records import Recommendation, Settings
from instrument import optics
from instrument.models import Description

NCEM_WINDOW, NCEM_STEP = 1 / 3, 0.15
"""Parts: of the window 1/Δk that the probe disc fills, and of the disc that is a step (TEM Agent, arXiv 2511.08819)."""
ENCLOSED = math.sqrt(0.9)
"""Radius that holds 90 % of an even disc, relative to the disc's."""
FAILING = ((0.490, 1.829), (-0.2317, 0.9728), (0.564, 0.0777))
SUCCEEDING = ((0.810, 2.002), (-0.2699, 0.9629), (0.411, 0.0662))
"""Reconstructions that failed and succeeded in log10 of Ronchigram magnification, px/Å, and areal oversampling: mean, first
principal axis, and variances along it and across (Gilgenbach, Chen and LeBeau, arXiv 2311.15181; the values are phaser's)."""
CANDIDATES = 2048


class FormulaPolicy(Baseline):
    """Keeps to the step and defocus of a formula, whatever the data say; a subclass states it in `formula`.

    Where apertures may be chosen it keeps to one: the present one, or that which the formula finds best.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        """See Baseline."""
        super().__init__(problem, seed)
        own = Settings(step=1.0, defocus=0.0, dose=1.0)
        self.own = self.space.at(self.space.points([own])[0])

    @abstractmethod
    def formula(self) -> tuple[float, float, str]:
        """Step Å, defocus Å and the reason; the nearest legal settings are taken."""

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        step, defocus, reason = self.formula()
        low, high = self.dose_range(book)
        dose = float(np.exp(np.random.default_rng([self.seed, book.next_number]).uniform(np.log(low), np.log(high))))
        largest = max(self.budget.largest_dose(book), self.budget.smallest_dose)
        return self.nearest(step, defocus, dose, min(largest, max(high, dose))), reason

    def nearest(self, step: float, defocus: float, dose: float, dose_max: float = math.inf) -> Array:
        """The legal trial (dimensions,) that is nearest, with the aperture that it keeps to; Å, Å, e/Å²."""
        angle = [self.own.description.semiangle] * (self.space.dimensions - SEMIANGLE)
        return self.space.nearest(np.array([step, defocus, dose, *angle]), dose_max=dose_max)

    def recommend(self, electrons_left: float) -> Recommendation:
        """See Policy: what the formula says. Goal cheapest: as the trials turned out."""
        if self.problem.config.goal.kind == "cheapest":
            return super().recommend(electrons_left)
        refuse_unaffordable(self.space, self.problem, electrons_left)
        step, defocus, reason = self.formula()
        dose = electrons_left / self.problem.final_area
        point = self.nearest(step, defocus, dose)
        affordable = float(paid_doses(self.space, point[None], electrons_left, self.problem.final_area)[0])
        if not math.isfinite(affordable):
            return super().recommend(electrons_left)
        settings = as_settings(point).model_copy(update={"dose": affordable})
        return Recommendation(settings=settings, reason=reason)


class NcemPolicy(FormulaPolicy):
    """The probe disc fills a third of the window 1/Δk, and a step is 15 % of the disc."""

    name = "ncem"

    def formula(self) -> tuple[float, float, str]:
        """See FormulaPolicy."""
        beam = self.own.description
        whole = optics.largest_defocus(beam.semiangle, beam.detector.angular_pixel, beam.voltage)
        defocus = min(NCEM_WINDOW * whole, self.space.axes[DEFOCUS].high)
        disc = optics.probe_diameter(beam.semiangle, defocus, beam.voltage)
        return NCEM_STEP * disc, defocus, "NCEM rule: the disc a third of the window, a step of 15 % of the disc"


class PhaserPolicy(FormulaPolicy):
    """The settings with the highest probability of success by phaser's empirical predictor."""

    name = "phaser"

    def __init__(self, problem: Problem, seed: int) -> None:
        """See Baseline."""
        super().__init__(problem, seed)
        trials = self.space.draw(np.random.default_rng(0).random((CANDIDATES, self.space.dimensions)))
        trials = trials if len(trials) else self.space.lowest_dose_trial[None]
        odds = np.zeros(len(trials))
        for part, inside in self.space.split(trials):
            odds[inside] = self.log_odds(trials[inside], part.description)
        self._best = trials[int(np.argmax(odds))]
        self.own = self.space.at(self._best)

    def formula(self) -> tuple[float, float, str]:
        """See FormulaPolicy."""
        step, defocus = float(self._best[STEP]), float(self._best[DEFOCUS])
        odds = float(self.log_odds(self._best[None], self.own.description)[0])
        return step, defocus, f"phaser's predictor: success with a probability of {1 / (1 + math.exp(-odds)):.2f}"

    def log_odds(self, points: Array, beam: Description | None = None) -> Array:
        """ln of success over failure.

        Args:
            points: (n, 3) step Å, defocus Å, dose e/Å².
            beam: with the aperture of these points; None: that of `own`.

        Returns:
            (n,).
        """
        beam = beam or self.own.description
        radius = ENCLOSED * probe_diameter(beam, points[:, DEFOCUS]) / 2
        magnification = beam.semiangle / beam.detector.angular_pixel / radius
        oversampling = math.pi * radius**2 / points[:, STEP] ** 2
        x = np.log10(np.stack([magnification, oversampling], axis=1))
        return _log_density(x, SUCCEEDING) - _log_density(x, FAILING)


class GridPolicy(Baseline):
    """Trials on a raster over step and defocus, as many along each as the number of trials allows."""

    name = "grid"

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        low, high = self.dose_range(book)
        trials = self.problem.config.exploration.trials
        columns = max(math.isqrt(trials), 1)
        rows = math.ceil(trials / columns)
        number = len(book.exploration) % (rows * columns)
        turn, apertures = number + number // columns, len(self.space.parts)
        place = [(number // columns + 0.5) / rows, (number % columns + 0.5) / columns, 0.5]
        cube = np.array([[*place, (turn % apertures + 0.5) / apertures][: self.space.dimensions]])
        points = self.space.draw(cube, dose_min=low, dose_max=high)
        point = points[0] if len(points) else self.space.lowest_dose_trial
        return point, f"cell {number + 1} of {rows} × {columns} over the legal settings"


class SeedPolicy(Baseline):
    """The seed paper's optimiser: 20 random trials, then expected improvement of a Gaussian process over step and defocus.

    Cao et al., Sci. Rep. 12, 12284 (2022). Its electrons are not free here: all trials get the same dose.
    """

    name = "seed"
    starts: ClassVar[int] = 20

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        known = book.scored_trials
        if len(book.exploration) < self.starts or len(known) < 2:
            return self.draw_one(book), f"random start {len(book.exploration) + 1} of {self.starts}"
        low, high = self.dose_range(book)
        seed = int(np.random.default_rng([self.seed, book.next_number]).integers(2**31))
        cube = np.random.default_rng(seed).random((1024, self.space.dimensions))
        candidates = self.space.draw(cube, dose_min=low, dose_max=high)
        if not len(candidates):
            return self.space.lowest_dose_trial, "the legal trial with the smallest dose"
        value = self._improvement(
            self.space.points(o.settings for o in known), [o.score or 0.0 for o in known], candidates, seed
        )
        if value is None:
            return candidates[0], "drawn at random: the model could not be fitted"
        return candidates[int(np.argmax(value))], "largest expected improvement"

    def _improvement(self, points: Array, scores: list[float], candidates: Array, seed: int) -> Array | None:
        """ln expected improvement of (m, 3) candidates over the best of n scores; None where nothing can be fitted."""
        import torch
        from botorch.acquisition import LogExpectedImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        from agent.policy.score_model import FIT_FAILURES, deterministic_torch

        with deterministic_torch(seed):
            x = torch.as_tensor(self.space.normalize(points))
            y = torch.as_tensor(scores, dtype=torch.double)[:, None]
            gp = SingleTaskGP(x, y)
            try:
                fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
            except FIT_FAILURES:
                return None
            best = gp.posterior(x).mean.max()
            with torch.no_grad():
                acquisition = LogExpectedImprovement(gp, best_f=best)
                value: Array = acquisition(torch.as_tensor(self.space.normalize(candidates))[:, None]).numpy()
        return value


class SeedFewStartsPolicy(SeedPolicy):
    """The same with 4 random starts, which a small budget leaves something to choose."""

    name = "seed-4"
    starts = 4


def _log_density(x: Array, normal: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]) -> Array:
    """(n,) ln density, up to a constant, of points (n, 2) under a normal distribution given by mean, axis and variances."""
    mean, axis, variances = (np.array(part) for part in normal)
    along = (x - mean) @ axis
    across = (x - mean) @ np.array([axis[1], -axis[0]])
    density: Array = -0.5 * (along**2 / variances[0] + across**2 / variances[1] + np.log(variances).sum())
    return density
