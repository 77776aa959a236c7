"""Detector pixels that don't count as they should, alone or in clusters: dead and hot ones, rows, gaps between chips, blocks.

A pixel is judged by the mean pattern, which is smooth and, about its zero beam, nearly symmetric, and by its own scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLED = 2048
"""Patterns whose counts are looked at, spread over the scan; pixels show their faults in all of them."""
HOT = 8.0
"""A pixel is called bad where its mean count differs by this many robust standard deviations from its neighbours'."""
EDGE = 5
"""Pixels along the edge of the neighbourhood whose median a cluster of bad ones is compared with."""
FEW = 5
"""Fewer pixels of a neighbourhood than these have no median."""
ABOVE, BELOW = 2.0, 0.4
"""Counts of a pixel over those of its surroundings, and of the place opposite, from which on it is bad in a cluster."""
CLEAR = 10.0
"""Standard deviations of counting noise that such a difference has to have."""
NOISY, STILL = 20.0, 0.2
"""Variance of a pixel's counts over that of its surroundings, or of counts: beyond the first or below the second it is bad."""
SMALLEST_DISC = 3.0
"""Radius in pixels of the smallest bright-field disc that is no cluster of hot pixels."""
MOST = 0.3
"""Part of the detector that bad pixels may be; if more are found, the mean pattern is not what was expected of it."""


@dataclass(frozen=True)
class BadPixels:
    """Which pixels do not count, (ky, kx) True where they are bad, each in one of the maps.

    Attributes:
        dead: count nothing or too little.
        hot: count too much, always the same, or in bursts.
    """

    dead: NDArray[np.bool_]
    hot: NDArray[np.bool_]

    @property
    def any(self) -> NDArray[np.bool_]:
        """(ky, kx)."""
        return np.asarray(self.dead | self.hot)


def find_bad_pixels(
    patterns: Any, frames: NDArray[np.int64], radius: float, known: Sequence[tuple[int, int]] = ()
) -> BadPixels:
    """Pixels that are known or seen to be bad.

    Args:
        patterns: (n, ky, kx) counts.
        frames: numbers of the patterns that are good enough to be looked at, (m,).
        radius: of the bright-field disc, pixels, as far as it is known; where it is below SMALLEST_DISC clusters are not
            looked for.
        known: (row, column) of pixels that the instrument advertises as dead, or that the user wants to leave out.

    Returns:
        The bad pixels.
    """
    mean, variance, n = _statistics(patterns, frames)
    given = np.zeros(mean.shape, bool)
    for row, column in known:
        given[row, column] = True
    dead, hot = np.zeros_like(given), np.zeros_like(given)
    if min(radius, min(mean.shape) / 2) >= SMALLEST_DISC:
        for _ in range(2):  # what is found first no longer blurs the surroundings of the rest
            dead, hot = _in_clusters(mean, variance, n, given | dead | hot, radius)
    filled = np.where(given | dead | hot, _surroundings(mean, given | dead | hot), mean)
    alone = _alone(filled, n)
    hot |= alone & (filled > _median_of_neighbours(filled))
    dead |= alone & ~hot
    if (dead | hot).mean() > MOST:
        dead, hot = np.zeros_like(given), np.zeros_like(given)
    return BadPixels(dead | given, hot & ~given)


