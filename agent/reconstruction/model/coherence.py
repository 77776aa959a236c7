"""The modes that a finite source and a spread of the defocus make of one aperture (README, "Partial coherence")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instrument import optics

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""
POINTS = 300
"""Points of the aperture, at most or about so many, that the modes are found on; they are smooth, and other points follow."""
MOST = 48
"""Modes at most: a source that takes more leaves next to nothing of what is finer than itself."""

SourceSize = float | tuple[float, float, float]
"""FWHM, Å; or (major FWHM, minor FWHM, angle of the major axis in rad as of aberrations)."""


class Spread(NamedTuple):
    """What is averaged over.

    Attributes:
        source: of `DiffractionData.source_size`.
        focus: standard deviation of the defocus, Å.
    """

    source: SourceSize
    focus: float

    @property
    def coherent(self) -> bool:
        """Whether there is nothing to average over."""
        return self.focus == 0 and not source_matrix(self.source).any()


def source_matrix(source: SourceSize) -> NDArray[np.float64]:
    """(2, 2) symmetric, Å, (y, x): its eigenvalues are the FWHM along its axes; its square over FWHM² is the covariance."""
    if not isinstance(source, tuple | list):
        return float(source) * np.eye(2)
    major, minor, angle = source
    axis = np.array([math.sin(angle), math.cos(angle)])
    return np.asarray(minor * np.eye(2) + (major - minor) * np.outer(axis, axis))


def source_of(matrix: NDArray[np.float64]) -> SourceSize:
    """The source of a symmetric (2, 2) matrix of FWHM, Å; a number where it is round."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(np.abs(values))[::-1]
    major, minor = np.abs(values[order]).tolist()
    if major - minor <= 1e-9 * max(major, 1.0):
        return float(major)
    y, x = vectors[:, order[0]]
    return (major, minor, math.atan2(y, x) % math.pi)


def wider(spread: Spread, fwhm: float) -> Spread:
    """The spread with a round source of so many Å FWHM beside its own."""
    values, vectors = np.linalg.eigh(source_matrix(spread.source))
    matrix = (vectors * np.hypot(values, fwhm)) @ vectors.T
    return Spread(source_of(matrix), spread.focus)


def factors(
    aperture: NDArray[Any],
    spread: Spread,
    angular_pixel: float,
    voltage: float,
    centre_offset: tuple[float, float] = (0.0, 0.0),
    *,
    carried: float = 0.99,
    count: int | None = None,
) -> NDArray[np.float32]:
    """The real factors u_m(k) that make the modes u_m(k) A(k) of an aperture A.

    Averaged over Gaussians, the mutual coherence of aperture points k and q is exp(−½|c(k) − c(q)|²) with c = (2πσk, πλΔk²), σ²
    the covariance of the source, Δ the focal spread. Its orthogonal expansion is found on some of the aperture's pixels (the
    method of Nyström), cut, and normalised in every point, so that the aperture's intensity stays as it is.

    Args:
        aperture: (ky, kx), corner-centred; its intensities weigh the points.
        spread: of source and focus.
        angular_pixel: mrad per pixel.
        voltage: eV.
        centre_offset: (row, column) displacement of the disc in pixels.
        carried: part of the intensity that the modes have to carry before they are normalised.
        count: how many instead, whatever they carry.

    Returns:
        (modes, ky, kx), Σ_m u_m² = 1, of falling intensity; outside the aperture's surroundings the first is 1.
    """
    intensity = np.abs(aperture) ** 2
    inside = np.nonzero(surroundings(intensity > 0, 2))
    points = _coordinates(inside, aperture.shape, spread, angular_pixel, voltage, centre_offset)
    nodes = _thinned(inside, intensity)
    weight = np.sqrt(intensity[inside][nodes] / intensity[inside][nodes].sum())
    within = weight[:, None] * _coherence(points[nodes], points[nodes]) * weight
    powers, vectors = np.linalg.eigh(within)
    powers, vectors = np.maximum(powers[::-1], 1e-12), vectors[:, ::-1]
    if count is None:
        count = min(int(np.searchsorted(np.cumsum(powers), carried * powers.sum())) + 1, MOST)
    count = min(count, len(nodes))
    vectors = vectors[:, :count] * np.sign(vectors[:, :count].sum(axis=0) + 1e-12)
    found = (_coherence(points, points[nodes]) * weight) @ (vectors / np.sqrt(powers[:count]))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    result = np.zeros((count, *aperture.shape), np.float32)
    result[0] = 1
    result[:, inside[0], inside[1]] = found.T
    return result


