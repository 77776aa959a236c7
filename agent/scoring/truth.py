"""The information that a picture really carries: its correlation with the true phase instead of that of two halves.

With C(k) the ring correlation of picture and truth, the spectral signal-to-noise ratio is C²/(1 − C²), and the information

    ½ ∫ log2(1 + C²/(1 − C²)) 2πk dk     in bit/Å²,

in the rings of the score. The picture may lie shifted against the truth, but not sheared or scaled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, maximum_filter, spline_filter
from scipy.optimize import minimize

from agent.config import ScoreChoice
from agent.reconstruction import tukey
from agent.scoring.information import FEWEST_PAIRS
from agent.scoring.ring_correlation import remove_plane, ring_correlation

LARGEST_CORRELATION = 0.9995
"""C is capped here; it corresponds to LARGEST_FRC of the score, C² = 2F/(1 + F)."""
LEAST_SIGNAL = 0.1
"""Rings of a picture that holds less signal than this tell nothing of another."""
_FINE, _TRIED = 0.1, 8
"""Å to which shifts are told apart at first, and how many of them are looked at more closely: a crystal has several."""
_RIM = 0.3
"""Å of the margin that stay out of reach, where the interpolation would miss its neighbours."""


def true_information(
    image: NDArray[np.float64],
    pixel_size: tuple[float, float],
    truth: NDArray[np.float64],
    truth_pixel: float,
    choice: ScoreChoice,
    signal: NDArray[np.float64] | None = None,
) -> float:
    """The integral of the module's heading, bit/Å², after the shift at which picture and truth agree best.

    Args:
        image: (y, x) phase of the scored square, rad.
        pixel_size: of the image, (y, x), Å.
        truth: (y, x) true phase, rad, of the same square with a margin that is equal on opposite sides.
        truth_pixel: of the truth, Å; not more than that of the image.
        choice: rings and taper, those of the score.
        signal: (rings,) part of the truth's power that is signal, where it is another picture with noise of its own; None: all.
    """
    smooth = spline_filter(_band_limited(truth, truth_pixel, pixel_size), order=3)
    axes = [
        (np.arange(n) * p + (t * truth_pixel - n * p) / 2) / truth_pixel
        for n, p, t in zip(image.shape, pixel_size, truth.shape, strict=True)
    ]
    reach = max(min(float(axis[0]) for axis in axes) * truth_pixel - _RIM, 0.0)

    def moved(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = np.meshgrid(*(axis + s / truth_pixel for axis, s in zip(axes, shift, strict=True)), indexing="ij")
        sampled: NDArray[np.float64] = map_coordinates(smooth, np.array(grid), order=3, prefilter=False, mode="nearest")
        return sampled

    def agreement(shift: NDArray[np.float64]) -> float:
        if np.abs(shift).max() > reach + _FINE:
            return -1.0
        return float(ring_correlation([(image, moved(shift))], pixel_size, choice).frc.sum())

    best = max(_candidates(image, moved(np.zeros(2)), pixel_size, choice, reach), key=agreement)
    simplex = best + np.array([[0.0, 0.0], [_FINE, 0.0], [0.0, _FINE]])
    options = {"xatol": 0.005, "maxiter": 60, "initial_simplex": simplex}
    found = minimize(lambda shift: -agreement(shift), best, method="Nelder-Mead", options=options).x
    spectrum = ring_correlation([(image, moved(found))], pixel_size, choice)
    square = np.clip(spectrum.frc, 0, LARGEST_CORRELATION) ** 2
    if signal is not None:  # C² with what both have in common is C² with the picture, over its part of signal
        told = signal > LEAST_SIGNAL
        square = np.where(told, np.minimum(square / np.where(told, signal, 1.0), LARGEST_CORRELATION**2), 0.0)
    bits = np.where(spectrum.pairs > FEWEST_PAIRS, 0.5 * np.log2(1 + square / (1 - square)), 0.0)
    return float((bits * np.pi * np.diff(spectrum.edges**2)).sum())


def _candidates(
    image: NDArray[np.float64],
    still: NDArray[np.float64],
    pixel_size: tuple[float, float],
    choice: ScoreChoice,
    reach: float,
) -> list[NDArray[np.float64]]:
    """Shifts, Å, at which image and truth agree best if every ring has the same weight, best first.

    `still` is the truth without shift. All shifts at once, by the cross-correlation of both windowed images.
    """
    spectrum = ring_correlation([(image, still)], pixel_size, choice)
    shape = tuple(max(n, round(n * p / _FINE)) for n, p in zip(image.shape, pixel_size, strict=True))
    window = tukey(image.shape[0], choice.taper)[:, None] * tukey(image.shape[1], choice.taper)[None, :]
    a, b = (np.fft.fft2(remove_plane(each) * window) for each in (image, still))
    k = [np.fft.fftfreq(n, p) for n, p in zip(image.shape, pixel_size, strict=True)]
    ring = np.digitize(np.hypot(k[0][:, None], k[1][None, :]), spectrum.edges)
    power = [np.bincount(ring.ravel(), np.abs(each).ravel() ** 2, len(spectrum.edges) + 1)[ring] for each in (a, b)]
    inside = (ring > 0) & (ring < len(spectrum.edges))
    padded = np.zeros(shape, complex)
    rows, columns = (np.round(f * n * p).astype(int) for f, n, p in zip(k, image.shape, pixel_size, strict=True))
    padded[np.ix_(rows, columns)] = np.where(inside, a.conj() * b / np.sqrt(np.maximum(power[0] * power[1], 1e-300)), 0)
    agreement = np.fft.ifft2(padded).real
    shifts = [np.fft.fftfreq(n) * m * p for n, m, p in zip(shape, image.shape, pixel_size, strict=True)]
    legal = (np.abs(shifts[0]) <= reach)[:, None] & (np.abs(shifts[1]) <= reach)[None, :]
    peaks = np.argwhere(legal & (agreement >= maximum_filter(agreement, 3, mode="wrap")))
    order = np.argsort([-agreement[y, x] for y, x in peaks])[:_TRIED]
    return [np.array([shifts[0][y], shifts[1][x]]) for y, x in peaks[order]] or [np.zeros(2)]


def _band_limited(
    truth: NDArray[np.float64], truth_pixel: float, pixel_size: tuple[float, float]
) -> NDArray[np.float64]:
    """The truth without what the image's pixels cannot hold, which would come back at other frequencies."""
    spectrum = np.fft.fft2(truth)
    for axis, (n, pixel) in enumerate(zip(truth.shape, pixel_size, strict=True)):
        beyond = np.abs(np.fft.fftfreq(n, truth_pixel)) > 0.5 / pixel
        spectrum[(slice(None), beyond) if axis else (beyond,)] = 0
    limited: NDArray[np.float64] = np.fft.ifft2(spectrum).real
    return limited
