# SPDX-License-Identifier: GPL-3.0-or-later
"""From intensities to counts: point spread, bad pixels, shot noise, saturation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim_instrument.column import Column
from sim_instrument.data_faults import touching_bad_pixels

_SPARSE = 0.4
"""Electrons per pixel below which drawing them one by one is the faster way to Poisson noise."""


class PixelDetector:
    """The pixelated detector; which pixels are bad depends on the seed alone.

    Args:
        column: pixels, point spread, bad pixels and saturation.
        seed: of the bad pixels.
    """

    def __init__(self, column: Column, seed: int) -> None:
        n = column.detector_pixels
        bad = np.random.default_rng([seed, 3]).choice(n * n, column.dead_pixels + column.hot_pixels, replace=False)
        self._hot_blocks, self._silent = touching_bad_pixels(column, n, np.random.default_rng([seed, 7]))
        self._column = column
        self._dead, self._hot = np.divmod(bad[: column.dead_pixels], n), np.divmod(bad[column.dead_pixels :], n)
        reach = int(np.ceil(4 * column.point_spread))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(column.point_spread, 1e-9)) ** 2)
        self._taps = (taps / taps.sum()).astype(np.float32)

    @property
    def dead_pixels(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of the pixels that do not count; the facility knows them."""
        return tuple(zip(self._dead[0].tolist(), self._dead[1].tolist(), strict=True))

    @property
    def hot_pixels(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of the pixels with false counts; nobody has noticed them."""
        return tuple(zip(self._hot[0].tolist(), self._hot[1].tolist(), strict=True))

    def expected(self, intensity: NDArray[np.float32], electrons: float, dwell: float) -> NDArray[np.float32]:
        """Mean counts of a pattern.

        Args:
            intensity: (ky, kx) part of the electrons in each pixel.
            electrons: per pattern.
            dwell: s, for the false counts of hot pixels.

        Returns:
            (ky, kx) counts.
        """
        mean = self._spread(self._spread(intensity * np.float32(electrons)).T).T
        mean[self._dead] = 0
        mean[self._hot] += self._column.hot_rate * dwell
        mean[self._hot_blocks] += self._column.hot_block_rate * dwell
        mean[self._silent] = 0
        return mean

    def count(self, expected: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint16]:
        """Draw one frame.

        Args:
            expected: (ky, kx) mean counts.
            rng: source of the noise.

        Returns:
            (ky, kx) counts, saturated.
        """
        counts = poisson(expected, rng) if self._column.shot_noise else np.rint(expected)
        return np.minimum(counts, self._column.saturation).astype(np.uint16)

    def _spread(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convolve the rows' axis with the point spread; what leaves the detector is lost."""
        reach = len(self._taps) // 2
        if not reach:
            return image.copy()
        out: NDArray[np.float32] = image * self._taps[reach]
        for shift in range(1, reach + 1):
            out[shift:] += self._taps[reach + shift] * image[:-shift]
            out[:-shift] += self._taps[reach + shift] * image[shift:]
        return out


def poisson(expected: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Independent Poisson numbers.

    At low means the total is drawn first and each electron then put into a pixel at random, which is the same
    distribution and several times faster than a Poisson number per pixel.

    Args:
        expected: means, any shape.
        rng: source of randomness.

    Returns:
        Counts, same shape.
    """
    cumulative = np.cumsum(expected, dtype=np.float64)
    total = cumulative[-1]
    if total > _SPARSE * expected.size:
        return rng.poisson(expected)
    hits = np.searchsorted(cumulative, rng.random(rng.poisson(total)) * total, side="right")
    return np.bincount(np.minimum(hits, expected.size - 1), minlength=expected.size).reshape(expected.shape)