def surroundings(inside: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """(ky, kx), corner-centred: what lies within so many pixels of `inside` along both axes."""
    for _ in range(pixels):
        for axis in (0, 1):
            inside = inside | np.roll(inside, 1, axis) | np.roll(inside, -1, axis)
    return inside


def _coordinates(
    inside: tuple[NDArray[np.intp], ...],
    shape: tuple[int, ...],
    spread: Spread,
    angular_pixel: float,
    voltage: float,
    centre_offset: tuple[float, float],
) -> NDArray[np.float64]:
    """(points, 3): c of the pixels `inside`."""
    dk = optics.spatial_frequency(angular_pixel, voltage)
    k = np.stack(
        [
            (np.fft.fftfreq(n, 1 / n)[index] - offset) * dk
            for n, index, offset in zip(shape, inside, centre_offset, strict=True)
        ],
        axis=-1,
    )
    source = 2 * np.pi * k @ (source_matrix(spread.source) / FWHM)
    focus = np.pi * optics.wavelength(voltage) * spread.focus * (k**2).sum(axis=1)
    return np.concatenate([source, focus[:, None]], axis=1)


def _thinned(inside: tuple[NDArray[np.intp], ...], intensity: NDArray[Any]) -> NDArray[np.intp]:
    """Which of the pixels `inside` are taken: bright ones on a coarser square lattice."""
    bright = intensity[inside] > 1e-3 * intensity.max()
    coarser = max(1, math.ceil(math.sqrt(np.count_nonzero(bright) / POINTS)))
    index = [np.fft.fftfreq(n, 1 / n).astype(int)[i] % coarser for n, i in zip(intensity.shape, inside, strict=True)]
    return np.flatnonzero(bright & (index[0] == 0) & (index[1] == 0))


def _coherence(here: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """(a, b) exp(−½|c − c'|²) of points (a, 3) and (b, 3)."""
    squares = (here**2).sum(axis=1)[:, None] + (there**2).sum(axis=1) - 2 * here @ there.T
    return np.asarray(np.exp(-0.5 * np.maximum(squares, 0)))


@dataclass(frozen=True)
class TiedModes:
    """Probe modes that have one aperture function in common, and further ones that are free.

    Attributes:
        factors: (M, ky, kx) float32 on the backend, of the modes that are tied.
    """

    factors: Any

    def common(self, modes: Any) -> Any:
        """(1 + F, ky, kx): what (M + F, ky, kx) have in common, Σ_m u_m P_m, then the free ones.

        Of modes it is the aperture function; of slopes by the modes it is the slope by the aperture function.
        """
        m = len(self.factors)
        result = modes[m - 1 :].copy()
        result[0] = (self.factors * modes[:m]).sum(axis=0)
        return result

    def spread(self, waves: Any) -> Any:
        """(M + F, ky, kx) of (1 + F, ky, kx): the first times each factor, then the free ones."""
        m = len(self.factors)
        result = waves[:1].repeat(m + len(waves) - 1, axis=0)
        result[:m] *= self.factors
        result[m:] = waves[1:]
        return result

    def free_orthogonal(self, modes: Any, xp: Any) -> None:
        """Take out of the free modes, in place, what tied ones could describe.

        Args:
            modes: (M + F, ky, kx).
            xp: array module.
        """
        m = len(self.factors)
        for free in range(m, len(modes)):
            for tied in range(m):
                size = xp.maximum((xp.abs(modes[tied]) ** 2).sum(), 1e-30)
                modes[free] -= (modes[tied].conj() * modes[free]).sum() / size * modes[tied]
