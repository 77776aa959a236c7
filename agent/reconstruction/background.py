"""Counts that the coherent model does not explain: inelastic and stray electrons, smooth round the disc."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PEDESTAL, EXCESS = 0.8, 0.05
"""Start: these parts of the darkest ring outside the disc, and of what other rings hold above it.

A specimen scatters least into the darkest ring, so its counts are mostly background; what is above it may be either, and
a background grows faster than it shrinks.
"""


def rings(shape: tuple[int, int], centre_offset: tuple[float, float]) -> NDArray[np.int64]:
    """Index of the two-pixel wide ring round the disc centre, (ky, kx), corner-centred."""
    ky, kx = (np.fft.fftfreq(n, 1.0 / n) for n in shape)
    radius = np.hypot((ky - centre_offset[0])[:, None], (kx - centre_offset[1])[None, :])
    return (radius / 2).astype(np.int64)


def ring_mean(image: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """Each pixel replaced by the mean of its ring."""
    total = np.bincount(index.ravel(), weights=image.ravel())
    mean = total / np.maximum(np.bincount(index.ravel()), 1)
    return np.asarray(mean[index])


def start(
    mean: NDArray[np.float64], seen: NDArray[np.bool_], bright: NDArray[np.bool_], index: NDArray[np.int64]
) -> NDArray[np.float32]:
    """A flat pedestal and a part of the ring means outside the disc; inside, what its brightest neighbour ring has.

    `mean` counts per pattern, `seen` where the detector counts, `bright` the disc; (ky, kx), corner-centred.
    """
    mean = np.where(seen, mean, 0)
    outside = ~bright & (ring_mean(bright.astype(float), index) == 0) & seen
    if not outside.any():
        return np.full(mean.shape, 1e-6 * mean.max(), np.float32)
    profile = ring_mean(mean * seen, index) / np.maximum(ring_mean(seen.astype(float), index), 1e-9)
    lowest = profile[outside].min()
    excess = np.where(outside, profile - lowest, 0.0)
    excess = np.where(outside, excess, excess.max())
    return (PEDESTAL * lowest + EXCESS * excess + 1e-6 * mean.max()).astype(np.float32)


def gain(ratio: NDArray[Any], mask: NDArray[Any], index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Factor of two expectation-maximisation steps in one, the coherent part held fixed.

    `ratio` is the mean of counts over model, (ky, kx).
    """
    factor = ring_mean(ratio * mask, index) / np.maximum(ring_mean(mask, index), 1e-6)
    return np.clip(factor**2, 0.2, 5.0).astype(np.float32)
