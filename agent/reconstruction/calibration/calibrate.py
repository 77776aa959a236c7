"""What a scan says of its own geometry: disc centre, rotation, handedness, defocus with its sign, astigmatism.

The bright-field disc gives centre and angular scale; parallax (`parallax`) a linear map from
detector angle to image shift, s = −A M α. Its polar decomposition separates the symmetric A (defocus, twofold
astigmatism) from the orthogonal M (rotation, handedness), up to a common sign, which `polarity` settles.
Two witnesses are heard besides: where the diffracted discs overlap (`disc_overlap`), without which a
crystal sampled coarsely misleads the map, and the curl of the centre of mass (`centre_of_mass`),
which knows nothing of defocus and lattice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.bright_field import BrightFieldDisc, fit_disc
from agent.reconstruction.calibration.centre_of_mass import CurlWitness, curl_witness, moments
from agent.reconstruction.calibration.disc_overlap import settle_aliases
from agent.reconstruction.calibration.parallax import (
    BrightFieldSpectra,
    ShiftMap,
    bright_field_spectra,
    find_shift_map,
    search_range,
    shift_and_add,
)
from agent.reconstruction.calibration.polarity import compactness_evidence, scattering_evidence
from agent.reconstruction.model.checks import MOST_COUNTS, as_mask, check_semiangle, is_number
from instrument import memory, optics
from instrument.errors import BadInputError

_STEPS = (1e-3, 1e5)  # Å
_MISMATCH = 1.5  # factor between the disc's radius and the semi-angle; both are hardly ever wrong by more, units are
_EVEN = 1e-5  # of the counts; rounding leaves less, counting noise more
_SIGNIFICANT = 6.0  # of some ten thousand candidates the best of pure noise stands out by 4–5 standard deviations
_CONVINCING = 10.0  # a lattice repeats its own skewness, so a few standard deviations may mean nothing on a crystal
_HEARD = 4.0  # noise alone reaches it less than once in a thousand scans (9000 of 16², 24², 40² positions)
_CONTRADICTS = 5.0  # standard deviations of a difference …
_SYSTEMATIC = 0.03  # … with this much, rad, for what descan and thick specimens do to the centre of mass
_IMAGE_BYTES = 24  # that a pixel of the disc takes for each pattern: its image, its transform, and this shifted back
_RIVAL = 0.75  # in simulations of crystals every wrong choice had a rival above this, of 45 right ones three


class Astigmatism(NamedTuple):
    """Twofold astigmatism in Krivanek's polar notation: magnitude in Å, orientation in rad."""

    c12: float
    phi12: float


