"""From the linear map of parallax to rotation, handedness, defocus and astigmatism, with their standard deviations."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.parallax import ShiftMap


def decompose(shift_map: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Polar decomposition of a shift map, by singular values.

    Args:
        shift_map: (2, 2), Å per rad.

    Returns:
        M, orthogonal, and A, symmetric and negative definite, of s = −A M α for underfocus; −M, −A fits as well.
    """
    u, s, vt = np.linalg.svd(shift_map)
    return u @ vt, -(u * s) @ u.T


def named_numbers(matrix: NDArray[np.float64], aberration: NDArray[np.float64]) -> dict[str, float]:
    """Rotation, defocus and astigmatism as the conventions of instrument.optics name them.

    ½ αᵀ A α = ½ |α|² (C10 + C12 cos 2(φ − φ12)), φ = atan2(y, x), makes, with a = 2φ12,
    A = [[C10 − C12 cos a, C12 sin a], [C12 sin a, C10 + C12 cos a]].

    Args:
        matrix: (2, 2) M.
        aberration: (2, 2) A, Å.

    Returns:
        rotation and phi12 in rad, defocus and c12 in Å.
    """
    cosine, sine = 0.5 * (aberration[1, 1] - aberration[0, 0]), aberration[0, 1]
    proper = matrix @ np.diag([-1.0, 1.0]) if np.linalg.det(matrix) < 0 else matrix
    return {
        "rotation": math.atan2(proper[1, 0], proper[0, 0]),
        "defocus": -0.5 * float(np.trace(aberration)),
        "c12": math.hypot(cosine, sine),
        "phi12": 0.5 * math.atan2(sine, cosine),
    }


def standard_deviations(shifts: ShiftMap, to_angstrom: float, sign: float) -> dict[str, float]:
    """The shift map's covariance carried to the named numbers by differences."""

    def numbers(flat: NDArray[np.float64]) -> dict[str, float]:
        matrix, aberration = decompose(flat.reshape(2, 2) * to_angstrom)
        return named_numbers(sign * matrix, sign * aberration)

    flat = shifts.matrix.ravel()
    centre = numbers(flat)
    step = 1e-4 * max(float(np.abs(flat).max()), 1e-6)
    moved = [numbers(flat + step * unit) for unit in np.eye(4)]
    sd: dict[str, float] = {}
    for name, period in (("rotation", 2 * math.pi), ("defocus", None), ("c12", None), ("phi12", math.pi)):
        slope = np.array([m[name] - centre[name] for m in moved])
        if period is not None:
            slope = (slope + period / 2) % period - period / 2
        slope /= step
        sd[name] = math.sqrt(max(float(slope @ shifts.covariance @ slope), 0.0))
    return sd
