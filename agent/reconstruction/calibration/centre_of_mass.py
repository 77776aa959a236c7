"""How the detector is turned against the scan, from the patterns' centre of mass: its field must be free of curl.

Lazić, Bosch & Lazar, Ultramicroscopy 160 (2016) 265; README, "Centre of mass".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.bright_field import BrightFieldDisc
from agent.reconstruction.model.windows import window_of

_REACH = 1.25
"""Disc radii around the zero beam that are summed: beyond there are few coherent electrons and much lever, hence noise."""


@dataclass(frozen=True)
class Moments:
    """Sums over the patterns of a raster; pixels from the disc's centre, detector frame.

    Attributes:
        centre: (n_y, n_x, 2) centre of mass (row, column).
        within: (n_y, n_x) counts in the bright-field disc.
    """

    centre: NDArray[np.float64]
    within: NDArray[np.float64]


@dataclass(frozen=True)
class CurlWitness:
    """What the curl says of the detector's frame.

    Attributes:
        rotation: rad, modulo π, with `mirrored` as optics.detector_to_scan takes them.
        rotation_sd: rad.
        mirrored: the hand with the smaller curl.
        handedness: difference of the curls of both hands in its standard deviations.
        significance: how far the field's power along g exceeds chance at its best rotation, in standard deviations.
    """

    rotation: float
    rotation_sd: float
    mirrored: bool
    handedness: float
    significance: float


def moments(patterns: NDArray[Any], disc: BrightFieldDisc, mask: NDArray[np.bool_] | None = None) -> Moments:
    """Centre of mass and counts in the disc of every pattern.

    Args:
        patterns: (scan_y, scan_x, ky, kx) counts, read row by row of the scan.
        disc: the bright-field disc.
        mask: (ky, kx), True where the detector counts.
    """
    n_x, *detector = patterns.shape[1:]
    rows, columns = disc.offsets((detector[0], detector[1]))
    distance = np.hypot(rows, columns)
    near = distance < _REACH * disc.radius
    if mask is not None:
        near &= mask
    within = near & (distance < 1.05 * disc.radius)
    kernels = np.stack([near, near * rows, near * columns, within], axis=-1).reshape(-1, 4).astype(np.float32)
    sums = np.stack([row.reshape(n_x, -1).astype(np.float32) @ kernels for row in patterns]).astype(np.float64)
    return Moments(sums[..., 1:3] / np.maximum(sums[..., :1], 1e-9), sums[..., 3])


def curl_witness(centre: NDArray[np.float64]) -> CurlWitness:
    """Rotation and hand that leave the (n_y, n_x, 2) field of centres of mass with the least curl.

    Every frequency has one vote, weighted by its excess over shot noise, so that neither a lattice's few strong beams nor
    the lowest frequencies, where descan and thickness rule, decide alone.

    Args:
        centre: (n_y, n_x, 2) centres of mass, detector pixels.
    """
    n_y, n_x, _ = centre.shape
    taper = np.outer(*(window_of(np.linspace(0, 1, n), 0.3) for n in (n_y, n_x)))
    y, x = np.meshgrid(np.linspace(-1, 1, n_y), np.linspace(-1, 1, n_x), indexing="ij")
    plane = np.stack([np.ones_like(y), y, x], axis=-1).reshape(-1, 3)
    flat = centre.reshape(-1, 2)
    # Descan moves the whole pattern in proportion to the probe's position.
    level = (flat - plane @ np.linalg.lstsq(plane, flat, rcond=None)[0]).reshape(centre.shape)
    spectrum = np.fft.fft2(level * taper[..., None], axes=(0, 1))
    g_y, g_x = np.fft.fftfreq(n_y)[:, None] + np.zeros((1, n_x)), np.fft.fftfreq(n_x)[None, :] + np.zeros((n_y, 1))
    g = np.hypot(g_y, g_x)
    half = ((g_y > 0) | ((g_y == 0) & (g_x > 0))) & (g > 1.5 / min(n_y, n_x)) & (g < 0.5)
    field, direction = spectrum[half], np.stack([g_y, g_x], axis=-1)[half] / g[half][:, None]
    power = (np.abs(field) ** 2).sum(axis=-1)
    # Shot noise is white: half of the frequencies have little else. The lower quartile of the power of two complex components
    # is 0.48 of its mean.
    noise = float(np.median(np.sort(power)[: max(4, len(power) // 2)])) / 0.48
    # The taper correlates neighbouring frequencies: that many of them count as one.
    shared = float((taper**4).mean() / (taper**2).mean() ** 2)
    weight = np.maximum(power - noise, 0) / np.maximum(power, 1e-30) / np.maximum(power, 1e-30)
    found = [_best_rotation(field * [1 - 2 * mirrored, 1], direction, weight, shared) for mirrored in (False, True)]
    chosen = int(found[1].score > found[0].score)
    best, other = found[chosen], found[1 - chosen]
    difference = best.along - other.along
    spread = math.sqrt(max(shared * float((difference**2).sum()), 1e-30))
    return CurlWitness(best.rotation, best.sd, bool(chosen), float(difference.sum()) / spread, best.significance)


@dataclass(frozen=True)
class _Rotation:
    rotation: float
    sd: float
    score: float
    significance: float
    along: NDArray[np.float64]


def _best_rotation(
    field: NDArray[Any], direction: NDArray[np.float64], weight: NDArray[np.float64], shared: float
) -> _Rotation:
    """Maximum over θ of Σ w |ĝ·R(θ)c|² = ½ Σ w|c|² + ½ (Σ a cos 2θ + Σ b sin 2θ)."""
    straight = (direction * field).sum(axis=-1)
    turned = direction[:, 1] * field[:, 0] - direction[:, 0] * field[:, 1]  # ĝ·R(π/2)c
    a = weight * (np.abs(straight) ** 2 - np.abs(turned) ** 2)
    b = weight * 2 * np.real(np.conj(straight) * turned)
    angle = math.atan2(b.sum(), a.sum())
    along = a * math.cos(angle) + b * math.sin(angle)
    across = b * math.cos(angle) - a * math.sin(angle)
    score = float(along.sum())
    spread = math.sqrt(max(shared * float((across**2).sum()), 1e-30))
    chance = math.sqrt(max(shared * float((a**2 + b**2).sum()) / 2, 1e-30))
    return _Rotation(angle / 2, spread / (2 * max(score, 1e-30)), score, score / chance, along)