@dataclass(frozen=True)
class Calibration:
    """Geometry measured from a scan; every number with its standard deviation.

    Attributes:
        centre, centre_sd: (row, column) of the zero beam, detector pixels; the sd holds for each.
        disc_radius, disc_radius_sd: of the bright-field disc at half its intensity, detector pixels.
        angular_pixel, angular_pixel_sd: mrad per detector pixel (sd 0: was given).
        detector_to_scan: orthogonal 2 × 2 matrix, (row, column) direction on the detector to the scan's frame.
        rotation, rotation_sd, mirrored: the same as optics.detector_to_scan takes them, rad.
        handedness: how much better this hand explains the disc's images than the other, in standard deviations.
        defocus, defocus_sd: Å, positive for underfocus.
        astigmatism, astigmatism_sd: (C12, phi12), Å and rad.
        significance: of the parallax registration, in standard deviations of chance.
        polarity: evidence for the sign of the defocus, in standard deviations; negative where a nominal sign overruled it.
        curl: what the centre of mass says of rotation and hand.
        agreement: difference of curl and parallax in standard deviations, of the rotation or, where they differ in it, of the
            hand; None where the curl says nothing (its significance is below 4).
        notes: what a person should know before trusting the numbers; empty where there is nothing.
        phase: (y, x), rad, weak-phase image from the shifted and added bright-field images.
        phase_pixel: sampling of `phase`, Å; its first pixel lies at the first scan position (where memory holds the bright-field
            images of the raster's middle only, which `notes` says, of that).
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
    handedness: float
    defocus: float
    defocus_sd: float
    astigmatism: Astigmatism
    astigmatism_sd: Astigmatism
    significance: float
    polarity: float
    curl: CurlWitness
    agreement: float | None
    notes: tuple[str, ...]
    phase: NDArray[np.float32]
    phase_pixel: float

    @property
    def found(self) -> bool:
        """Whether the registration stands clear of noise and no witness contradicts; otherwise the geometry means nothing."""
        clear = self.significance >= _SIGNIFICANT and self.defocus_sd < abs(self.defocus)
        return clear and (self.agreement is None or self.agreement < _CONTRADICTS)

    @property
    def aberrations(self) -> dict[str, float]:
        """Krivanek coefficients besides defocus, for DiffractionData.aberrations."""
        return {"C12": self.astigmatism.c12, "phi12": self.astigmatism.phi12}


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
    the contrast, and where a lattice spacing is nearly two steps rotation and sign are undecided, which
    `notes` says; amorphous or particulate areas are better.

    Args:
        patterns: (scan_y, scan_x, ky, kx) counts; an array, a memory map or an h5py data set, read row by row.
        scan_step: Å.
        voltage: eV.
        semiangle: convergence semi-angle, mrad.
        angular_pixel: mrad per detector pixel; None: `semiangle` over the disc's radius.
        nominal_defocus: Å; narrows the search to half … twice its magnitude. Its sign counts where the data tell it by
            less than ten standard deviations.
        mask: (ky, kx), True where the detector counts.

    Raises:
        BadInputError: fewer than 8 × 8 positions, no bright-field disc, impossible counts or numbers; one sentence.
    """
    _check_numbers(scan_step, voltage, semiangle, angular_pixel, nominal_defocus)
    mean, mask = _mean_pattern(patterns, mask)
    disc = _disc(mean, mask)
    pixel = semiangle / disc.radius if angular_pixel is None else angular_pixel
    _check_scale(disc, semiangle, pixel)
    _check_nominal(nominal_defocus, scan_step, disc.radius * pixel, patterns.shape[:2])
    pixel_sd = pixel * disc.radius_sd / disc.radius if angular_pixel is None else 0.0
    whole, patterns = patterns, _middle(patterns, disc)
    spectra = bright_field_spectra(patterns, disc, mask)
    if np.abs(spectra.values).max() < _EVEN * spectra.counts.max() * math.prod(patterns.shape[:2]):
        msg = "the bright-field images are even: all patterns are the same, so they tell nothing of the geometry"
        raise BadInputError(msg)
    edge = disc.radius * pixel  # mrad
    to_angstrom = scan_step / (edge * 1e-3)  # scan steps per disc radius -> Å per rad
    expected = abs(nominal_defocus) / to_angstrom if nominal_defocus else None
    shifts = find_shift_map(spectra, expected_shift=expected)
    spacing = optics.wavelength(voltage) / (scan_step * edge * 1e-3)
    shifts = settle_aliases(spectra, shifts, spacing, search_range(spectra, expected_shift=expected))

    matrix, aberration = decompose(shifts.matrix * to_angstrom)  # for underfocus; both change sign for overfocus
    phase, phase_pixel = _phase_image(spectra, shifts, aberration, scan_step, voltage, edge)
    sums = moments(patterns, disc, mask)
    polarity = scattering_evidence(sums, matrix) + compactness_evidence(phase)
    sign = 1.0 if polarity >= 0 else -1.0
    if abs(polarity) < _CONVINCING and nominal_defocus:
        sign = math.copysign(1.0, nominal_defocus)
    matrix, aberration, phase = sign * matrix, sign * aberration, sign * phase
    numbers = _numbers(matrix, aberration)
    sd = _standard_deviations(shifts, to_angstrom, sign)
    scale_sd = pixel_sd / pixel * abs(numbers["defocus"])
    curl = curl_witness(sums.centre)
    mirrored = bool(np.linalg.det(matrix) < 0)
    agreement = _disagreement(curl, numbers["rotation"], sd["rotation"], mirrored)
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
        mirrored=mirrored,
        handedness=shifts.handedness,
        defocus=numbers["defocus"],
        defocus_sd=math.hypot(sd["defocus"], scale_sd),
        astigmatism=Astigmatism(numbers["c12"], numbers["phi12"]),
        astigmatism_sd=Astigmatism(sd["c12"], sd["phi12"]),
        significance=shifts.significance,
        polarity=sign * polarity,
        curl=curl,
        agreement=agreement,
        notes=_notes(shifts, polarity, nominal_defocus, curl, agreement, scan_step)
        + _note_part(whole.shape[:2], patterns.shape[:2]),
        phase=phase.astype(np.float32),
        phase_pixel=phase_pixel,
    )


