"""The score: the information per area that a picture carries, from the ring correlation of its halves; at other doses too.

    score = ½ ∫ log2(1 + S) 2πk dk = (1/ln 2) ∫ atanh F(k) 2πk dk     in bit/Å²

F is the signed Fourier ring correlation of the two halves, S = 2F/(1 − F) the spectral signal-to-noise ratio of all counts.
Its variance is that of Fisher's z, 1/(2(n − 3)) for n independent Fourier pairs (R. A. Fisher, Metron 1 (1921) 3). The
derivation is in the README of this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.records import Score
from agent.scoring.ring_correlation import Spectrum, half_bit_resolution, spectrum_of

LARGEST_FRC = 0.999
"""|F| is capped here before atanh."""
FEWEST_PAIRS = 3.5
"""Rings with fewer independent pairs do not count: the variance of Fisher's z diverges at 3."""


def score_spectrum(spectrum: Spectrum) -> Score:
    """Information per area, bit/Å², with its standard deviation, and the half-bit resolution, Å."""
    value, sd = _integrate(spectrum)
    veto = None
    if not (spectrum.pairs > FEWEST_PAIRS).any():
        veto = "the scored field is too small: no ring of the correlation has enough Fourier pairs to count"
    return Score(
        value=value,
        sd=sd,
        resolution=half_bit_resolution(spectrum),
        frequency=tuple(spectrum.frequency.tolist()),
        frc=tuple(spectrum.frc.tolist()),
        pairs=tuple(spectrum.pairs.tolist()),
        veto=veto,
    )


def without_chance(spectrum: Spectrum, added: NDArray[np.float64], draws: NDArray[np.float64]) -> Score:
    """As `score_spectrum`, less what came about by chance.

    Args:
        spectrum: of two images that were registered with each other.
        added: (rings,) what that adds to atanh F.
        draws: (draws, rings) single ones, whose scatter adds to the uncertainty.
    """
    weight = _weights(spectrum)
    z = np.arctanh(np.clip(spectrum.frc, -LARGEST_FRC, LARGEST_FRC)) - added
    found = score_spectrum(Spectrum(spectrum.edges, np.tanh(z), spectrum.pairs))
    scatter = float((draws @ weight).std())
    return found.model_copy(update={"sd": float(np.hypot(found.sd, scatter))})


def scale_score(score: Score, factor: float) -> Score:
    """The score expected at `factor` times the dose: S grows with the dose in every ring.

    The map is odd in F, like the score itself, so that rings of noise stay unbiased: |S| is scaled and the sign kept.
    """
    frc = np.clip(np.asarray(score.frc), -LARGEST_FRC, LARGEST_FRC)
    magnitude = 2 * np.abs(frc) / (1 - np.abs(frc)) * factor
    scaled = np.clip(np.sign(frc) * magnitude / (2 + magnitude), -LARGEST_FRC, LARGEST_FRC)
    before = spectrum_of(score)
    spectrum = Spectrum(before.edges, scaled, before.pairs)
    # dz'/dz of the map, for the uncertainty: z = atanh F, S = e^{2|z|} − 1
    slope = factor * (1 + magnitude / factor) / (1 + magnitude)
    _, sd = _integrate(spectrum, slope)
    return score_spectrum(spectrum).model_copy(update={"sd": sd, "veto": score.veto, "halves": score.halves})


def dose_knee(score: Score, dose: float) -> float | None:
    """D₀ of score ∝ log2(1 + D/D₀), as an acquisition's own rings predict it for four times its dose.

    S ∝ D in every ring (`scale_score`); D₀ is small where strong rings are saturated already, large where all are weak.

    Args:
        score: with its rings.
        dose: of the acquisition, e/Å².

    Returns:
        D₀, e/Å²; None where there is too little signal to tell.
    """
    if not score.frequency or score.value < 4 * score.sd:
        return None
    ratio = scale_score(score, 4.0).value / score.value
    u = np.geomspace(1e-3, 1e3, 601)
    return float(dose / np.interp(-ratio, -np.log2(1 + 4 * u) / np.log2(1 + u), u))


def figure_of_merit(
    image: NDArray[np.floating[Any]], pixel_size: tuple[float, float], score: Score
) -> NDArray[np.float32]:
    """The picture weighted ring by ring with C = √(2F/(1 + F)), the expected correlation of all counts with the truth.

    What only one half sees is taken out; what both see stays. Below the first ring the weight is that of the first,
    beyond the last it is 0. P. B. Rosenthal and R. Henderson, J. Mol. Biol. 333 (2003) 721, eq. 18.

    Args:
        image: (y, x) phase from all counts, rad.
        pixel_size: (y, x), Å.
        score: with its rings; one without rings leaves the picture as it is.

    Returns:
        (y, x), rad.
    """
    if not score.frequency:
        return np.asarray(image, dtype=np.float32)
    frc = np.clip(np.asarray(score.frc), 0.0, LARGEST_FRC)
    weight = np.sqrt(2 * frc / (1 + frc))
    ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(image.shape, pixel_size, strict=True))
    k = np.hypot(ky[:, None], kx[None, :])
    filtered = np.fft.ifft2(np.fft.fft2(image) * np.interp(k, score.frequency, weight, right=0.0)).real
    return filtered.astype(np.float32)


def _integrate(spectrum: Spectrum, slope: NDArray[np.float64] | float = 1.0) -> tuple[float, float]:
    """(1/ln 2) ∫ atanh F 2πk dk over the rings, and its standard deviation where Fisher's z of each was scaled by `slope`."""
    weight = _weights(spectrum)
    z = np.arctanh(np.clip(spectrum.frc, -LARGEST_FRC, LARGEST_FRC))
    variance = slope**2 / (2 * np.maximum(spectrum.pairs - 3, 0.5))
    return float((weight * z).sum()), float(np.sqrt((weight**2 * variance).sum()))


def _weights(spectrum: Spectrum) -> NDArray[np.float64]:
    """(rings,) ∫ 2πk dk / ln 2 over each ring; 0 for rings that do not count."""
    weight: NDArray[np.float64] = np.pi * np.diff(spectrum.edges**2) / np.log(2)
    return np.where(spectrum.pairs > FEWEST_PAIRS, weight, 0.0)
