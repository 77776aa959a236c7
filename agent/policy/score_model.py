"""The Gaussian process that predicts the score of settings not tried yet."""

from __future__ import annotations

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

from agent.policy.dose_curve import DoseCurve, NoiseCurve
from agent.policy.limits import Array

FIT_FAILURES = (ModelFittingError, NanError, NotPSDError)
"""What a fit that did not work raises."""
SMALLEST_VARIANCE = 1e-8
"""Of a score relative to the largest score squared: keeps the covariance matrix invertible."""


@contextmanager
def deterministic_torch(seed: int, threads: int = 1) -> Iterator[None]:
    """Seeded generator and a fixed number of threads; the caller's state comes back afterwards.

    Two warnings are silenced: doses of the final acquisition lie outside the unit cube on purpose, and jitter is what
    near-duplicate points of the baseline need.
    """
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
    """score(x, dose) = curve.shape(dose) · (gain + spread · z(x)), z a Gaussian process; see agent.policy.dose_curve.

    x are SearchSpace.to_unit coordinates. z has BoTorch's defaults: constant mean, RBF kernel of unit variance with
    dimension-scaled log-normal priors on the length scales (Hvarfner et al. 2024); `curve` does what `Standardize` would.
    """

    gp: SingleTaskGP
    curve: DoseCurve
    noise: NoiseCurve
    x: torch.Tensor
    z: torch.Tensor
    z_variance: torch.Tensor

    @classmethod
    def fit(cls, unit: Array, dose: Array, score: Array, variance: Array, knees: Array | None = None) -> ScoreModel:
        """From n trials: `unit` (n, d), the others (n,); `knees` (m,) of those that tell. Raises one of FIT_FAILURES."""
        variance = np.maximum(variance, SMALLEST_VARIANCE * max(float(np.max(score**2)), 1e-12))
        curve = DoseCurve.fit(dose, score, variance, knees)
        x = torch.as_tensor(unit)
        z = torch.as_tensor((score / curve.shape(dose) - curve.gain) / curve.spread)
        z_variance = torch.as_tensor(variance / (curve.spread * curve.shape(dose)) ** 2)
        gp = SingleTaskGP(x, z[:, None], z_variance[:, None], outcome_transform=None)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
        return cls(gp, curve, NoiseCurve.fit(dose, variance), x, z, z_variance)

    def given(self, unit: Array, dose: Array) -> ScoreModel:
        """The model once the scores at `unit` (m, d), `dose` (m,) are measured and as predicted: their variance is gone."""
        mean, _ = self._posterior(unit)
        z_variance = self.noise.variance(dose) / (self.curve.spread * self.curve.shape(dose)) ** 2
        return replace(
            self,
            x=torch.cat([self.x, torch.as_tensor(unit)]),
            z=torch.cat([self.z, torch.as_tensor(mean)]),
            z_variance=torch.cat([self.z_variance, torch.as_tensor(z_variance)]),
        )

    def predict(self, unit: Array, dose: Array) -> tuple[Array, Array]:
        """Mean and sd, each (m,), bit/Å², of the noiseless score at `unit` (m, d), `dose` (m,)."""
        mean, whitened = self._posterior(unit)
        sd = np.sqrt(np.maximum(1.0 - (whitened**2).sum(axis=0), 1e-12))
        shape = self.curve.shape(dose)
        return shape * (self.curve.gain + self.curve.spread * mean), shape * self.curve.spread * sd

    def covariance(self, unit: Array, dose: Array) -> Array:
        """(m, m), (bit/Å²)², of the noiseless scores at `unit` (m, d), `dose` (m,), given the trials."""
        _, whitened = self._posterior(unit)
        scale = self.curve.spread * self.curve.shape(dose)
        return scale[:, None] * (self._kernel(torch.as_tensor(unit)).numpy() - whitened.T @ whitened) * scale

    def _kernel(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        with torch.no_grad():
            return self.gp.covar_module(a, a if b is None else b).to_dense()

    def _posterior(self, unit: Array) -> tuple[Array, Array]:
        """Mean (m,) of z, and L⁻¹ k (n, m). By hand: BoTorch's posterior costs a covariance per point or all m² of them."""
        x = torch.as_tensor(unit)
        with torch.no_grad():
            constant = self.gp.mean_module.constant
            factor = torch.linalg.cholesky(self._kernel(self.x) + torch.diag(self.z_variance))
            cross = torch.linalg.solve_triangular(factor, self._kernel(self.x, x), upper=False)
            residual = torch.linalg.solve_triangular(factor, (self.z - constant)[:, None], upper=False)
            mean = constant + (cross.T @ residual)[:, 0]
        return mean.numpy(), cross.numpy()
