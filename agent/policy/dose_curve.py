"""How the score grows with dose, and how noisy it is: what the Gaussian process need not learn.

The score is ½ ∫ log2(1 + S(k)) 2πk dk, and the spectral signal-to-noise ratio S is proportional to the dose D. So, for one
effective D₀, it follows g · log2(1 + D/D₀): linear while noise prevails, logarithmic later. Settings differ in g by a
factor, that is, at low dose hardly and at high dose much: the process models score / log2(1 + D/D₀), for which a
stationary kernel and a constant mean are right and the known noise makes low doses tell little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_SPREAD = 0.02
"""Smallest spread of g between settings, relative: keeps a model of few equal scores from being certain."""


@dataclass(frozen=True)
class DoseCurve:
    """score = (gain ± spread) · log2(1 + dose/knee) over all settings.

    Attributes:
        knee: D₀, e/Å².
        gain: mean of g over the settings, bit/Å².
        spread: standard deviation of g over the settings, bit/Å².
    """

    knee: float
    gain: float
    spread: float

    def shape(self, dose: Array) -> Array:
        """log2(1 + dose/knee)."""
        return np.log2(1 + dose / self.knee)

    @classmethod
    def fit(cls, dose: Array, score: Array, variance: Array, knees: Array | None = None) -> DoseCurve:
        """Most probable curve for scores (n,) with known variances at doses (n,).

        Priors: ln knee normal about the mean of what the trials' own spectra say (`knees`, ring_correlation.dose_knee) with
        sd 0.3; without any, about the geometric mean of the doses with sd 1.5 (a curve between linear and logarithmic over
        the doses tried). ln(spread/gain) normal about ln 0.5 with sd 0.7. Evaluated on a grid: never fails.
        """
        told = knees is not None and len(knees) > 0
        middle = float(np.mean(np.log(knees if told and knees is not None else dose)))
        width = 0.3 if told else 1.5
        ln_knee = middle + width / 1.5 * np.linspace(-5.0, 4.0, 46)[:, None, None]
        relative = np.geomspace(LEAST_SPREAD, 1.5, 16)[None, :, None]
        shape = np.log2(1 + dose / np.exp(ln_knee))
        gain = _positive(score.mean() / shape.mean(axis=-1, keepdims=True))
        for _ in range(8):
            weight = 1 / (variance + (relative * gain * shape) ** 2)
            gain = _positive(
                (weight * score * shape).sum(-1, keepdims=True) / (weight * shape**2).sum(-1, keepdims=True)
            )
        total = variance + (relative * gain * shape) ** 2
        log_posterior = (
            -0.5 * (np.log(total) + (score - gain * shape) ** 2 / total).sum(-1)
            - 0.5 * ((ln_knee[..., 0] - middle) / width) ** 2
            - 0.5 * (np.log(relative[..., 0] / 0.5) / 0.7) ** 2
        )
        i, j = np.unravel_index(np.argmax(log_posterior), log_posterior.shape)
        best = float(gain[i, j, 0])
        return cls(float(np.exp(ln_knee[i, 0, 0])), best, best * float(relative[0, j, 0]))


@dataclass(frozen=True)
class NoiseCurve:
    """Variance of a score, exp(intercept + slope · ln dose), as predicted for doses not tried yet."""

    intercept: float
    slope: float

    @classmethod
    def fit(cls, dose: Array, variance: Array) -> NoiseCurve:
        """Least squares in ln variance; the slope is drawn to 0, which holds for Fisher's z, by a prior of sd 0.5."""
        x, y = np.log(dose), np.log(variance)
        centred = x - x.mean()
        slope = float((centred * (y - y.mean())).sum() / ((centred**2).sum() + 1.0))
        return cls(float(y.mean() - slope * x.mean()), slope)

    def variance(self, dose: Array) -> Array:
        """(bit/Å²)², at doses (n,)."""
        return np.exp(self.intercept + self.slope * np.log(dose))


def _positive(gain: Array) -> Array:
    return np.maximum(gain, 1e-9)