def _check_numbers(
    scan_step: float, voltage: float, semiangle: float, angular_pixel: float | None, nominal_defocus: float | None
) -> None:
    positive = {"scan_step": scan_step, "voltage": voltage, "semiangle": semiangle}
    if angular_pixel is not None:
        positive["angular_pixel"] = angular_pixel
    for name, value in positive.items():
        if not (is_number(value) and value > 0):
            msg = f"{name} of {value} is not possible; a positive number is expected"
            raise BadInputError(msg)
    if not 1e3 <= voltage <= 1e7:
        msg = f"voltage of {voltage:g} eV is not possible; legal: 1e3 … 1e7 eV, so 80 kV is 80e3"
        raise BadInputError(msg)
    check_semiangle(semiangle)
    if not _STEPS[0] <= scan_step <= _STEPS[1]:
        msg = f"scan_step of {scan_step:g} Å is not possible; legal: {_STEPS[0]:g} … {_STEPS[1]:g} Å (1 nm is 10, 1 m is 1e10)"
        raise BadInputError(msg)
    if nominal_defocus is not None and not is_number(nominal_defocus):
        msg = f"nominal_defocus of {nominal_defocus} is not a number; Å are expected, positive for underfocus"
        raise BadInputError(msg)


def _check_scale(disc: BrightFieldDisc, semiangle: float, angular_pixel: float) -> None:
    """Whether disc, semi-angle and angular pixel fit together."""
    seen = disc.radius * angular_pixel
    if not 1 / _MISMATCH < seen / semiangle < _MISMATCH:
        msg = (
            f"the bright-field disc has a radius of {disc.radius:.4g} pixels of {angular_pixel:g} mrad, {seen:.4g} mrad, and "
            f"semiangle is {semiangle:g} mrad; one of them is wrong (without angular_pixel it is found from the semiangle)"
        )
        raise BadInputError(msg)


def _check_nominal(nominal: float | None, scan_step: float, edge: float, scan: tuple[int, ...]) -> None:
    """Whether images shifted by the nominal defocus would still overlap; `edge` of the disc in mrad."""
    largest = max(scan) * scan_step / (edge * 1e-3)
    if nominal is not None and abs(nominal) > largest:
        msg = (
            f"nominal_defocus of {nominal:g} Å would shift the bright-field images by more than the scan is wide; legal: up to "
            f"±{largest:.4g} Å; is it in Å?"
        )
        raise BadInputError(msg)


