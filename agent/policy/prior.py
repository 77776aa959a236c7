"""What is known of the score before the first electron: its mean and covariance over an ensemble of simulated columns.

The score is growth(D) · a · g(x), g over the settings x having the ensemble's mean and covariance, and a small stationary kernel
by which the data can overrule both. README.md, "The prior", has the equations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.policy.base import Observation, Problem
from agent.policy.coordinates import as_points
from agent.policy.ensemble import DOSES, SHIPPED, STEPS, Member, is_usable, lattice, read_members
from agent.policy.limits import DEFOCUS, DOSE, SEMIANGLE, STEP, Array
from agent.policy.score_model import SMALLEST_VARIANCE, DoseCurve, NoiseCurve, log_leave_one_out
from instrument import optics
from instrument.models import Description

COARSEST = 2.0
"""Finest step of an instrument over the ensemble's coarsest beyond which the ensemble says nothing: X-rays, light, cells."""
FORGOTTEN = 0.3
"""Part of the ensemble's covariance that an earlier campaign does not settle: another specimen, another day."""
EARLIER_SD = 0.4
"""Of ln a and ln D₀ after an earlier campaign: specimens differ."""
FEWEST_MEMBERS = 6
"""Columns below which there is no covariance to speak of."""
LENGTHS = np.array([0.7, 0.4, 3.0, 0.5])
"""Over which a member's values are smooth, and the data's own deviations alike: ln step, part of the window, ln dose; and the
deviations alone over the ln semi-angle, where that may be chosen."""
NUGGET = 0.02
"""Variance, relative to the kernel's, that a member's noise has at a point of the lattice."""
OWN_SD = (0.06, 0.15, 0.35, 0.7)
"""Standard deviations of the stationary kernel that are tried, relative to the mean."""
OWN_PRIOR = np.array([-0.5, 0.0, -0.5, -1.5])
"""ln of their prior probabilities, up to a constant."""
SMALLEST_SPREAD = 0.3
"""Of ln a and ln D₀ over the members, that is believed."""
TWINS_FOR_HALF = 2
"""Columns like this one that weigh as much as all others."""
TYPICAL_VARIANCE = 0.1
"""Variance of a score relative to its square, before any has been seen."""
SMALLEST_KNEE_SD = 0.3
"""Of ln D₀, where trials' own spectra say it."""
GRID, WIDEST = 9, 2.5
"""Values of a and D₀ each that are tried first, and within how many sd of their priors."""
MANY = 60
"""Trials from which fewer values are tried."""
SCALE_SD = 0.1
"""Of a beside the value found, relative."""
APERTURE_SD = 0.4
"""Of a with one aperture beside a with others, relative, where they may be chosen: README.md, "Apertures"."""


