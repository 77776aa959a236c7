"""By how much a trial is expected to improve the final picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.sampling import SobolQMCNormalSampler
from scipy.special import log_ndtr, ndtr

from agent.policy.limits import Array
from agent.policy.proposal import PictureModel
from agent.policy.score_model import ScoreModel

MC_SAMPLES = 128
SMALLEST_SD = 1e-9
"""bit/Å², of the difference between two settings."""

Value = Callable[[Array], Array]
"""ln expected improvement (n,), in bit/Å², of final points (n, 3)."""


def sampled_improvement(model: ScoreModel, known: Array, pending: Array, seed: int) -> Value:
    """Of the best of several uncertain pictures: qLogNoisyExpectedImprovement (Ament et al., NeurIPS 2023).

    Args:
        model: of the score.
        known: (n, 3) final points of the scored trials.
        pending: (m, 3) final points of the pending trials.
        seed: of the samples.
    """

    def score(samples: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        growth = torch.as_tensor(model.curve.growth(model.coordinates.dose_of(X.numpy())))
        return growth * (model.curve.gain + model.curve.gain_sd * samples[..., 0])

    acquisition = qLogNoisyExpectedImprovement(
        model.gp,
        X_baseline=torch.as_tensor(model.coordinates.normalize(known)),
        sampler=SobolQMCNormalSampler(torch.Size([MC_SAMPLES]), seed=seed),
        objective=GenericMCObjective(score),
        X_pending=torch.as_tensor(model.coordinates.normalize(pending)) if len(pending) else None,
    )

    def value(finals: Array) -> Array:
        with torch.no_grad():
            log_improvement: Array = acquisition(torch.as_tensor(model.coordinates.normalize(finals))[:, None]).numpy()
        return log_improvement

    return value


def exact_improvement(model: PictureModel, incumbent: Array) -> Value:
    """Over the settings that would be recommended now: E max(0, f(x) − f(x*)), both uncertain and correlated.

    Args:
        model: of the score, pending trials included.
        incumbent: (3,) the final point that would be recommended now.
    """

    def value(finals: Array) -> Array:
        mean, sd = _difference(model, incumbent, finals)
        u = mean / sd
        # E = sd (φ(u) + u Φ(u)); far below 0 it is sd φ(u) / u², Mills' ratio.
        far = u < -8
        near = np.log(np.maximum(np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi) + u * ndtr(u), 1e-300))
        tail = -0.5 * u**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(np.abs(u), 1.0))
        log_improvement: Array = np.log(sd) + np.where(far, tail, near)
        return log_improvement

    return value


def explore_share(model: PictureModel, incumbent: Array, final: Array) -> float:
    """How much of the improvement that is expected of settings comes from not knowing them: 0 exploits, 1 explores.

    Args:
        model: of the score.
        incumbent: (3,) the final point that would be recommended now.
        final: (3,) the final point of the settings.
    """
    mean, sd = (float(v[0]) for v in _difference(model, incumbent, final[None]))
    u = mean / sd
    if u <= 0:
        return 1.0
    # E = mean Φ(u) + sd φ(u): what is promised, and what might be.
    promised = np.log(mean) + log_ndtr(u)
    possible = np.log(sd) - 0.5 * u**2 - 0.5 * np.log(2 * np.pi)
    return float(1 / (1 + np.exp(promised - possible)))


def _difference(model: PictureModel, incumbent: Array, finals: Array) -> tuple[Array, Array]:
    """Mean and sd, each (n,), of the score at `finals` less that at the incumbent."""
    points = np.concatenate([incumbent[None], finals])
    mean, _ = model.predict(points)
    covariance = model.covariance(points)
    variance = covariance[0, 0] + np.diag(covariance)[1:] - 2 * covariance[0, 1:]
    return mean[1:] - mean[0], np.sqrt(np.maximum(variance, SMALLEST_SD**2))
