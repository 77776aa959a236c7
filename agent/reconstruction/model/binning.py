"""The first passes see the detector in bins of 2 × 2 pixels: a quarter of the work, and no count lost.

Where the probe is much smaller than the window, patterns hold nothing as fine as two pixels. A window of half the width is enough
then; the object and its pixels stay as they are. What bins blur (fringes of the whole probe's width lose a quarter of their
contrast) the passes that follow put right.
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
"""Part of the electrons that passes through the middle quarter of the window along both axes."""
WHOLE = 0.8
"""Part of the counting pixels that lie in bins of which every pixel counts."""


def half(shape: tuple[int, int]) -> tuple[int, int]:
    """Bins (ky, kx) of a detector."""
    return shape[0] // 2, shape[1] // 2


def possible(modes: NDArray[np.complex64], seen: NDArray[np.bool_], shape: tuple[int, ...]) -> bool:
    """Whether patterns of `shape` may be binned: the probe (modes, ky, kx) is small, and `seen` (ky, kx) has few holes."""
    n_y, n_x = seen.shape
    if any(n % 32 for n in shape[1:]) or any(legal_length(n // 2) != n // 2 for n in seen.shape):
        return False
    if 4 * int((two_by_two(seen, np.int64) == 4).sum()) < WHOLE * seen.sum():
        return False
    light = (np.abs(to_real_space(modes)) ** 2).sum(axis=0)
    middle = light[n_y // 2 - n_y // 8 : n_y // 2 + n_y // 8, n_x // 2 - n_x // 8 : n_x // 2 + n_x // 8]
    return bool(middle.sum() >= INSIDE * light.sum())


def binned(
    problem: Problem,
    found: Unknowns,
    data: DiffractionData,
    settings: ReconstructionSettings,
    geo: Geometry,
    xp: Any,
) -> tuple[Problem, Unknowns]:
    """The same experiment on a detector whose pixel j is the pixels 2j and 2j + 1; the object is shared.

    The counts of `problem` are those of the bins, all else is of the pixels. Nothing here waits for the device.
    """
    n_y, n_x = problem.mask.shape
    small, edge = half((n_y, n_x)), (n_y // 4, n_x // 4)
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
    light = two_by_two(xp.abs(found.apertures) ** 2)
    apertures *= xp.sqrt(light / xp.maximum(xp.abs(apertures) ** 2, 1e-30))
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


def enlarged(image: Any) -> Any:
    """An image of bins (y, x) as one of pixels (2y, 2x)."""
    return image.repeat(2, axis=0).repeat(2, axis=1)