class Prior:
    """An ensemble seen from one instrument.

    Args:
        members: simulated columns.
        description: of the instrument, whose window scales the defocus.
        twins: columns that could have been measured as this one was; n of them weigh n / (n + TWINS_FOR_HALF) of all.

    Attributes:
        members: number of simulated columns that say anything.
        twins: likewise of those like this one.
        ln_scale: mean and standard deviation of ln a over the members.
        ln_knee: likewise of ln D₀, D₀ in e/Å².
        earlier: number of an earlier campaign's trials that taught it.
    """

    earlier = 0

    def __init__(self, members: Sequence[Member], description: Description, twins: Sequence[Member] = ()) -> None:
        usable, like = ([v for v in (np.array(m.values) for m in each) if is_usable(v)] for each in (members, twins))
        self.members, self.twins = len(usable), len(like)
        if self.members < FEWEST_MEMBERS:
            return
        self._semiangle = description.semiangle
        # the ensemble weighs 1 as a whole, and each column like this one the same, however many there are of the others
        weight = np.concatenate([np.full(len(usable), 1 / len(usable)), np.full(len(like), 1 / TWINS_FOR_HALF)])
        weight /= weight.sum()
        usable += like
        self._part = 1 / optics.largest_defocus(
            description.semiangle, description.detector.angular_pixel, description.voltage
        )
        knees = np.array([_knee(v) for v in usable])
        growth = np.log2(1 + np.array(DOSES) / knees[:, None])
        gains = np.stack(usable) / growth[:, None, None, :]
        scales = gains.mean(axis=(1, 2, 3))
        shapes = (gains / scales[:, None, None, None]).reshape(len(usable), -1)
        self.mean = weight @ shapes
        self.root = np.sqrt(weight / (1 - weight @ weight))[:, None] * (shapes - self.mean)
        self.ln_scale, self.ln_knee = (_mean_and_sd(np.log(each), weight) for each in (scales, knees))
        points = lattice()
        self._low, self._high = points.min(axis=0), points.max(axis=0)
        self._lattice = points
        within = _kernel(points, points) + NUGGET * np.eye(len(points))
        self._inverse = np.linalg.inv(within)
        self._constant = self._inverse.sum(axis=0) / self._inverse.sum()

    def coordinates(self, points: Array, defocus_offset: float = 0.0) -> Array:
        """Settings in the ensemble's coordinates.

        Args:
            points: (n, 3) step Å, defocus Å, dose e/Å², or (n, 4) with the semi-angle, mrad.
            defocus_offset: true less nominal defocus, Å, as measured.

        Returns:
            (n, 3) ln step, part of the window, ln dose; (n, 4) with the ln semi-angle over the present one.
        """
        part = (points[:, DEFOCUS] + defocus_offset) * self._part
        known = [np.log(points[:, STEP]), part, np.log(points[:, DOSE])]
        if points.shape[1] > SEMIANGLE:
            wider = points[:, SEMIANGLE] / self._semiangle
            known = [known[0], part * wider, known[2], np.log(wider)]
        return np.stack(known, axis=1)

    def weights(self, u: Array) -> Array:
        """(n, m) by which the values at the m points of the lattice make those at points u (n, 3 or 4), held within it: kriging.

        Columns of the ensemble differ in their apertures, and what they share is in parts of the window: so is the prior.
        """
        cross = _kernel(np.clip(u[:, :SEMIANGLE], self._low, self._high), self._lattice)
        smooth = cross @ self._inverse
        weights: Array = smooth + (1 - smooth.sum(axis=1, keepdims=True)) * self._constant
        return weights

    def settings_of_lattice(self, defocus_offset: float) -> Array:
        """(m, 3) the points of the lattice as step Å, defocus Å, dose e/Å².

        Args:
            defocus_offset: true less nominal defocus, Å.
        """
        u = self._lattice
        return np.stack([np.exp(u[:, STEP]), u[:, DEFOCUS] / self._part - defocus_offset, np.exp(u[:, DOSE])], axis=1)

    def taught(self, trials: Sequence[Observation]) -> Prior:
        """What is left to know of the same column after an earlier campaign.

        Args:
            trials: of that campaign, scored ones.
        """
        chosen = any(o.settings.semiangle is not None for o in trials)
        points = as_points((o.settings for o in trials), self._semiangle if chosen else None)
        scores, variances = np.array([o.score for o in trials]), np.array([o.variance for o in trials])
        knees = np.array([o.knee for o in trials if o.knee is not None], dtype=np.float64)
        measured = [o.defocus_measured - o.settings.defocus for o in trials if o.defocus_measured is not None]
        offset = float(np.median(measured)) if measured else 0.0
        model = EnsembleModel.fit(self, points, scores, variances, knees, offset)
        lattice_points = self.settings_of_lattice(offset)
        if chosen:
            lattice_points = np.column_stack([lattice_points, np.full(len(lattice_points), self._semiangle)])
        scale = model.curve.gain * model.curve.growth(lattice_points[:, DOSE])
        mean, _ = model.predict(lattice_points)
        covariance = model.covariance(lattice_points) / scale[:, None] / scale
        kept = (1 - FORGOTTEN) * covariance + FORGOTTEN * self.root.T @ self.root
        values, vectors = np.linalg.eigh(kept)
        other = copy(self)
        other.mean, other.earlier = mean / scale, len(trials)
        other.root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        other.ln_scale = math.log(model.curve.gain), EARLIER_SD
        other.ln_knee = math.log(model.curve.knee), EARLIER_SD
        return other


def load_prior(problem: Problem, twins: Sequence[Member] = ()) -> Prior | None:
    """The prior that the campaign names; None: it wants none, there are too few columns, or steps are far coarser than theirs.

    Args:
        problem: the campaign's.
        twins: see Prior.

    Raises:
        BadInputError: the file cannot be read.
    """
    named = problem.config.prior
    if named == "none" or (named == "zoo" and not SHIPPED.exists()):
        return None
    if problem.description.step.bounds[0] > COARSEST * STEPS[-1]:
        return None
    prior = Prior(read_members(SHIPPED if named == "zoo" else Path(named)), problem.description, twins)
    return prior if prior.members >= FEWEST_MEMBERS else None


