"""The bright-field disc of a scan's mean pattern: where it is, how large, and the images its pixels see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError

_FEWEST, _MOST = 9, 0.9
"""Bright pixels of a disc: so many at least, and at most this part of the detector."""


@dataclass(frozen=True)
class BrightFieldDisc:
    """A disc with a soft edge, fitted to a mean pattern; pixels.

    Attributes:
        centre: (row, column) of the middle.
        radius: where the intensity falls to half.
        centre_sd, radius_sd: standard deviations from the residual of the fit.
    """

    centre: tuple[float, float]
    radius: float
    centre_sd: float
    radius_sd: float

    def offsets(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(row, column) distance of every pixel of a (ky, kx) detector from the centre."""
        rows = np.arange(shape[0])[:, None] - self.centre[0] + np.zeros(shape)
        columns = np.arange(shape[1])[None, :] - self.centre[1] + np.zeros(shape)
        return rows, columns


def fit_disc(mean_pattern: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> BrightFieldDisc:
    """Least squares of (plateau with a slope) · (soft edge) + floor over the surroundings of the disc.

    Args:
        mean_pattern: (ky, kx) counts.
        mask: (ky, kx), True where the detector counts.

    Raises:
        BadInputError: no disc stands out.
    """
    from scipy.optimize import least_squares

    image = np.asarray(mean_pattern, dtype=np.float64)
    good = np.ones(image.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    # The 99th percentile of a small detector may miss the disc; the median of what exceeds half of it may not.
    top = np.sort(image[good])[-max(9, image.size // 400) :]
    bright = good & (image > 0.5 * np.median(top))
    plateau = float(np.median(image[bright])) if bright.any() else 0.0
    bright = good & (image > 0.5 * plateau)
    if plateau <= 0 or not _FEWEST <= bright.sum() <= _MOST * good.sum():
        raise BadInputError(_no_disc(int(bright.sum()), int(good.sum()), image.shape))
    grid: NDArray[np.float64] = np.indices(image.shape).astype(np.float64)
    rows, columns = grid[0], grid[1]
    row, column = float(np.median(rows[bright])), float(np.median(columns[bright]))
    radius = float(np.sqrt(bright.sum() / np.pi))
    near = good & (np.hypot(rows - row, columns - column) < 1.6 * radius + 3)
    y, x, target = rows[near], columns[near], image[near] / plateau

    def residual(p: NDArray[np.float64]) -> NDArray[np.float64]:
        distance = np.hypot(y - p[0], x - p[1])
        plateau_there = p[3] + p[6] * (y - row) / radius + p[7] * (x - column) / radius
        return np.asarray(plateau_there * 0.5 * (1 - np.tanh((distance - p[2]) / max(abs(p[4]), 0.2))) + p[5] - target)

    # soft_l1: bright rims, Bragg interference and hot pixels must not pull the edge.
    start = [row, column, radius, 1.0, 1.0, 0.0, 0.0, 0.0]
    fit = least_squares(residual, start, loss="soft_l1", f_scale=0.1)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * (residual(fit.x) ** 2).mean()
    sd = np.sqrt(np.maximum(np.diag(covariance), 0))
    return BrightFieldDisc(
        centre=(float(fit.x[0]), float(fit.x[1])),
        radius=float(fit.x[2]),
        centre_sd=float(np.hypot(sd[0], sd[1]) / np.sqrt(2)),
        radius_sd=float(sd[2]),
    )


def _no_disc(bright: int, counting: int, shape: tuple[int, ...]) -> str:
    """What a mean pattern of `shape` looks like of whose `counting` pixels so many are bright, and what may be wrong."""
    seen = f"{bright} of {counting} pixels are bright"
    if bright > _MOST * counting:
        seen += ", as where the disc is larger than the detector, counts are saturated, or the detector's axes are not the last"
    elif bright:
        seen += ", as of hot pixels, or of a disc of too few pixels"
    return (
        f"the mean pattern of {shape[0]} × {shape[1]} pixels shows no bright-field disc that lies inside the detector; {seen}; "
        f"the whole disc must lie on the detector, and on pixels that the mask lets count"
    )
