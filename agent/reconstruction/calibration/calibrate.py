"""What a scan says of its own geometry: disc centre, rotation, handedness, defocus with its sign, astigmatism (README)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.bright_field import BrightFieldDisc
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
from agent.reconstruction.calibration.raster import (
    check_nominal,
    check_numbers,
    check_scale,
    evened,
    find_disc,
    mean_pattern,
    middle_part,
    note_of_part,
)
from agent.reconstruction.calibration.shift_map import decompose, named_numbers, standard_deviations
from instrument import optics
from instrument.errors import BadInputError

_EVEN = 1e-5  # of the counts; rounding leaves less, counting noise more
_SIGNIFICANT = 6.0  # of some ten thousand candidates the best of pure noise stands out by 4–5 standard deviations
_CONVINCING = 10.0  # a lattice repeats its own skewness, so a few standard deviations may mean nothing on a crystal
_HEARD = 4.0  # noise alone reaches it less than once in a thousand scans (9000 of 16², 24², 40² positions)
_CONTRADICTS = 5.0  # standard deviations of a difference …
_SYSTEMATIC = 0.03  # … with this much, rad, for what descan and thick specimens do to the centre of mass
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
    intensity: NDArray[np.float64] | None = None,
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
        intensity: (scan_y, scan_x) of the beam, relative; 0 where there is no pattern. None: the same everywhere.

    Raises:
        BadInputError: fewer than 8 × 8 positions, no bright-field disc, impossible counts or numbers; one sentence.
    """
    check_numbers(scan_step, voltage, semiangle, angular_pixel, nominal_defocus)
    patterns = patterns if intensity is None else evened(patterns, intensity)
    mean, mask = mean_pattern(patterns, mask)
    disc = find_disc(mean, mask)
    pixel = semiangle / disc.radius if angular_pixel is None else angular_pixel
    check_scale(disc, semiangle, pixel)
    check_nominal(nominal_defocus, scan_step, disc.radius * pixel, patterns.shape[:2])
    pixel_sd = pixel * disc.radius_sd / disc.radius if angular_pixel is None else 0.0
    return _measured(patterns, disc, (pixel, pixel_sd), scan_step, voltage, nominal_defocus, mask)


def _measured(
    patterns: Any,
    disc: BrightFieldDisc,
    angular_pixel: tuple[float, float],
    scan_step: float,
    voltage: float,
    nominal_defocus: float | None,
    mask: NDArray[np.bool_] | None,
) -> Calibration:
    """`calibrate` once the disc is found; `angular_pixel` with its standard deviation, mrad."""
    pixel, pixel_sd = angular_pixel
    edge = disc.radius * pixel  # mrad
    whole, patterns = patterns, middle_part(patterns, disc)
    spectra = bright_field_spectra(patterns, disc, mask)
    to_angstrom = scan_step / (edge * 1e-3)  # scan steps per disc radius -> Å per rad
    shifts = _registered(spectra, optics.wavelength(voltage) / (scan_step * edge * 1e-3), nominal_defocus, to_angstrom)

    # for underfocus; both change sign for overfocus
    matrix, aberration = decompose(shifts.matrix * to_angstrom)
    phase, phase_pixel = _phase_image(spectra, shifts, aberration, scan_step, voltage, edge)
    sums = moments(patterns, disc, mask)
    polarity = scattering_evidence(sums, matrix) + compactness_evidence(phase)
    sign = _sign(polarity, nominal_defocus)
    matrix, aberration, phase = sign * matrix, sign * aberration, sign * phase
    numbers = named_numbers(matrix, aberration)
    sd = standard_deviations(shifts, to_angstrom, sign)
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
        + note_of_part(whole.shape[:2], patterns.shape[:2]),
        phase=phase.astype(np.float32),
        phase_pixel=phase_pixel,
    )


def _sign(polarity: float, nominal_defocus: float | None) -> float:
    """1 or −1: what the data tell of the sign of the defocus, or where they hardly do, the nominal one."""
    if abs(polarity) < _CONVINCING and nominal_defocus:
        return math.copysign(1.0, nominal_defocus)
    return 1.0 if polarity >= 0 else -1.0


def _registered(
    spectra: BrightFieldSpectra, spacing: float, nominal_defocus: float | None, to_angstrom: float
) -> ShiftMap:
    """How the bright-field images are shifted against each other.

    Args:
        spectra: of the images.
        spacing: wavelength over scan step, in disc radii: where the discs of the scan's own lattice lie.
        nominal_defocus: Å; narrows the search.
        to_angstrom: Å per rad in one scan step per disc radius.

    Raises:
        BadInputError: all patterns are the same.
    """
    if np.abs(spectra.values).max() < _EVEN * spectra.counts.max() * math.prod(spectra.values.shape[:2]):
        msg = "the bright-field images are even: all patterns are the same, so they tell nothing of the geometry"
        raise BadInputError(msg)
    expected = abs(nominal_defocus) / to_angstrom if nominal_defocus else None
    shifts = find_shift_map(spectra, expected_shift=expected)
    return settle_aliases(spectra, shifts, spacing, search_range(spectra, expected_shift=expected))


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
