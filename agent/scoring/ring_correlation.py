"""Fourier ring correlation of two images, and the resolution to which they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import tukey
from agent.records import Score


@dataclass(frozen=True)
class Spectrum:
    """Fourier ring correlation of two images.

    Attributes:
        edges: (rings + 1,) ring limits, 1/Å.
        frc: (rings,) signed correlation.
        pairs: (rings,) independent Fourier pairs, corrected for the taper.
    """

    edges: NDArray[np.float64]
    frc: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @property
    def frequency(self) -> NDArray[np.float64]:
        """(rings,) middle of each ring, 1/Å."""
        middle: NDArray[np.float64] = (self.edges[1:] + self.edges[:-1]) / 2
        return middle


def spectrum_of(score: Score) -> Spectrum:
    """The spectrum that a score keeps; rings are of one width."""
    centre = np.asarray(score.frequency)
    width = centre[1] - centre[0]
    edges = np.concatenate([centre - width / 2, centre[-1:] + width / 2])
    return Spectrum(edges, np.asarray(score.frc), np.asarray(score.pairs))


def tapered(image: NDArray[np.float64], taper: float) -> NDArray[np.float64]:
    """An image (y, x) without its plane, under the window; `taper` is the tapered part of its edges."""
    n_y, n_x = image.shape
    return remove_plane(image) * tukey(n_y, taper)[:, None] * tukey(n_x, taper)[None, :]


def remove_plane(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """An image (y, x) without its best-fitting plane: ptychography leaves constant and linear phase free."""
    y, x = (np.linspace(-1, 1, n) for n in image.shape)
    plane = np.stack([np.ones(image.shape), np.broadcast_to(y[:, None], image.shape), np.broadcast_to(x, image.shape)])
    basis = plane.reshape(3, -1).T
    coefficients, *_ = np.linalg.lstsq(basis, image.ravel(), rcond=None)
    flat: NDArray[np.float64] = image - (basis @ coefficients).reshape(image.shape)
    return flat


def ring_correlation(
    pairs_of_tiles: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    pixel_size: tuple[float, float],
    choice: ScoreChoice,
    left_out: NDArray[np.bool_] | None = None,
) -> Spectrum:
    """Fourier ring correlation over one or several tiles of equal size.

    Args:
        pairs_of_tiles: (first, second) image of each tile, all (y, x) of one shape.
        pixel_size: (y, x), Å.
        choice: rings and taper.
        left_out: (y, x), corner-centred, Fourier pixels that do not count; None: all do.
    """
    shape = pairs_of_tiles[0][0].shape
    ring, edges = rings_of(shape, pixel_size, choice)
    if left_out is not None:
        ring = np.where(left_out, -1, ring)
    inside, n_rings = ring >= 0, len(edges) - 1

    def sum_over_rings(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(ring[inside], weights=values[inside], minlength=n_rings).astype(np.float64)

    cross, first_power, second_power = (np.zeros(n_rings) for _ in range(3))
    for first, second in pairs_of_tiles:
        a, b = (np.fft.fft2(tapered(image, choice.taper)) for image in (first, second))
        cross += sum_over_rings((a * b.conj()).real)
        first_power += sum_over_rings(np.abs(a) ** 2)
        second_power += sum_over_rings(np.abs(b) ** 2)
    frc = np.asarray(cross / np.sqrt(np.maximum(first_power * second_power, 1e-300)), dtype=np.float64)
    return Spectrum(edges, frc, independent_pairs(ring, n_rings, choice.taper) * len(pairs_of_tiles))


def rings_of(
    shape: tuple[int, ...], pixel_size: tuple[float, float], choice: ScoreChoice
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which ring each Fourier pixel belongs to.

    Args:
        shape: (y, x) pixels of the image.
        pixel_size: (y, x), Å.
        choice: rings.

    Returns:
        (y, x) number of the ring, corner-centred, −1 outside of all; (rings + 1,) limits, 1/Å.
    """
    ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_size, strict=True))
    n_rings = max(1, round((choice.k_max - choice.k_min) / choice.ring_width))
    edges = choice.k_min + choice.ring_width * np.arange(n_rings + 1, dtype=np.float64)
    ring = np.digitize(np.hypot(ky[:, None], kx[None, :]), edges) - 1
    return np.where(ring < n_rings, ring, -1), edges


def independent_pairs(ring: NDArray[np.int64], n_rings: int, taper: float) -> NDArray[np.float64]:
    """Independent Fourier pairs of each ring of one real image, which a taper makes fewer.

    Args:
        ring: (y, x) of `rings_of`.
        n_rings: how many there are.
        taper: part of the edge that is tapered.

    Returns:
        (rings,).
    """
    n_y, n_x = ring.shape
    window = tukey(n_y, taper)[:, None] * tukey(n_x, taper)[None, :]
    members = np.bincount(ring[ring >= 0], minlength=n_rings)
    independent = (window**2).sum() ** 2 / (window**4).sum() / window.size
    return np.asarray(members / 2 * independent, dtype=np.float64)


def half_bit_threshold(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """F at which a ring carries half a bit per pixel.

    M. van Heel and M. Schatz, J. Struct. Biol. 151 (2005) 250, eq. 17.

    Args:
        pairs: (rings,) independent Fourier pairs.
    """
    root = np.sqrt(2 * np.maximum(pairs, 1.0))
    threshold: NDArray[np.float64] = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    return threshold


def half_bit_resolution(spectrum: Spectrum) -> float | None:
    """Where the correlation falls below the half-bit curve.

    A crystal has nothing between its reflections, so three rings are averaged, and rings before the first signal are
    passed over.

    Returns:
        1/k, Å; 1/k_max where the correlation never falls below the curve; None where it is never above.
    """
    kernel = np.ones(min(3, len(spectrum.frc)))
    norm = np.convolve(np.ones(len(spectrum.frc)), kernel, mode="same")
    frc = np.convolve(spectrum.frc, kernel, mode="same") / norm
    above = frc >= half_bit_threshold(np.convolve(spectrum.pairs, kernel, mode="same"))
    if not above.any():
        return None
    below = np.flatnonzero(~above[int(np.argmax(above)) :]) + int(np.argmax(above))
    return float(1 / (spectrum.edges[below[0]] if len(below) else spectrum.edges[-1]))
