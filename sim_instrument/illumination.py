# SPDX-License-Identifier: GPL-3.0-or-later
"""The partially coherent probe as a short sum of coherent ones.

A finite source and an energy spread make the illumination a mixture of shifted and defocused probes. A dense quadrature of
that mixture is diagonalised: its eigenmodes are the fewest coherent probes that carry a given part of the intensity (Wolf,
J. Opt. Soc. Am. 72 (1982) 343). What is left out bounds the error of every pattern, whatever the specimen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instrument import optics
from sim_instrument.column import FWHM, Column

TOLERANCE = 0.02
"""Part of the intensity that may be left out. The relative L1 error of a pattern is at most twice that, and half of it,
1 %, where the specimens of this package have been measured."""

_FEWEST_NODES, _NODES_PER_RADIAN = 5, 4
"""Nodes of a quadrature for a phase of so many radians, centre to edge of the aperture, per standard deviation."""
_NEGLIGIBLE = 1e-4
"""Part of the intensity below which a term is left out before diagonalisation."""


@dataclass(frozen=True)
class Modes:
    """Coherent modes of the probe in reciprocal space, corner-centred, at the specimen's entrance surface.

    Attributes:
        waves: (modes, ky, kx), Σ|wave|² = 1 each.
        weights: (modes,) intensities, descending, sum 1.
        omitted: part of the intensity that the modes left out, before the weights were scaled to 1.
    """

    waves: NDArray[np.complex64]
    weights: NDArray[np.float64]
    omitted: float


def probe_modes(
    column: Column,
    defocus: float,
    shape: tuple[int, int],
    pixel: float,
    to_scan: NDArray[np.float64],
    tolerance: float = TOLERANCE,
) -> Modes:
    """The modes of a probe at position 0.

    Args:
        column: aperture, aberrations, source and energy spread.
        defocus: true, Å, positive for underfocus.
        shape: (y, x) pixels of the window.
        pixel: Å.
        to_scan: 2 × 2 matrix from the window's frame to the scan's, in which aberrations are defined.
        tolerance: part of the intensity that may be left out.

    Returns:
        Waves and weights, strongest first.
    """
    extent = np.array(shape) * pixel
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n, pixel) for n in shape), indexing="ij")
    edge = optics.spatial_frequency(column.semiangle, column.voltage)
    # The part of a sample that lies inside the edge is intensity, hence the root.
    aperture = np.sqrt(np.clip((edge - np.hypot(ky, kx)) * extent.min() + 0.5, 0, 1))
    lit = aperture > 0
    k = np.stack([ky[lit], kx[lit]], axis=-1)
    scan_k = k @ to_scan.T
    chi = optics.aberration_phase(scan_k[:, 0], scan_k[:, 1], column.voltage, {**column.aberrations, "C10": -defocus})
    wave = aperture[lit] * np.exp(-1j * chi)
    wave /= np.linalg.norm(wave)

    mixture = _mixture(column, k, wave)
    # The modes are the right singular vectors; the matrix of overlaps between the draws is the smaller problem.
    eigenvalues, vectors = np.linalg.eigh(mixture @ mixture.conj().T)
    weights = eigenvalues[::-1].clip(0) / eigenvalues.sum()
    count = int(np.searchsorted(np.cumsum(weights), 1 - tolerance)) + 1
    kept = weights[:count]
    waves = np.zeros((count, *shape), dtype=np.complex64)
    waves[:, lit] = (vectors[:, ::-1][:, :count].conj().T @ mixture) / np.sqrt(kept)[:, None]
    return Modes(waves, kept / kept.sum(), float(1 - kept.sum()))


def _mixture(column: Column, k: NDArray[np.float64], wave: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(draws, k) quadrature of source points and focal spread, each row scaled by √weight."""
    wavelength = optics.wavelength(column.voltage)
    along_y, along_x = (_averaged(2 * np.pi * k[:, axis], column.source_size / FWHM) for axis in (0, 1))
    defocused = _averaged(np.pi * wavelength * np.sum(k**2, axis=1), column.focal_spread)
    rows = np.einsum("ak,bk,ck,k->abck", along_y, along_x, defocused, wave).reshape(-1, len(wave))
    power = np.sum(np.abs(rows) ** 2, axis=1)
    mixture: NDArray[np.complex128] = rows[power > _NEGLIGIBLE * power.sum() / len(rows)]
    return mixture


def _averaged(slope: NDArray[np.float64], deviation: float) -> NDArray[np.complex128]:
    """(draws, k): phase factors exp(−i slope x) whose outer products add up to their mean over x, normal with `deviation`.

    A Gauss–Hermite quadrature with enough nodes for the largest phase, then only what of it is linearly independent.
    """
    steepest = float(np.ptp(slope)) / 2 * deviation
    nodes = _FEWEST_NODES + math.ceil(_NODES_PER_RADIAN * steepest)
    x, weight = _gauss_hermite(deviation, nodes)
    phases = np.sqrt(weight)[:, None] * np.exp(-1j * np.outer(x, slope))
    eigenvalues, vectors = np.linalg.eigh(phases @ phases.conj().T)
    kept = eigenvalues > _NEGLIGIBLE * eigenvalues.sum()
    independent: NDArray[np.complex128] = vectors[:, kept].conj().T @ phases
    return independent


def _gauss_hermite(deviation: float, nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for the mean over a normal distribution; one node where it has no width."""
    if deviation == 0:
        return np.zeros(1), np.ones(1)
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return x * deviation, weight / weight.sum()
