"""What a scan says of its own geometry: disc centre, rotation, handedness, defocus with its sign, astigmatism.

The bright-field disc gives centre and angular scale; parallax (agent.reconstruction.parallax) a linear map from
detector angle to image shift, s = −A M α. Its polar decomposition separates the symmetric A (defocus, twofold
astigmatism) from the orthogonal M (rotation, handedness), up to a common sign, which agent.reconstruction.polarity settles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.bright_field import fit_disc
from agent.reconstruction.parallax import (
    BrightFieldSpectra,
    ShiftMap,
    bright_field_spectra,
    find_shift_map,
    shift_and_add,
)
from agent.reconstruction.polarity import compactness_evidence, scattering_evidence
from instrument import optics

_SIGNIFICANT = 6.0  # of some ten thousand candidates the best of pure noise stands out by 4–5 standard deviations
_CONVINCING = 10.0  # a lattice repeats its own skewness, so a few standard deviations may mean nothing on a crystal


@dataclass(frozen=True)
class Calibration:
    """Geometry measured from a scan; every number with its standard deviation.

    Attributes:
        centre, centre_sd: (row, column) of the zero beam, detector pixels.
        disc_radius, disc_radius_sd: of the bright-field disc at half its intensity, detector pixels.
        angular_pixel, angular_pixel_sd: mrad per detector pixel (sd 0: was given).
        detector_to_scan: orthogonal 2 × 2 matrix, (row, column) direction on the detector to the scan's frame.
        rotation, rotation_sd, mirrored: the same as optics.detector_to_scan takes them, rad.
        defocus, defocus_sd: Å, positive for underfocus.
        c12, c12_sd, phi12, phi12_sd: twofold astigmatism, Å, and its orientation, rad.
        significance: of the parallax registration, in standard deviations of chance.
        polarity: evidence for the sign of the defocus, in standard deviations; negative where a nominal sign overruled it.
        phase: (y, x), rad, weak-phase image from the shifted and added bright-field images.
        phase_pixel: sampling of `phase`, Å; its first pixel lies at the first scan position.
    """

    centre: tuple[float, float]
    centre_sd: float
    disc_radius: float
    disc_radius_sd: float
    angular_pixel: float
    angular_pixel_sd: float
    detector_to_scan: NDArray[np.float64]
    rotation: float
    rotation_sd: float
    mirrored: bool
    defocus: float
    defocus_sd: float
    c12: float
    c12_sd: float
    phi12: float
    phi12_sd: float
    significance: float
    polarity: float
    phase: NDArray[np.float32]
    phase_pixel: float

    @property
    def found(self) -> bool:
        """Whether the registration stands clear of noise; otherwise rotation, handedness and defocus mean nothing."""
        return self.significance >= _SIGNIFICANT and self.defocus_sd < abs(self.defocus)

    @property
    def aberrations(self) -> dict[str, float]:
        """Krivanek coefficients besides defocus, for DiffractionData.aberrations."""
        return {"C12": self.c12, "phi12": self.phi12}


def calibrate(
    patterns: NDArray[Any],
    scan_step: float,
    voltage: float,
    semiangle: float,
    angular_pixel: float | None = None,
    *,
    nominal_defocus: float | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Measure the geometry of a raster scan from its bright-field images.

    The defocus is that of the specimen's middle. On perfect crystals it is up to 50 Å off, because few frequencies carry all
    the contrast, and a step that undersamples the lattice misleads the rotation; amorphous or particulate areas are better.

    Args:
        patterns: (scan_y, scan_x, ky, kx) counts.
        scan_step: Å.
        voltage: eV.
        semiangle: convergence semi-angle, mrad.
        angular_pixel: mrad per detector pixel; None: `semiangle` over the disc's radius.
        nominal_defocus: Å; narrows the search to half … twice its magnitude. Its sign counts where the data tell it by
            less than ten standard deviations.
        mask: (ky, kx), True where the detector counts.

    Raises:
        ValueError: no bright-field disc, or fewer than 8 × 8 positions.
    """
    if patterns.ndim != 4 or min(patterns.shape[:2]) < 8:
        msg = f"calibration needs a raster of at least 8 × 8 patterns, not {' × '.join(map(str, patterns.shape))}"
        raise ValueError(msg)
    disc = fit_disc(patterns.mean(axis=(0, 1)), mask)
    pixel = semiangle / disc.radius if angular_pixel is None else angular_pixel
    pixel_sd = pixel * disc.radius_sd / disc.radius if angular_pixel is None else 0.0
    spectra = bright_field_spectra(patterns, disc, mask)
    to_angstrom = scan_step / (disc.radius * pixel * 1e-3)  # scan steps per disc radius -> Å per rad
    expected = abs(nominal_defocus) / to_angstrom if nominal_defocus else None
    shifts = find_shift_map(spectra, expected_shift=expected)

    matrix, aberration = decompose(shifts.matrix * to_angstrom)  # for underfocus; both change sign for overfocus
    phase, phase_pixel = _phase_image(spectra, shifts, aberration, scan_step, voltage, disc.radius * pixel)
    scattering = scattering_evidence(patterns, disc, matrix, mask)
    polarity = scattering + compactness_evidence(phase)
    sign = 1.0 if polarity >= 0 else -1.0
    if abs(polarity) < _CONVINCING and nominal_defocus:
        sign = math.copysign(1.0, nominal_defocus)
    matrix, aberration, phase = sign * matrix, sign * aberration, sign * phase
    numbers = _numbers(matrix, aberration)
    sd = _standard_deviations(shifts, to_angstrom, sign)
    scale_sd = pixel_sd / pixel * abs(numbers["defocus"])
    return Calibration(
        centre=disc.centre,
        centre_sd=disc.centre_sd,
        disc_radius=disc.radius,
        disc_radius_sd=disc.radius_sd,
        angular_pixel=pixel,
        angular_pixel_sd=pixel_sd,
        detector_to_scan=matrix,
        rotation=numbers["rotation"],
        rotation_sd=sd["rotation"],
        mirrored=bool(np.linalg.det(matrix) < 0),
        defocus=numbers["defocus"],
        defocus_sd=math.hypot(sd["defocus"], scale_sd),
        c12=numbers["c12"],
        c12_sd=sd["c12"],
        phi12=numbers["phi12"],
        phi12_sd=sd["phi12"],
        significance=shifts.significance,
        polarity=sign * polarity,
        phase=phase.astype(np.float32),
        phase_pixel=phase_pixel,
    )


