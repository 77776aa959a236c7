"""How far a picture resolves, in words: the half-bit crossing, and whether the correlation comes back beyond it."""

from __future__ import annotations

import numpy as np

from agent.records import Score
from agent.scoring.information import LARGEST_FRC
from agent.scoring.ring_correlation import half_bit_threshold

CONVINCING = 2.0
"""Standard deviations, of Fisher's z, above the half-bit threshold from which the correlation is said to have come back."""


def comes_back(score: Score) -> float | None:
    """Down to which length the correlation is above the threshold again, beyond its first crossing.

    The contrast transfer of a weak object has zeros at frequencies that defocus and aperture set. The correlation falls below any
    threshold there, whatever the dose, and returns behind them. Three rings are averaged, as for the crossing itself.

    Args:
        score: with its rings.

    Returns:
        Å; None where it does not come back, or nothing is known of it.
    """
    if score.resolution is None or len(score.frequency) < 4:
        return None
    kernel = np.ones(3)
    norm = np.convolve(np.ones(len(score.frc)), kernel, mode="same")
    frc = np.clip(np.convolve(score.frc, kernel, mode="same") / norm, -LARGEST_FRC, LARGEST_FRC)
    pairs = np.convolve(score.pairs, kernel, mode="same")
    sd = 1 / np.sqrt(2 * np.maximum(pairs - 3, 1))
    clear = np.arctanh(frc) > np.arctanh(half_bit_threshold(pairs)) + CONVINCING * sd
    frequency = np.asarray(score.frequency)
    half_ring = (frequency[1] - frequency[0]) / 2
    again = frequency[clear & (frequency > 1 / score.resolution + half_ring)]
    return float(1 / (again[-1] + half_ring)) if len(again) else None


def resolution_text(score: Score, k_max: float) -> str:
    """The half-bit resolution in a sentence's part.

    Args:
        score: of a trial.
        k_max: highest scored frequency, 1/Å.
    """
    resolution = score.resolution
    if resolution is None:
        return "half-bit resolution not reached: the lowest ring is below the threshold"
    if resolution * k_max < 1 + 1e-6:
        return f"half-bit resolution better than {resolution:.3g} Å, the end of the scored band"
    back = comes_back(score)
    if back is None:
        return f"half-bit resolution {resolution:.3g} Å"
    return (
        f"half-bit resolution {resolution:.3g} Å at the first crossing, as at a zero of the contrast transfer; "
        f"the correlation comes back beyond it, down to {back:.3g} Å"
    )