def _mean_and_sd(values: Array, weight: Array) -> tuple[float, float]:
    mean = float(weight @ values)
    return mean, max(math.sqrt(float(weight @ (values - mean) ** 2)), SMALLEST_SPREAD)


def _knee(values: Array) -> float:
    """D₀ that a member's mean growth from the lower to the higher dose shows."""
    low, high = (max(float(values[..., i].mean()), 1e-3) for i in (0, 1))
    knees = np.geomspace(1.0, 1e6, 400)
    ratio = np.log2(1 + DOSES[1] / knees) / np.log2(1 + DOSES[0] / knees)
    return float(knees[np.argmin(np.abs(ratio - high / low))])


def _kernel(a: Array, b: Array) -> Array:
    square = (((a[:, None] - b[None]) / LENGTHS[: a.shape[1]]) ** 2).sum(axis=-1)
    kernel: Array = np.exp(-0.5 * square)
    return kernel


def _scale_covariance(a: Array, b: Array) -> float | Array:
    """Relative covariance of a at settings with apertures: near ones are alike. One number where there is no choice."""
    if a.shape[1] <= SEMIANGLE:
        return SCALE_SD**2
    apart = (a[:, None, SEMIANGLE] - b[None, :, SEMIANGLE]) / LENGTHS[SEMIANGLE]
    covariance: Array = SCALE_SD**2 + APERTURE_SD**2 * np.exp(-0.5 * apart**2)
    return covariance