def _mean_pattern(patterns: Any, mask: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """(ky, kx) mean of (scan_y, scan_x, ky, kx) counts in one sweep, and the mask as bool.

    Raises BadInputError where they are no counts.
    """
    if not all(hasattr(patterns, attribute) for attribute in ("shape", "dtype", "ndim")):
        msg = f"patterns are a {type(patterns).__name__}; a NumPy array is expected"
        raise BadInputError(msg)
    if patterns.ndim != 4 or min(patterns.shape[:2]) < 8:
        msg = f"calibration needs a raster of at least 8 × 8 patterns, not {' × '.join(map(str, patterns.shape))}"
        raise BadInputError(msg)
    if patterns.dtype.kind not in "uif":
        msg = f"patterns are of type {patterns.dtype}; unsigned integers or floats are expected"
        raise BadInputError(msg)
    seen = as_mask(mask, patterns.shape[2:])
    total = np.zeros(patterns.shape[2:])
    for i in range(len(patterns)):
        row = np.asarray(patterns[i])
        total += row.sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            msg = f"the patterns of scan row {i} hold values that are not numbers; mask such pixels and set them to 0"
            raise BadInputError(msg)
        if row.max() > MOST_COUNTS:
            msg = (
                f"the patterns of scan row {i} hold {row.max():.4g} counts in a pixel; legal: up to {MOST_COUNTS:g}; mask such "
                f"pixels and set them to 0, or divide by the signal of one electron"
            )
            raise BadInputError(msg)
        if row.dtype.kind != "u" and row.min() < 0:
            msg = f"the patterns of scan row {i} hold negative counts (smallest {row.min():g}); subtract no background before"
            raise BadInputError(msg)
    if not total.any():
        msg = f"all {patterns.shape[0] * patterns.shape[1]} patterns are empty; there is nothing to calibrate from"
        raise BadInputError(msg)
    return total / (patterns.shape[0] * patterns.shape[1]), seen


def _middle(patterns: Any, disc: BrightFieldDisc) -> Any:
    """(scan_y, scan_x, ky, kx), or as much of its middle as half of the free memory holds bright-field images of."""
    n_y, n_x = patterns.shape[:2]
    most = memory.free_memory() / 2 / (_IMAGE_BYTES * math.pi * disc.radius**2)
    if n_y * n_x <= most:
        return patterns
    rows, columns = (max(8, int(n * math.sqrt(most / (n_y * n_x)))) for n in (n_y, n_x))
    top, left = (n_y - rows) // 2, (n_x - columns) // 2
    if isinstance(patterns, np.ndarray):
        return patterns[top : top + rows, left : left + columns]
    part = memory.allocate((rows, columns, *patterns.shape[2:]), patterns.dtype)
    for i in range(rows):
        part[i] = patterns[top + i, left : left + columns]
    return part


def _note_part(whole: tuple[int, int], part: tuple[int, int]) -> tuple[str, ...]:
    if part == whole:
        return ()
    return (
        f"memory holds the bright-field images of {part[0]} × {part[1]} of the {whole[0]} × {whole[1]} positions, so only those "
        f"in the middle were looked at",
    )


def _disc(mean: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> BrightFieldDisc:
    try:
        disc = fit_disc(mean, mask)
    except ValueError as error:
        msg = f"{error}; the whole disc must lie on the detector, and on pixels that the mask lets count"
        raise BadInputError(msg) from error
    if disc.radius < 3:
        msg = f"the bright-field disc has a radius of {disc.radius:.2g} pixels; at least 3 are needed to see its images shift"
        raise BadInputError(msg)
    return disc


def _disagreement(curl: CurlWitness, rotation: float, rotation_sd: float, mirrored: bool) -> float | None:
    """Between curl and parallax, in standard deviations; the curl knows the rotation modulo half a turn."""
    if curl.significance < _HEARD:
        return None
    if curl.mirrored != mirrored:
        return curl.handedness
    turned = (curl.rotation - rotation + math.pi / 2) % math.pi - math.pi / 2
    return abs(turned) / math.hypot(curl.rotation_sd, rotation_sd, _SYSTEMATIC)


def _notes(
    shifts: ShiftMap,
    polarity: float,
    nominal_defocus: float | None,
    curl: CurlWitness,
    agreement: float | None,
    scan_step: float,
) -> tuple[str, ...]:
    notes = []
    if shifts.significance < _SIGNIFICANT:
        notes.append(
            f"the bright-field images do not tell how the detector is turned ({shifts.significance:.1f} sd above chance, "
            f"{_SIGNIFICANT:g} are needed); a higher dose or a larger field helps"
        )
        return tuple(notes)
    if shifts.rival > _RIVAL:
        notes.append(
            f"another rotation or hand explains the images {shifts.rival:.0%} as well, as on a crystal that a step of "
            f"{scan_step:g} Å undersamples; a finer step or an amorphous area tells"
        )
    if abs(polarity) < _CONVINCING and not nominal_defocus:
        notes.append(
            f"the sign of the defocus, and with it half a turn of the detector, is decided by {abs(polarity):.1f} sd only; "
            f"give the nominal defocus"
        )
    if agreement is not None and agreement >= _CONTRADICTS:
        notes.append(
            f"the curl of the centre of mass says otherwise by {agreement:.1f} sd: rotation {math.degrees(curl.rotation):.1f} ± "
            f"{math.degrees(curl.rotation_sd):.1g}° or half a turn more{', mirrored' if curl.mirrored else ''}"
        )
    return tuple(notes)


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
