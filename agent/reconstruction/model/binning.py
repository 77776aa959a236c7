"""The detector in bins of 2 × 2 pixels for the first passes: a quarter of the work, and no count is lost.

Where the probe is much smaller than the window, patterns hold nothing as fine as two pixels, and a window of half the width
is enough; the object and its pixels stay as they are. Fringes as fine as the whole probe is wide lose a quarter of their
contrast; the passes that follow put that right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import two_by_two
from agent.reconstruction.model import start
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.forward import Problem, Unknowns
from agent.reconstruction.model.geometry import Geometry, legal_length
from agent.reconstruction.model.probe import to_real_space
from agent.reconstruction.model.settings import ReconstructionSettings

INSIDE = 0.9
"""Part of the electrons that has to pass through the middle quarter of the window along both axes."""
WHOLE = 0.8
"""Part of the counting pixels that has to lie in bins of which every pixel counts."""


def half_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Bins (ky, kx) of a detector of `shape` (ky, kx) pixels."""
    return shape[0] // 2, shape[1] // 2


def can_bin(modes: NDArray[np.complex64], seen: NDArray[np.bool_], shape: tuple[int, ...]) -> bool:
    """Whether patterns may be binned: the probe is small, and few pixels do not count.

    Args:
        modes: (modes, ky, kx) probe in the aperture plane.
        seen: (ky, kx) where the detector counts, rim included.
        shape: (n, ky, kx) of the patterns as they were measured.
    """
    n_y, n_x = seen.shape
    if any(n % 32 for n in shape[1:]) or any(legal_length(n // 2) != n // 2 for n in seen.shape):
        return False
    if 4 * int((two_by_two(seen, np.int64) == 4).sum()) < WHOLE * seen.sum():
        return False
    intensity = (np.abs(to_real_space(modes)) ** 2).sum(axis=0)
    middle = intensity[n_y // 2 - n_y // 8 : n_y // 2 + n_y // 8, n_x // 2 - n_x // 8 : n_x // 2 + n_x // 8]
    return bool(middle.sum() >= INSIDE * intensity.sum())


def bin_problem(
    problem: Problem,
    found: Unknowns,
    data: DiffractionData,
    settings: ReconstructionSettings,
    geo: Geometry,
    xp: Any,
) -> tuple[Problem, Unknowns]:
    """The same experiment on a detector whose pixel j is the pixels 2j and 2j + 1. Nothing here waits for the device.

    Args:
        problem: its counts are those of the bins, all else is of the pixels.
        found: what is known so far, on the pixels.
        data, settings, geo: of the experiment.
        xp: array module of `problem` and `found`.

    Returns:
        Problem and unknowns of the bins; the object, weights and sub-pixel shifts are shared with `found`.
    """
    n_y, n_x = problem.mask.shape
    small, edge = half_shape((n_y, n_x)), (n_y // 4, n_x // 4)
    # a bin's centre lies half a pixel behind its first pixel
    row, column = ((place - 0.5) / 2 for place in geo.centre_offset)
    coarse = replace(
        data, angular_pixel=2 * data.angular_pixel, point_spread=data.point_spread / 2, area_integration=False
    )
    transfer = start.transfer(coarse, small)
    support = None if problem.support is None else two_by_two(problem.support, np.int64) > 0
    waves = xp.fft.fftshift(xp.fft.ifft2(found.apertures), axes=(1, 2))
    ramps = [xp.exp(-1j * xp.pi * (xp.arange(n) - n // 2) / n) for n in (n_y, n_x)]
    waves = waves * (ramps[0][:, None] * ramps[1])
    waves = waves[:, edge[0] : edge[0] + small[0], edge[1] : edge[1] + small[1]]
    apertures = xp.fft.fft2(xp.fft.ifftshift(waves, axes=(1, 2)))
    # the cut made the disc's edge ring; what falls into each bin is known
    intensity = two_by_two(xp.abs(found.apertures) ** 2)
    apertures *= xp.sqrt(intensity / xp.maximum(xp.abs(apertures) ** 2, 1e-30))
    return (
        replace(
            problem,
            mask=(two_by_two(problem.mask) == 4).astype(np.float32),
            propagators=xp.asarray(
                start.propagators(coarse, settings, replace(geo, centre_offset=(row, column)), small)
            ),
            support=support,
            transfer=None if transfer is None else xp.asarray(transfer),
            variance=4 * problem.variance,
        ),
        replace(
            found,
            apertures=apertures.astype(np.complex64),
            corners=found.corners + xp.asarray(edge, dtype=found.corners.dtype),
            background=two_by_two(found.background),
        ),
    )


def enlarge(image: Any) -> Any:
    """An image of bins (y, x) as one of pixels (2y, 2x)."""
    return image.repeat(2, axis=0).repeat(2, axis=1)
