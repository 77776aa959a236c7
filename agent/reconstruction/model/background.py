"""Counts that the coherent model does not explain: inelastic and stray electrons, smooth round the disc."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PEDESTAL, EXCESS = 0.8, 0.05
"""The start holds these parts of the darkest ring outside the disc, and of what the other rings hold above it.

A specimen scatters least into the darkest ring, so the counts there are mostly background. What is above it may be either, and
a background grows faster than it shrinks.
"""


class Rings:
    """Rings two pixels wide round the disc's centre, and means over them.

    Args:
        shape: (ky, kx) detector pixels.
        centre_offset: (row, column) of the disc from pixel (0, 0), pixels.
        xp: array module of the images; nothing here waits for its device.
    """

    def __init__(self, shape: tuple[int, int], centre_offset: tuple[float, float], xp: Any = np) -> None:
        ky, kx = (np.fft.fftfreq(n, 1.0 / n) for n in shape)
        radius = np.hypot((ky - centre_offset[0])[:, None], (kx - centre_offset[1])[None, :])
        index = (radius / 2).astype(np.int64)
        members = np.bincount(index.ravel())
        self.xp, self.index, self.members = xp, xp.asarray(index), xp.asarray(np.maximum(members, 1).astype(np.float64))

    def mean(self, image: Any) -> Any:
        """Each pixel of an image (ky, kx), corner-centred, replaced by the mean of its ring."""
        values = image.ravel().astype(np.float64)
        if self.xp is np:
            total = np.bincount(self.index.ravel(), values)
        else:  # CuPy's bincount would wait for the device, NumPy's add.at is slow
            total = self.xp.zeros(len(self.members))
            self.xp.add.at(total, self.index.ravel(), values)
        return (total / self.members)[self.index]


def start(
    mean: NDArray[np.float64], seen: NDArray[np.bool_], bright: NDArray[np.bool_], rings: Rings
) -> NDArray[np.float32]:
    """The background that a reconstruction starts from.

    Args:
        mean: (ky, kx) mean counts per pattern, corner-centred.
        seen: (ky, kx) where the detector counts.
        bright: (ky, kx) the bright-field disc.
        rings: round its centre.

    Returns:
        (ky, kx) counts: a flat pedestal and a part of the ring means outside the disc; inside, what the brightest ring
        outside has.
    """
    mean = np.where(seen, mean, 0)
    outside = ~bright & (rings.mean(bright.astype(float)) == 0) & seen
    if not outside.any():
        return np.full(mean.shape, 1e-6 * mean.max(), np.float32)
    profile = rings.mean(mean * seen) / np.maximum(rings.mean(seen.astype(float)), 1e-9)
    lowest = profile[outside].min()
    excess = np.where(outside, profile - lowest, 0.0)
    excess = np.where(outside, excess, excess.max())
    return np.asarray(PEDESTAL * lowest + EXCESS * excess + 1e-6 * mean.max()).astype(np.float32)


def gain(ratio: Any, mask: Any, rings: Rings) -> Any:
    """By what a background grows in a pass: two expectation-maximisation steps in one, the coherent part held fixed.

    Args:
        ratio: (ky, kx) mean over the patterns of counts over model.
        mask: (ky, kx) float32, 1 where the detector counts.
        rings: round the disc's centre; the arrays are of its module.

    Returns:
        (ky, kx) float32 factor, 0.2 … 5.
    """
    xp = rings.xp
    factor = rings.mean(ratio * mask) / xp.maximum(rings.mean(mask), 1e-6)
    return xp.clip(factor**2, 0.2, 5.0).astype(np.float32)
