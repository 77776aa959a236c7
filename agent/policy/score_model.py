"""The model of the score: a curve for dose times a Gaussian process for settings, and the noise of a score.

The equations and priors are in README.md, "The model".
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from botorch.exceptions import InputDataWarning, ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning

from agent.policy.coordinates import ModelCoordinates
from agent.policy.limits import DOSE, Array

FIT_FAILURES = (ModelFittingError, NanError, NotPSDError, RuntimeError, ValueError, np.linalg.LinAlgError)
"""What a fit that did not work raises; torch's own linear algebra raises a RuntimeError."""
JITTER = 1e-8
"""Added to the variance of each trial in the units of the process, so that identical points do no harm."""
SMALLEST_VARIANCE = 1e-8
"""Of a score relative to the largest score squared: keeps the covariance matrix invertible."""
SMALLEST_RELATIVE_SD = 0.02
"""Of the gain between settings, relative to its mean: keeps a model of few equal scores from being certain."""
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class DoseCurve:
    """How the score grows with dose: score = (gain ± gain_sd) · log2(1 + dose/knee) over all settings.

    Attributes:
        knee: D₀, e/Å².
        gain: mean over the settings, bit/Å².
        gain_sd: standard deviation over the settings, bit/Å².
    """

    knee: float
    gain: float
    gain_sd: float

    def growth(self, dose: Array) -> Array:
        """log2(1 + dose/knee), (n,), at doses (n,), e/Å²."""
        return np.log2(1 + dose / self.knee)

    @classmethod
    def fit(cls, dose: Array, score: Array, variance: Array, knees: Array) -> DoseCurve:
        """Most probable curve under the priors of README.md, on a grid of knee and gain_sd/gain: never fails.

        Args:
            dose: (n,) e/Å².
            score: (n,) bit/Å².
            variance: (n,) of the scores, (bit/Å²)², positive.
            knees: (m,) e/Å², what the spectra of single trials say (agent.scoring.ring_correlation.dose_knee); may be empty.

        Returns:
            The curve of the highest posterior probability.
        """
        centre = float(np.mean(np.log(knees if len(knees) else dose)))
        width = 0.3 if len(knees) else 1.5
        ln_knee = centre + width / 1.5 * np.linspace(-5.0, 4.0, 46)[:, None, None]
        relative_sd = np.geomspace(SMALLEST_RELATIVE_SD, 1.5, 16)[None, :, None]
        growth = np.log2(1 + dose / np.exp(ln_knee))
        gain = np.maximum(score.mean() / growth.mean(axis=-1, keepdims=True), 1e-9)
        for _ in range(8):
            weight = 1 / (variance + (relative_sd * gain * growth) ** 2)
            estimate = (weight * score * growth).sum(-1, keepdims=True) / (weight * growth**2).sum(-1, keepdims=True)
            gain = np.maximum(estimate, 1e-9)
        total = variance + (relative_sd * gain * growth) ** 2
        log_posterior = (
            -0.5 * (np.log(total) + (score - gain * growth) ** 2 / total).sum(-1)
            - 0.5 * ((ln_knee[..., 0] - centre) / width) ** 2
            - 0.5 * (np.log(relative_sd[..., 0] / 0.5) / 0.7) ** 2
        )
        i, j = np.unravel_index(np.argmax(log_posterior), log_posterior.shape)
        best = float(gain[i, j, 0])
        return cls(float(np.exp(ln_knee[i, 0, 0])), best, best * float(relative_sd[0, j, 0]))


@dataclass(frozen=True)
class NoiseCurve:
    """Variance of a score, exp(intercept + slope · ln dose), for doses not tried yet."""

    intercept: float
    slope: float

    @classmethod
    def fit(cls, dose: Array, variance: Array) -> NoiseCurve:
        """Least squares in ln variance. A prior of sd 0.5 draws the slope to 0, which holds for Fisher's z.

        Args:
            dose: (n,) e/Å².
            variance: (n,) of the scores, (bit/Å²)², positive.
        """
        x, y = np.log(dose), np.log(variance)
        centred = x - x.mean()
        slope = float((centred * (y - y.mean())).sum() / ((centred**2).sum() + 1.0))
        return cls(float(y.mean() - slope * x.mean()), slope)

    def variance(self, dose: Array) -> Array:
        """Variance (n,), (bit/Å²)², at doses (n,), e/Å²."""
        return np.exp(self.intercept + self.slope * np.log(dose))