def _statistics(patterns: Any, frames: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """(ky, kx) mean and variance of the counts of some patterns, and of how many."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, SAMPLED).astype(np.int64))]
    total, square = np.zeros(patterns.shape[1:]), np.zeros(patterns.shape[1:])
    for number in chosen:
        pattern = np.asarray(patterns[number], np.float64)
        total += pattern
        square += pattern**2
    n = len(chosen)
    mean = total / n
    return mean, np.maximum(square / n - mean**2, 0), n


def _in_clusters(
    mean: NDArray[np.float64], variance: NDArray[np.float64], n: int, bad: NDArray[np.bool_], radius: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(dead, hot) pixels among others; `bad` ones are known already and left out of what each is compared with."""
    from scipy.ndimage import binary_propagation

    smooth = _surroundings(mean, bad | (mean == 0))
    centre = _zero_beam(smooth, radius)
    opposite = _opposite(smooth, mean, centre)
    least = np.fmin(_extreme(smooth, np.fmin), _extreme(opposite, np.fmin))
    dead = _too_few(mean, least, n)
    if dead.any():  # rows and gaps go on to the rim of the disc, where less tells what a pixel should count
        dead = np.asarray(binary_propagation(dead, mask=dead | _too_few(mean, np.fmin(smooth, opposite), n)))
    smooth = _surroundings(mean, bad | dead)
    most = np.fmax(_extreme(smooth, np.fmax), _extreme(_opposite(smooth, mean, centre), np.fmax))
    hot = mean > ABOVE * most + CLEAR * np.sqrt(np.maximum(most, 1 / n) / n)
    counted = mean * n > CLEAR**2
    still = counted & (variance < STILL * mean)
    if still.sum() > 0.1 * (mean > 0.5 * smooth.max()).sum():  # a saturated disc is no fault of single pixels
        still &= mean < 0.9 * mean[still].max(initial=0.0)
    scatter = _surroundings(np.where(counted, variance / np.maximum(mean, 1e-30), 1.0), bad)
    noisy = counted & (variance > NOISY * mean * np.maximum(_extreme(scatter, np.fmax), 1.0))
    return dead, (hot | still | noisy) & ~dead


def _too_few(mean: NDArray[np.float64], expected: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """(ky, kx) where the mean count of n patterns is far below what is expected.

    A pixel of little sensitivity has little noise itself: that of what it should count decides.
    """
    return np.asarray(mean < BELOW * (expected - CLEAR * np.sqrt(np.maximum(expected, 0) / n)))


def _surroundings(image: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(ky, kx) medians over EDGE × EDGE pixels without those that are `bad`; the nearest ones in wide gaps."""
    reach = EDGE // 2
    padded = np.pad(np.where(bad, np.nan, image), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (EDGE, EDGE)).reshape(*image.shape, -1)
    counted = np.isfinite(windows).sum(axis=-1)
    counted[counted < FEW] = 0  # a pixel by itself tells nothing
    ordered = np.sort(windows, axis=-1)  # what is not a number comes last
    middle = np.maximum(counted - 1, 0) // 2
    medians = np.take_along_axis(ordered, middle[..., None], axis=-1)[..., 0]
    if (counted == 0).all():
        return np.zeros_like(image)
    if (counted == 0).any():
        from scipy.ndimage import distance_transform_edt

        nearest: Any = distance_transform_edt(counted == 0, return_distances=False, return_indices=True)
        row, column = nearest
        far = np.hypot(*np.subtract(np.indices(image.shape), np.stack((row, column)))) > EDGE
        medians = np.where(far, 0.0, medians[row, column])
    return np.asarray(medians)


def find_zero_beam(mean: NDArray[np.float64], bad: NDArray[np.bool_], radius: float) -> tuple[float, float]:
    """(row, column) of the zero beam, to half a pixel or so.

    Args:
        mean: (ky, kx) pattern.
        bad: (ky, kx) pixels that do not count.
        radius: of the bright-field disc, pixels.
    """
    return _zero_beam(_surroundings(mean, bad), radius)


def _zero_beam(smooth: NDArray[np.float64], radius: float) -> tuple[float, float]:
    """(row, column) about which the disc of that radius is brightest."""
    rows, columns = smooth.shape
    y, x = np.fft.fftfreq(rows, 1 / rows)[:, None], np.fft.fftfreq(columns, 1 / columns)[None]
    disc = np.fft.rfft2((np.hypot(y, x) <= radius) - 0.5 * (np.hypot(y, x) <= 1.5 * radius))
    inside = float(np.clip(0.5 * np.pi * radius**2 / smooth.size, 0.01, 0.5))  # half of the disc
    capped = np.minimum(smooth, np.quantile(smooth, 1 - inside))
    brightness = np.fft.irfft2(np.fft.rfft2(capped) * disc.conj(), s=smooth.shape)
    row, column = divmod(int(brightness.argmax()), columns)
    near = smooth > 0.5 * smooth[row, column]
    near &= np.hypot(*np.subtract(np.indices(smooth.shape), np.reshape((row, column), (2, 1, 1)))) < 1.5 * radius
    middle = np.argwhere(near).mean(axis=0) if near.any() else (row, column)
    return float(middle[0]), float(middle[1])


def _opposite(
    image: NDArray[np.float64], mean: NDArray[np.float64], centre: tuple[float, float]
) -> NDArray[np.float64]:
    """(ky, kx) `image` turned by half a turn about `centre`; what is usual at its distance where that lies off the detector."""
    i, j = np.indices(image.shape)
    ring = np.maximum(np.rint(np.hypot(i - centre[0], j - centre[1])), 3).astype(int)
    usual = np.zeros(ring.max() + 1)
    for distance in np.unique(ring):
        counts = mean[ring == distance]
        seen = counts[counts > 0]
        usual[distance] = np.median(seen) if len(seen) > len(counts) / 4 else 0.0
    row, column = np.rint(2 * centre[0] - i).astype(int), np.rint(2 * centre[1] - j).astype(int)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    return np.where(inside, image[np.where(inside, row, 0), np.where(inside, column, 0)], usual[ring])


def _extreme(image: NDArray[np.float64], which: Any) -> NDArray[np.float64]:
    """(ky, kx) the largest or smallest (np.fmax, np.fmin) of each pixel and its eight neighbours."""
    padded = np.pad(image, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*image.shape, 9)
    return np.asarray(which.reduce(windows, axis=-1))


def _neighbours(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(8, ky, kx) the eight neighbours of each pixel, in order of their values."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    return np.sort(np.stack([np.roll(image, shift, axis=(0, 1)) for shift in shifts]), axis=0)


def _median_of_neighbours(image: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = _neighbours(image)
    return np.asarray((ordered[3] + ordered[4]) / 2)


def _alone(mean: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """(ky, kx) True where a mean count of n patterns lies far outside the spread of its eight neighbours, beyond counting noise.

    Pixels on the steep rim of the disc have spread-out neighbours and are left alone.
    """
    ordered = _neighbours(mean)
    median = (ordered[3] + ordered[4]) / 2
    spread = ordered[6] - ordered[1] + np.sqrt(np.maximum(median, 1.0 / n) / n)
    return np.asarray(np.abs(mean - median) > HOT * spread)
