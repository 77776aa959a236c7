"""The sign of the defocus where shifts cannot tell: matter advances the phase and scatters electrons (README, "Polarity")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.centre_of_mass import Moments
from agent.reconstruction.model.windows import window_of


def scattering_evidence(moments: Moments, detector_to_scan: NDArray[np.float64]) -> float:
    """Correlation of the integrated centre of mass with the loss from the disc, in its standard deviations; positive: right sign.

    Args:
        moments: of the raster's patterns.
        detector_to_scan: (2, 2), the hypothesis to judge.
    """
    n_y, n_x = moments.within.shape
    com = moments.centre @ detector_to_scan.T
    taper = np.outer(*(window_of(np.linspace(0, 1, n), 0.3) for n in (n_y, n_x)))

    def spectrum(image: NDArray[np.float64]) -> NDArray[np.complex128]:
        return np.fft.fft2((image - image.mean()) * taper)

    g_y, g_x = np.fft.fftfreq(n_y)[:, None], np.fft.fftfreq(n_x)[None, :]
    g = np.hypot(g_y, g_x)
    band = (g > 1.5 / min(n_y, n_x)) & (g < 0.5)
    gradient = (g_y * spectrum(com[..., 0]) + g_x * spectrum(com[..., 1])) / (1j * np.maximum(g, 1e-9))
    loss = -spectrum(moments.within)
    # The integral's 1/g is common to signal and noise, hence left out; the loss is weighted by its excess over shot noise.
    noise = np.abs(loss[g > 0.4]) ** 2
    signal = np.maximum(np.abs(loss) ** 2 - noise.mean(), 0) if noise.size else np.abs(loss) ** 2
    weight = band * signal / np.maximum(np.abs(loss) ** 2, 1e-30)
    cross = weight * np.real(np.conj(gradient) * loss) / np.sqrt(np.maximum(np.abs(gradient) * np.abs(loss), 1e-30))
    # Each frequency occurs twice (real images).
    return float(cross.sum() / np.sqrt(np.maximum(2 * (cross**2).sum(), 1e-30)))


def compactness_evidence(phase: NDArray[np.float64]) -> float:
    """Skewness of a phase image in standard deviations of that of a Gaussian image with as many pixels.

    Args:
        phase: (y, x), rad.
    """
    centred = phase - phase.mean()
    skewness = (centred**3).mean() / np.maximum((centred**2).mean(), 1e-30) ** 1.5
    return float(skewness / np.sqrt(6 / phase.size))