def decompose(shift_map: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(M, A) of s = −A M α for underfocus: M orthogonal, A symmetric and negative definite. −M, −A fits as well.

    `shift_map` is (2, 2), Å per rad. Polar decomposition by singular values.
    """
    u, s, vt = np.linalg.svd(shift_map)
    return u @ vt, -(u * s) @ u.T


def _numbers(matrix: NDArray[np.float64], aberration: NDArray[np.float64]) -> dict[str, float]:
    """Rotation, defocus and astigmatism as the conventions of instrument.optics name them.

    ½ αᵀ A α = ½ |α|² (C10 + C12 cos 2(φ − φ12)), φ = atan2(y, x), makes, with a = 2φ12,
    A = [[C10 − C12 cos a, C12 sin a], [C12 sin a, C10 + C12 cos a]].
    """
    cosine, sine = 0.5 * (aberration[1, 1] - aberration[0, 0]), aberration[0, 1]
    proper = matrix @ np.diag([-1.0, 1.0]) if np.linalg.det(matrix) < 0 else matrix
    return {
        "rotation": math.atan2(proper[1, 0], proper[0, 0]),
        "defocus": -0.5 * float(np.trace(aberration)),
        "c12": math.hypot(cosine, sine),
        "phi12": 0.5 * math.atan2(sine, cosine),
    }


def _standard_deviations(shifts: ShiftMap, to_angstrom: float, sign: float) -> dict[str, float]:
    """The shift map's covariance carried to the named numbers by differences."""

    def numbers(flat: NDArray[np.float64]) -> dict[str, float]:
        matrix, aberration = decompose(flat.reshape(2, 2) * to_angstrom)
        return _numbers(sign * matrix, sign * aberration)

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


def _phase_image(
    spectra: BrightFieldSpectra,
    shifts: ShiftMap,
    aberration: NDArray[np.float64],
    scan_step: float,
    voltage: float,
    semiangle: float,
) -> tuple[NDArray[np.float64], float]:
    """Weak-phase image (y, x), rad, and its pixel, Å: J(g) = 2 sin χ(g) φ(g) undone by a Wiener filter.

    Sampled for frequencies up to 2α/λ, which the disc transfers, as far as 512 pixels allow.
    """
    n = max(spectra.values.shape[:2])
    wavelength = optics.wavelength(voltage)
    finest = wavelength / (4e-3 * semiangle)
    upsampling = max(1, min(math.ceil(scan_step / finest), 8, 512 // n))
    spectrum = shift_and_add(spectra, shifts.matrix, upsampling)
    g_y = np.fft.fftfreq(spectrum.shape[0], scan_step / upsampling)[:, None]
    g_x = np.fft.fftfreq(spectrum.shape[1], scan_step / upsampling)[None, :]
    chi = (
        math.pi
        * wavelength
        * (aberration[0, 0] * g_y**2 + 2 * aberration[0, 1] * g_y * g_x + aberration[1, 1] * g_x**2)
    )
    transfer = 2 * np.sin(chi)
    spectrum = spectrum * transfer / (transfer**2 + 0.4)
    return np.fft.ifft2(spectrum).real, scan_step / upsampling
