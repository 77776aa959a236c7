"""What is odd about patterns and their model, one sentence each: a zero beam in another place, counts that are not described."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.counting import expected_deviance
from agent.reconstruction.solver.experiment import Experiment

ELSEWHERE = 1.5
"""Counts in the brightest disc over those in the disc about the given centre from which that centre is doubted.

Discs half a radius apart share 0.69 of their area.
"""
COVERED = 0.5
"""Part of a disc that has to be of pixels that count."""
MISFIT = 3.0
"""Deviance over what Poisson counts of the right model have, from which the model is doubted.

An experimental recording whose detector gives several counts for an electron has 1.7.
"""


def zero_beam(experiment: Experiment) -> tuple[str, ...]:
    """Whether the mean pattern is bright elsewhere than about the centre it is said to have.

    Args:
        experiment: its loaded counts are looked at, not their patterns.

    Returns:
        A sentence with what to try, or nothing.
    """
    data, roll = experiment.data, experiment.geometry.roll
    rows, columns = data.patterns.shape[1:]
    mean, mask = (
        np.roll(image, (-roll[0], -roll[1]), axis=(0, 1))[:rows, :columns]
        for image in (experiment.counts.mean * experiment.mask, experiment.mask.astype(np.float64))
    )
    radius = data.semiangle / data.angular_pixel
    brightness = brightness_of_discs(mean, mask, radius)
    row, column = (rows // 2, columns // 2) if data.centre is None else data.centre
    given = round(row) % rows, round(column) % columns
    found = divmod(int(brightness.argmax()), columns)
    if brightness[given] == 0 or brightness[found] < ELSEWHERE * brightness[given]:
        return ()
    seen = (
        f"the brightest disc of {data.semiangle:g} mrad in the mean pattern lies about pixel ({found[0]}, {found[1]})"
    )
    if _from_corner(found, (rows, columns)) < radius / 2:
        return (
            f"{seen}, so the patterns seem to have their zero beam in the corners; apply numpy.fft.fftshift to the two detector "
            f"axes, or give (0, 0) as centre instead of ({row:g}, {column:g})",
        )
    return (
        f"{seen}, not about the centre ({row:g}, {column:g}); give its place as centre, or leave it to be measured",
    )


def in_the_corners(mean: NDArray[np.float64], mask: NDArray[np.bool_] | None, radius: float) -> bool:
    """Whether a mean pattern has its zero beam in the corners, as patterns that nobody has shifted after their transform.

    Args:
        mean: (ky, kx) counts.
        mask: (ky, kx), True where the detector counts; None: everywhere.
        radius: of the disc, pixels.
    """
    counts = np.ones(mean.shape) if mask is None else mask.astype(np.float64)
    brightness = brightness_of_discs(mean * counts, counts, radius)
    found = divmod(int(brightness.argmax()), mean.shape[1])
    if _from_corner(found, mean.shape) >= radius / 2:
        return False
    y, x = (np.abs(np.fft.fftfreq(n, 1 / n)) >= min(radius, n // 2) for n in mean.shape)
    whole = brightness[np.ix_(y, x)]
    return bool(brightness[found] > ELSEWHERE * whole.max(initial=0.0))


def brightness_of_discs(mean: NDArray[np.float64], mask: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Mean counts of the counting pixels of a disc about each pixel; 0 where too few of them count.

    Beyond the edges the detector goes on at the other side, as patterns with the zero beam in the corners do.

    Args:
        mean: (ky, kx) counts, 0 where the detector does not count.
        mask: (ky, kx), 1 where it counts.
        radius: of the disc, pixels.
    """
    rows, columns = mean.shape
    y, x = np.fft.fftfreq(rows, 1 / rows)[:, None], np.fft.fftfreq(columns, 1 / columns)[None]
    disc = np.fft.rfft2(np.hypot(y, x) <= radius)
    counted, pixels = (np.fft.irfft2(np.fft.rfft2(image) * disc.conj(), s=(rows, columns)) for image in (mean, mask))
    covered = pixels > COVERED * disc[0, 0].real
    return np.where(covered, counted / np.maximum(pixels, 1), 0.0)


def _from_corner(pixel: tuple[int, int], shape: tuple[int, ...]) -> int:
    """Rows or columns, whichever are more, from a pixel to pixel (0, 0), across the edges too."""
    return max(min(p, n - p) for p, n in zip(pixel, shape, strict=True))


def misfit(experiment: Experiment, deviance: float) -> tuple[str, ...]:
    """Whether the model leaves several times as much of the counts unexplained as their noise does.

    Args:
        experiment: whose counts they are.
        deviance: per detector pixel, of the result.

    Returns:
        A sentence with what to try, or nothing.
    """
    counts, seen = experiment.counts, experiment.mask
    ratio = deviance / float(expected_deviance(np.maximum(counts.mean[seen], 1e-9)).mean())
    ratio /= max(experiment.data.counts_per_electron, 1.0)
    if ratio < MISFIT:
        return ()
    return (
        f"the deviance is {ratio:.1f} times what counting noise explains, so the model does not describe these counts; check "
        "defocus, step, rotation, pixel size and counts per electron, or allow for more: probe_modes, refine_intensity, "
        "refine_positions",
    )
