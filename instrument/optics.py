"""Electron optics that more than one room needs: wavelength, interaction, aberrations, sampling.

Sources: Kirkland, *Advanced Computing in Electron Microscopy* (2nd ed.), eqs. 2.5, 5.5–5.6; Krivanek, Dellby & Lupini,
Ultramicroscopy 78 (1999) 1, for the aberration function in polar notation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

ELECTRON_REST_ENERGY = 510998.95
"""m c², eV."""
HC = 12398.419843320026
"""h c, eV Å."""
ABERRATIONS = ("C10", "C12", "phi12", "C21", "phi21", "C23", "phi23", "C30", "C32", "phi32", "C34", "phi34")
"""Krivanek polar coefficients to third order: C in Å, phi in rad. C10 = −defocus."""


class EquivalentVoltage(float):
    """Energy, eV, of electrons with the wavelength of X-rays or light: with it everything is computed for these as well.

    Ptychography asks for the wavelength only, so no other part of the program has to know. The checks that a voltage is in eV
    let it pass, however low it is.

    >>> round(wavelength(EquivalentVoltage(1.409)), 6)
    1.409
    """

    def __new__(cls, wavelength: float) -> Self:
        """Of a wavelength in Å; V = p²/(E₀ + √(E₀² + p²)) with p = hc/λ, which loses no digits where V is small."""
        momentum = HC / wavelength
        rest = ELECTRON_REST_ENERGY
        return super().__new__(cls, momentum**2 / (rest + math.hypot(rest, momentum)))


def wavelength(voltage: float) -> float:
    """Relativistic de Broglie wavelength of the electron (Kirkland eq. 2.5).

    Args:
        voltage: beam energy, eV.

    Returns:
        λ, Å.

    >>> round(wavelength(80e3), 6)
    0.041757
    """
    return HC / math.sqrt(voltage * (2 * ELECTRON_REST_ENERGY + voltage))


def interaction_parameter(voltage: float) -> float:
    """Phase shift per projected potential (Kirkland eq. 5.6).

    Args:
        voltage: beam energy, eV.

    Returns:
        σ, rad/(V Å).

    >>> round(interaction_parameter(80e3) * 1e3, 3)
    1.009
    """
    return (
        2
        * math.pi
        / (wavelength(voltage) * voltage)
        * (ELECTRON_REST_ENERGY + voltage)
        / (2 * ELECTRON_REST_ENERGY + voltage)
    )


def spatial_frequency(angle: float, voltage: float) -> float:
    """The spatial frequency α/λ that is scattered by an angle.

    Args:
        angle: α, mrad.
        voltage: beam energy, eV.

    Returns:
        k, 1/Å.
    """
    return angle * 1e-3 / wavelength(voltage)


def pixel_size(angular_pixel: float, n_pixels: int, voltage: float) -> float:
    """Real-space sampling 1/(N Δk) of a reconstruction.

    Args:
        angular_pixel: of the detector, mrad.
        n_pixels: N, detector pixels along the axis.
        voltage: beam energy, eV.

    Returns:
        Å.
    """
    return 1.0 / (n_pixels * spatial_frequency(angular_pixel, voltage))


def probe_diameter(semiangle: float, defocus: float, voltage: float) -> float:
    """Diameter of the probe: the geometric disc 2α|Δf|, at least the diffraction limit 1.22 λ/α.

    Args:
        semiangle: α, mrad.
        defocus: Δf, Å.
        voltage: beam energy, eV.

    Returns:
        Å.
    """
    return max(2e-3 * semiangle * abs(defocus), 1.22 * wavelength(voltage) / (semiangle * 1e-3))


def largest_defocus(semiangle: float, angular_pixel: float, voltage: float) -> float:
    """The defocus at which the geometric probe disc 2α|Δf| fills the window 1/Δk of one pattern.

    Args:
        semiangle: α, mrad.
        angular_pixel: of the detector, mrad.
        voltage: beam energy, eV.

    Returns:
        |Δf|, Å.
    """
    return 1.0 / (spatial_frequency(angular_pixel, voltage) * 2e-3 * semiangle)


def aberration_phase(
    ky: NDArray[Any], kx: NDArray[Any], voltage: float, aberrations: Mapping[str, float], xp: Any = np
) -> Any:
    """The aberration function; the probe's wave in the aperture is exp(−iχ).

    χ = 2π/λ Σ_nm (λk)^(n+1)/(n+1) · C_nm cos(m(φ − φ_nm)), φ = atan2(ky, kx).

    Args:
        ky: spatial frequencies along y, 1/Å, any shape.
        kx: along x, same shape.
        voltage: beam energy, eV.
        aberrations: coefficients by the names in ABERRATIONS, Å and rad.
        xp: array module (numpy or cupy).

    Returns:
        χ, rad, same shape.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = set(aberrations) - set(ABERRATIONS)
    if unknown:
        msg = f"unknown aberration {sorted(unknown)[0]!r}; known: {', '.join(ABERRATIONS)}"
        raise ValueError(msg)
    lam = wavelength(voltage)
    alpha = lam * xp.hypot(ky, kx)
    chi = xp.zeros_like(alpha)
    for name, value in aberrations.items():
        if not name.startswith("C") or value == 0:
            continue
        n, m = int(name[1]), int(name[2])
        term = alpha ** (n + 1) / (n + 1) * value
        if m:
            term = term * xp.cos(m * (xp.arctan2(ky, kx) - aberrations.get(f"phi{n}{m}", 0.0)))
        chi = chi + term
    return 2 * math.pi / lam * chi


def detector_to_scan(rotation: float, mirrored: bool = False) -> NDArray[np.float64]:
    """The matrix that takes a (row, column) direction on the detector to the scan's frame.

    Args:
        rotation: rad.
        mirrored: whether the detector's rows are reversed first, which makes the determinant −1.

    Returns:
        Orthogonal 2 × 2 matrix.
    """
    c, s = math.cos(rotation), math.sin(rotation)
    matrix = np.array([[c, -s], [s, c]])
    return matrix @ np.diag([-1.0, 1.0]) if mirrored else matrix


def rotation_and_hand(matrix: NDArray[np.float64]) -> tuple[float, bool]:
    """What `detector_to_scan` made a matrix of.

    Args:
        matrix: orthogonal, 2 × 2.

    Returns:
        (rotation, rad; whether it is mirrored).
    """
    return math.atan2(-matrix[0, 1], matrix[1, 1]), bool(np.linalg.det(matrix) < 0)