@dataclass(frozen=True)
class EnsembleModel:
    """A PictureModel: the prior and what the trials say.

    Attributes:
        prior: of the campaign.
        curve: score against dose; its gain is a.
        own_sd: of the stationary kernel, relative to the mean.
        noise: variance of a score against dose.
        points: (n, 3) trials; n may be 0.
        score: (n,) bit/Å².
        variance: (n,) of the scores.
        defocus_offset: true less nominal, Å.
    """

    prior: Prior
    curve: DoseCurve
    own_sd: float
    noise: NoiseCurve
    points: Array
    score: Array
    variance: Array
    defocus_offset: float

    @classmethod
    def fit(
        cls, prior: Prior, points: Array, score: Array, variance: Array, knees: Array, defocus_offset: float = 0.0
    ) -> EnsembleModel:
        """The most probable a, D₀ and own_sd on a grid: never fails, also without trials.

        Args:
            prior: with at least FEWEST_MEMBERS members.
            points: (n, 3) step Å, defocus Å, dose e/Å².
            score: (n,) bit/Å².
            variance: (n,) of the scores.
            knees: (m,) e/Å², what the spectra of single trials say; may be empty.
            defocus_offset: true less nominal defocus, Å, as measured.
        """
        knee = prior.ln_knee if not len(knees) else (float(np.log(knees).mean()), SMALLEST_KNEE_SD)
        start = DoseCurve(math.exp(knee[0]), math.exp(prior.ln_scale[0]), 0.0)
        if not len(points):
            typical = TYPICAL_VARIANCE * (start.gain * float(start.growth(np.array([DOSES[0]]))[0])) ** 2
            return cls(prior, start, OWN_SD[1], NoiseCurve(math.log(typical), 0.0), points, score, variance, 0.0)
        variance = np.maximum(variance, SMALLEST_VARIANCE * max(float(np.max(score**2)), 1e-12))
        noise = NoiseCurve.fit(points[:, DOSE], variance)
        chosen = cls(prior, start, OWN_SD[0], noise, points, score, variance, defocus_offset)
        shapes = chosen._shapes(points)

        def at(own: int, p: float, q: float) -> tuple[float, EnsembleModel]:
            curve = DoseCurve(math.exp(knee[0] + q * knee[1]), math.exp(prior.ln_scale[0] + p * prior.ln_scale[1]), 0.0)
            model = replace(chosen, curve=curve, own_sd=OWN_SD[own])
            return model._log_likelihood(shapes) - 0.5 * (p**2 + q**2) + OWN_PRIOR[own], model

        many = len(points) > MANY
        places = np.linspace(-WIDEST, WIDEST, 5 if many else GRID)
        near = np.linspace(-1, 1, 3 if many else 5) * (places[1] - places[0]) * 0.6
        coarse = max((at(own, p, q)[0], own, p, q) for own in range(len(OWN_SD)) for p in places for q in places)
        _, own, p, q = coarse
        fine = [at(own, p + dp, q + dq) for dp in near for dq in near]
        return max(fine, key=lambda each: each[0])[1]

    def predict(self, points: Array) -> tuple[Array, Array]:
        """See PictureModel."""
        mean, variance = self._prior_alone(points)
        if len(self.points):
            cross, solved, residual = self._conditioned(points)
            mean = mean + cross @ residual
            variance = variance - (cross * solved).sum(axis=1)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def covariance(self, points: Array) -> Array:
        """See PictureModel."""
        _, covariance = self._prior_at(points)
        if not len(self.points):
            return covariance
        cross, solved, _ = self._conditioned(points)
        left: Array = covariance - cross @ solved.T
        return left

    def condition_on_pending(self, points: Array) -> EnsembleModel:
        """See PictureModel."""
        mean, _ = self.predict(points)
        return replace(
            self,
            points=np.concatenate([self.points, points]),
            score=np.concatenate([self.score, mean]),
            variance=np.concatenate([self.variance, self.noise.variance(points[:, DOSE])]),
        )

    def data_share(self, points: Array) -> Array:
        """See PictureModel."""
        _, before = self._prior_alone(points)
        _, sd = self.predict(points)
        share: Array = np.clip(1 - sd**2 / before, 0, 1)
        return share

    def leave_one_out(self) -> float:
        """Σ ln p(scoreᵢ | the others), with the hyperparameters of all."""
        mean, covariance = self._prior_at(self.points)
        return log_leave_one_out(self.score - mean, covariance + np.diag(self.variance))

    def _log_likelihood(self, shapes: tuple[Array, Array, Array]) -> float:
        """Of the trials, with `shapes` of them, which are the same for all a, D₀ and own_sd."""
        from scipy.linalg import solve_triangular

        mean, covariance = self._scaled(shapes, self.points, self.points)
        factor = np.linalg.cholesky(covariance + np.diag(self.variance))
        whitened = solve_triangular(factor, self.score - mean, lower=True, check_finite=False)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())

    def _prior_alone(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance, each (n,), of the score before the first trial."""
        scale = self.curve.gain * self.curve.growth(points[:, DOSE])
        weights = self.prior.weights(self.prior.coordinates(points, self.defocus_offset))
        mean = np.maximum(weights @ self.prior.mean, 0.0)
        scale_variance = SCALE_SD**2 + (APERTURE_SD**2 if points.shape[1] > SEMIANGLE else 0.0)
        spread = ((weights @ self.prior.root.T) ** 2).sum(axis=1) + self.own_sd**2 + scale_variance * mean**2
        return scale * mean, scale**2 * spread

    def _prior_at(self, points: Array, others: Array | None = None) -> tuple[Array, Array]:
        """Mean (n,) of the score, and covariance (n, k) with other points, or (n, n) with themselves."""
        return self._scaled(self._shapes(points, others), points, points if others is None else others)

    def _shapes(self, points: Array, others: Array | None = None) -> tuple[Array, Array, Array]:
        """Of g: mean (n,), covariance without the stationary kernel, and that kernel for own_sd 1, each (n, k)."""
        u = self.prior.coordinates(points, self.defocus_offset)
        v = u if others is None else self.prior.coordinates(others, self.defocus_offset)
        weights = self.prior.weights(u)
        other_weights = weights if others is None else self.prior.weights(v)
        mean, other_mean = (np.maximum(w @ self.prior.mean, 0.0) for w in (weights, other_weights))
        shape = (weights @ self.prior.root.T) @ (other_weights @ self.prior.root.T).T
        return mean, shape + _scale_covariance(u, v) * np.outer(mean, other_mean), _kernel(u, v)

    def _scaled(self, shapes: tuple[Array, Array, Array], points: Array, others: Array) -> tuple[Array, Array]:
        """Mean and covariance of the score from those of g."""
        mean, shape, kernel = shapes
        scale, other_scale = (self.curve.gain * self.curve.growth(p[:, DOSE]) for p in (points, others))
        return scale * mean, scale[:, None] * (shape + self.own_sd**2 * kernel) * other_scale

    def _conditioned(self, points: Array) -> tuple[Array, Array, Array]:
        """Covariance (m, n) of points with the trials, the same times the inverse (m, n), and the inverse times the residual."""
        mean, covariance = self._prior_at(self.points)
        total = covariance + np.diag(self.variance)
        _, cross = self._prior_at(points, self.points)
        solved = np.asarray(np.linalg.solve(total, cross.T).T, dtype=np.float64)
        weighted = np.asarray(np.linalg.solve(total, self.score - mean), dtype=np.float64)
        return cross, solved, weighted
