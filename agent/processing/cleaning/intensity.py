"""How bright the beam was in each pattern: drift and steps of the current from line to line, flicker from pattern to pattern.

What absorbs or scatters out of the detector is the specimen, not the beam: it looks alike from neighbouring positions, and stays
in the counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 8
"""Nearest positions whose middle tells what the specimen takes away."""
MIDDLE = 1.2
"""Variance of the mean of the middle half, over that of the mean of all."""
SIGNIFICANT = 5.0
"""Standard deviations of chance by which counts have to vary more than counting explains."""
LEAST = 0.003
"""Smallest relative variation that is undone; less costs a reconstruction nothing."""


def relative_intensity(
    totals: NDArray[np.float64],
    positions: NDArray[np.float64],
    line: NDArray[np.int64] | None,
    per_electron: float = 1.0,
) -> NDArray[np.float64] | None:
    """Intensity of every pattern relative to their mean; what may be counting noise is drawn towards it.

    Args:
        totals: (n,) counts of each pattern.
        positions: (n, 2), Å.
        line: (n,) number of the scan line of each; None: the patterns are no raster.
        per_electron: counts of an electron.

    Returns:
        (n,) with mean 1; None where nothing but counting noise is seen.
    """
    if len(totals) <= NEIGHBOURS or totals.mean() <= 0:
        return None
    noise = per_electron / float(totals.mean())  # variance, relative, of one pattern
    left = totals / totals.mean()
    beam = np.ones(len(totals))
    if line is not None:
        groups = [np.flatnonzero(line == number) for number in np.unique(line)]
        levels = np.array([_middle_mean(left[group]) for group in groups])
        levels = _shrunk(levels, MIDDLE * noise * len(groups) / len(totals))
        for group, level in zip(groups, levels, strict=True):
            beam[group] = level
        left = left / beam
    beam *= _shrunk(left / _of_the_specimen(left, positions, noise), noise)
    if beam.std() < LEAST * beam.mean():
        return None
    return np.asarray(np.maximum(beam, 0) / beam.mean())


def _middle_mean(values: NDArray[np.float64]) -> float:
    """Mean of the middle half of values (n,): beads and holes in a line are not the beam's."""
    ordered = np.sort(values)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _of_the_specimen(values: NDArray[np.float64], positions: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """(n,) what neighbouring positions have in common, as far as it stands out of what varies from pattern to pattern."""
    from scipy.spatial import cKDTree

    _, near = cKDTree(positions).query(positions, k=NEIGHBOURS + 1)
    common = np.sort(values[near[:, 1:]], axis=1)[:, NEIGHBOURS // 4 : -(NEIGHBOURS // 4)].mean(axis=1)
    own = max(float(np.var(values - common)), noise)
    return np.maximum(_shrunk(common, MIDDLE * own / NEIGHBOURS), 0.05)


def _shrunk(values: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Values (n,) drawn towards their mean, by the part of their variance that is `noise`; the mean where all may be."""
    variance = float(values.var())
    if variance < noise * (1 + SIGNIFICANT * np.sqrt(2 / len(values))):
        return np.full_like(values, values.mean())
    return np.asarray(values.mean() + (values - values.mean()) * (1 - noise / variance))