@contextmanager
def deterministic_torch(seed: int, threads: int = 1) -> Iterator[None]:
    """A seeded generator and a fixed number of threads; the caller's state comes back afterwards.

    All this belongs to the process, not to a thread, so one at a time.

    Two warnings are silenced: doses of the final acquisition lie outside the unit cube on purpose, and near-duplicate points
    of the baseline need jitter.

    Args:
        seed: of torch's generator.
        threads: of torch; another number may change the last bits.
    """
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore", InputDataWarning)
                warnings.simplefilter("ignore", NumericalWarning)
                torch.manual_seed(seed)
                yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class ScoreModel:
    """score(x, dose) = curve.growth(dose) · (gain + gain_sd · z(x)), z a Gaussian process.

    z has BoTorch's defaults: constant mean, RBF kernel of unit variance, dimension-scaled log-normal priors on the length
    scales (Hvarfner et al., ICML 2024). `curve` does what `Standardize` would.

    Attributes:
        coordinates: in which the process sees settings.
        gp: the process, fitted to the scored trials.
        curve: score against dose.
        noise: variance of a score against dose.
        x: (n, d) trials in these coordinates.
        z: (n,) their scores in the units of the process.
        z_variance: (n,) of `z`.
    """

    coordinates: ModelCoordinates
    gp: SingleTaskGP
    curve: DoseCurve
    noise: NoiseCurve
    x: torch.Tensor
    z: torch.Tensor
    z_variance: torch.Tensor

    @classmethod
    def fit(
        cls, coordinates: ModelCoordinates, points: Array, score: Array, variance: Array, knees: Array
    ) -> ScoreModel:
        """The model of n trials.

        Args:
            coordinates: in which the process sees settings.
            points: (n, 3) step Å, defocus Å, dose e/Å².
            score: (n,) bit/Å².
            variance: (n,) of the scores, (bit/Å²)².
            knees: (m,) e/Å², see DoseCurve.fit; may be empty.

        Raises:
            FIT_FAILURES: one of them, where the hyperparameters cannot be fitted.
        """
        variance = np.maximum(variance, SMALLEST_VARIANCE * max(float(np.max(score**2)), 1e-12))
        dose = points[:, DOSE]
        curve = DoseCurve.fit(dose, score, variance, knees)
        known = torch.as_tensor(coordinates.normalize(points))
        z = torch.as_tensor((score / curve.growth(dose) - curve.gain) / curve.gain_sd)
        z_variance = torch.as_tensor(variance / (curve.gain_sd * curve.growth(dose)) ** 2)
        gp = SingleTaskGP(known, z[:, None], z_variance[:, None], outcome_transform=None)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
        return cls(coordinates, gp, curve, NoiseCurve.fit(dose, variance), known, z, z_variance)

    def condition_on_pending(self, points: Array) -> ScoreModel:
        """See PictureModel. The hyperparameters stay as they are (Kriging believer, Ginsbourger et al. 2010)."""
        x, dose = self.coordinates.normalize(points), points[:, DOSE]
        mean, _ = self._posterior(x)
        z_variance = self.noise.variance(dose) / (self.curve.gain_sd * self.curve.growth(dose)) ** 2
        return replace(
            self,
            x=torch.cat([self.x, torch.as_tensor(x)]),
            z=torch.cat([self.z, torch.as_tensor(mean)]),
            z_variance=torch.cat([self.z_variance, torch.as_tensor(z_variance)]),
        )

    def predict(self, points: Array) -> tuple[Array, Array]:
        """See PictureModel."""
        mean, whitened = self._posterior(self.coordinates.normalize(points))
        sd = np.sqrt(np.maximum(1.0 - (whitened**2).sum(axis=0), 1e-12))
        growth = self.curve.growth(points[:, DOSE])
        return growth * (self.curve.gain + self.curve.gain_sd * mean), growth * self.curve.gain_sd * sd

    def covariance(self, points: Array) -> Array:
        """See PictureModel."""
        x = self.coordinates.normalize(points)
        _, whitened = self._posterior(x)
        scale = self.curve.gain_sd * self.curve.growth(points[:, DOSE])
        covariance: Array = scale[:, None] * (self._kernel(torch.as_tensor(x)).numpy() - whitened.T @ whitened) * scale
        return covariance

    def data_share(self, points: Array) -> Array:
        """See PictureModel."""
        _, whitened = self._posterior(self.coordinates.normalize(points))
        share: Array = np.clip((whitened**2).sum(axis=0), 0, 1)
        return share

    def leave_one_out(self) -> float:
        """Σ ln p(scoreᵢ | the others), with the hyperparameters of all."""
        constant = float(self.gp.mean_module.constant.detach())
        covariance = self._kernel(self.x).numpy() + np.diag(self.z_variance.numpy() + JITTER)
        scale = self.curve.gain_sd * self.curve.growth(self.coordinates.dose_of(self.x.numpy()))
        return log_leave_one_out((self.z.numpy() - constant) * scale, scale[:, None] * covariance * scale)

    def _kernel(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        with torch.no_grad():
            return self.gp.covar_module(a, a if b is None else b).to_dense()

    def _posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean (m,) of z, and L⁻¹ k (n, m). BoTorch's posterior costs a covariance per point or all m² of them."""
        points = torch.as_tensor(x)
        with torch.no_grad():
            constant = self.gp.mean_module.constant
            factor = torch.linalg.cholesky(self._kernel(self.x) + torch.diag(self.z_variance + JITTER))
            cross = torch.linalg.solve_triangular(factor, self._kernel(self.x, points), upper=False)
            residual = torch.linalg.solve_triangular(factor, (self.z - constant)[:, None], upper=False)
            mean = constant + (cross.T @ residual)[:, 0]
        return mean.numpy(), cross.numpy()


def log_leave_one_out(residual: Array, covariance: Array) -> float:
    """Σ ln p of each value given the others (Rasmussen and Williams, eq. 5.10 to 5.12).

    Args:
        residual: (n,) values less their mean.
        covariance: (n, n), noise included.
    """
    inverse = np.linalg.inv(covariance)
    variance = 1 / np.maximum(np.diag(inverse), 1e-300)
    error = (inverse @ residual) * variance
    return float(-0.5 * (np.log(2 * np.pi * variance) + error**2 / variance).sum())
