"""Frequencies of the scan's own lattice: what a picture has there may be the scan's, so they never count in a score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import window_of
from agent.scoring.ring_correlation import tapered
from instrument.models import Rectangle

NOISY = 7.0
"""Largest power of a ring over its mean that noise has; a ring with more has reflections of a crystal."""
HARMONIC, LEAKAGE = 0.6, 0.2
"""Structure factor of the positions at a Fourier pixel next to a harmonic, and at its neighbours that still see it."""


def scan_harmonics(
    passes: Sequence[NDArray[np.float64]],
    square: Rectangle,
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    taper: float,
) -> NDArray[np.bool_]:
    """Fourier pixels of a scored square at which the positions of a pass repeat themselves.

    Whether they do is the structure factor |Σ h e^{2πik·r}|/Σh of the positions r inside the square, h the taper there: 1 at
    a harmonic of a raster, small everywhere for positions without order.

    Args:
        passes: (n, 2) positions, Å, of each pass.
        square: scored, Å, in the frame of the positions.
        shape: (y, x) pixels of the square.
        pixel_size: (y, x), Å.
        taper: part of its edge that is tapered.

    Returns:
        (y, x), corner-centred, True where the scan repeats itself; the zero frequency is not among them.
    """
    found = np.zeros(shape, dtype=bool)
    size = np.array([square.height, square.width])
    frequencies = [np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_size, strict=True)]
    for positions in passes:
        relative = positions - (square.y, square.x)
        relative = relative[((relative >= 0) & (relative <= size)).all(axis=1)]
        weight = window_of(relative / size, taper).prod(axis=1)
        if weight.sum() <= 0:
            continue  # no position, no lattice
        along_y, along_x = (np.exp(2j * np.pi * np.outer(relative[:, axis], k)) for axis, k in enumerate(frequencies))
        amplitude = np.abs((along_y * weight[:, None]).T @ along_x) / weight.sum()
        found |= (amplitude > LEAKAGE) & _with_neighbours(amplitude > HARMONIC)
    found[:1, :1] = False
    return found


def _with_neighbours(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (y, x) that are chosen or touch a chosen one, across the edges as well."""
    along = chosen | np.roll(chosen, 1, 0) | np.roll(chosen, -1, 0)
    return np.asarray(along | np.roll(along, 1, 1) | np.roll(along, -1, 1))


def excess_at_harmonics(
    tiles: Sequence[NDArray[np.float64]],
    harmonics: NDArray[np.bool_],
    rings: NDArray[np.int64],
    taper: float,
) -> float:
    """Power of a picture at the scan's harmonics relative to the rest of their rings: about 1 where there is no grid.

    Relative to the mean of noise, and to the largest of a ring with a crystal's reflections, since one of those may lie on a
    harmonic. The median over the harmonics.

    Args:
        tiles: (y, x) phase images of the scored squares, rad.
        harmonics: (y, x) of `scan_harmonics`.
        rings: (y, x) number of each Fourier pixel's ring, below 0 outside of them.
        taper: part of the edge that is tapered.

    Returns:
        The ratio; 0 where no harmonic lies in a ring that has other pixels.
    """
    power = np.zeros(harmonics.shape)
    for tile in tiles:
        power += np.abs(np.fft.fft2(tapered(tile, taper))) ** 2
    others = (rings >= 0) & ~harmonics
    counted = np.bincount(rings[others], minlength=rings.max() + 1)
    mean = np.bincount(rings[others], weights=power[others], minlength=rings.max() + 1) / np.maximum(counted, 1)
    largest = np.zeros(len(mean))
    np.maximum.at(largest, rings[others], power[others])
    usual = np.where(largest > NOISY * mean, largest, mean)
    at = harmonics & (rings >= 0)
    at[at] = counted[rings[at]] > 0
    return float(np.median(power[at] / np.maximum(usual[rings[at]], 1e-300))) if at.any() else 0.0
