"""Rotation, handedness, defocus and its sign, found from scans that abTEM or a real microscope made."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft

from agent.reconstruction.calibration.bright_field import fit_disc
from agent.reconstruction.calibration.calibrate import Calibration, calibrate
from instrument import optics
from instrument.errors import BadInputError
from sim_instrument.potential import import_abtem

VOLTAGE, SEMIANGLE, STEP, SCAN, CELL = 80e3, 21.4, 1.5, 26, 72.0
THICKNESS = 10.0


def abtem_scan(
    defocus: float, detector_to_scan: NDArray[np.float64], c12: float = 0.0, phi12: float = 0.0
) -> tuple[NDArray[np.float32], float]:
    """(SCAN, SCAN, 56, 56) intensities, Σ = 1, of gold clusters on amorphous carbon, and mrad per pixel.

    abTEM's first axes, of scan and of detector, are the same; the scan is turned by leading the probe along turned lines.
    """
    ase, abtem = pytest.importorskip("ase"), import_abtem()
    rng = np.random.default_rng(3)
    atoms = ase.Atoms(
        "C400", positions=rng.random((400, 3)) * [CELL, CELL, THICKNESS], cell=[CELL, CELL, THICKNESS], pbc=True
    )
    for centre in rng.random((7, 2)) * 0.6 + 0.2:
        cluster = rng.normal(size=(50, 3)) * [2.0, 2.0, 1.2]
        atoms += ase.Atoms("Au50", positions=cluster + np.append(centre * CELL, THICKNESS / 2))
    atoms.wrap()
    scan = (np.indices((SCAN, SCAN)).reshape(2, -1).T - (SCAN - 1) / 2) * STEP
    with abtem.config.set({"precision": "float32", "diagnostics.progress_bar": False, "dask.lazy": False}):
        potential = abtem.Potential(atoms, gpts=180, slice_thickness=5).build()
        probe = abtem.Probe(energy=VOLTAGE, semiangle_cutoff=SEMIANGLE, C10=-defocus, C12=c12, phi12=phi12)
        probe.grid.match(potential)
        parts = []
        for positions in np.array_split(scan @ detector_to_scan + CELL / 2, 4):
            waves = probe.multislice(potential, scan=abtem.CustomScan(positions))
            measured = waves.diffraction_patterns(max_angle=None)
            parts.append(np.asarray(measured.array))
    patterns = np.concatenate(parts)
    first = patterns.shape[-1] // 2 - 56
    patterns = patterns[:, first : first + 112, first : first + 112].reshape(SCAN, SCAN, 56, 2, 56, 2).sum(axis=(3, 5))
    return patterns, 2 * float(measured.angular_sampling[0])


def counted(patterns: NDArray[np.float32], dose: float) -> NDArray[np.uint16]:
    return np.random.default_rng(0).poisson(np.maximum(patterns, 0) * dose * STEP**2).astype(np.uint16)


def angle_between(a: float, b: float, period: float) -> float:
    return abs((a - b + period / 2) % period - period / 2)


@pytest.fixture(scope="module")
def underfocused() -> tuple[NDArray[np.float32], float]:
    return abtem_scan(500.0, optics.detector_to_scan(0.6, mirrored=True), c12=40.0, phi12=0.5)


def check_underfocused(found: Calibration, defocus: float, astigmatism: float, rotation: float) -> None:
    assert found.found
    assert found.mirrored
    # Defocus is nominal at the entrance surface; the specimen's middle is what the images show.
    assert found.defocus == pytest.approx(500 - THICKNESS / 2, abs=defocus)
    assert found.rotation == pytest.approx(0.6, abs=rotation)
    assert found.astigmatism.c12 == pytest.approx(40, abs=astigmatism)
    # abTEM counts the angle from the first axis; mirrored and turned it is 3.24 there, and π/2 less from the second.
    assert angle_between(found.astigmatism.phi12, math.pi / 2 - 3.2416, math.pi) < 0.15


@pytest.mark.slow
def test_mirrored_and_astigmatic_underfocus_is_found(underfocused: tuple[NDArray[np.float32], float]) -> None:
    patterns, angular_pixel = underfocused
    found = calibrate(counted(patterns, 1e4), STEP, VOLTAGE, SEMIANGLE, angular_pixel)
    check_underfocused(found, defocus=10, astigmatism=6, rotation=0.01)
    assert found.polarity > 5
    assert found.centre == pytest.approx((27.75, 27.75), abs=0.05)  # pixel 56 of 112, in bins of two
    assert found.disc_radius == pytest.approx(SEMIANGLE / angular_pixel, rel=0.01)
    assert np.allclose(found.detector_to_scan, optics.detector_to_scan(found.rotation, found.mirrored))


@pytest.mark.slow
def test_a_hundred_times_fewer_electrons_still_tell(underfocused: tuple[NDArray[np.float32], float]) -> None:
    patterns, angular_pixel = underfocused
    found = calibrate(counted(patterns, 100), STEP, VOLTAGE, SEMIANGLE, angular_pixel, nominal_defocus=450)
    check_underfocused(found, defocus=20, astigmatism=15, rotation=0.04)


@pytest.mark.slow
def test_angular_scale_comes_from_the_disc_where_it_is_not_given(
    underfocused: tuple[NDArray[np.float32], float],
) -> None:
    patterns, angular_pixel = underfocused
    found = calibrate(counted(patterns, 1e4), STEP, VOLTAGE, SEMIANGLE)
    assert found.angular_pixel == pytest.approx(angular_pixel, rel=0.01)
    assert found.angular_pixel_sd > 0
    check_underfocused(found, defocus=12, astigmatism=6, rotation=0.01)


@pytest.mark.slow
def test_overfocus_is_told_from_underfocus_and_a_half_turn() -> None:
    patterns, angular_pixel = abtem_scan(-400.0, optics.detector_to_scan(-2.2))
    found = calibrate(counted(patterns, 3e3), STEP, VOLTAGE, SEMIANGLE, angular_pixel)
    assert found.found
    assert not found.mirrored
    assert found.defocus == pytest.approx(-400 - THICKNESS / 2, abs=15)
    assert found.rotation == pytest.approx(-2.2, abs=0.01)
    assert found.polarity > 5
    # The other of the two equivalent geometries would show the gold as holes.
    assert found.phase.max() > 1.5 * -found.phase.min()


def test_noise_without_a_specimen_is_not_taken_for_a_calibration() -> None:
    rows, columns = np.indices((64, 64)) - 31.5
    disc = 4.0 / (1 + np.exp(2 * (np.hypot(rows, columns) - 20)))
    found = calibrate(np.random.default_rng(0).poisson(disc, (24, 24, 64, 64)), STEP, VOLTAGE, SEMIANGLE)
    assert not found.found


def test_disc_is_found_off_centre_through_noise_gradients_and_bad_pixels() -> None:
    rows, columns = np.indices((96, 80))
    distance = np.hypot(rows - 51.3, columns - 33.7)
    mean = (5 + 0.02 * rows) / (1 + np.exp(1.5 * (distance - 18.4))) + 0.2
    mean[40, 40], mean[50, 30], mean[5, 70] = 500, 0, 300
    disc = fit_disc(np.random.default_rng(0).poisson(mean * 50) / 50)
    assert disc.centre == pytest.approx((51.3, 33.7), abs=0.1)
    assert disc.radius == pytest.approx(18.4, abs=0.2)
    with pytest.raises(BadInputError, match="no bright-field disc"):
        fit_disc(np.zeros((32, 32)))


@pytest.fixture(scope="module")
def rotavirus() -> NDArray[np.uint8]:
    h5py = pytest.importorskip("h5py")
    path = Path(__file__).parents[2] / "../shared/data/rotavirus_cryo_4dstem.h5"
    if not path.exists():
        pytest.skip(f"the experimental recording is not at {path.resolve()}")
    with h5py.File(path) as file:
        return np.asarray(file["data"])


@pytest.mark.recording
@pytest.mark.slow
def test_experimental_recording_shows_its_geometry_and_bright_beads(rotavirus: NDArray[np.uint8]) -> None:
    started = time.process_time()
    found = calibrate(rotavirus, 31.25, 300e3, 1.03)
    assert time.process_time() - started < 20
    assert found.found
    assert found.mirrored
    assert found.defocus == pytest.approx(132e3, rel=0.03)
    # Beads are compact and heavy: by far the largest phase, and positive.
    assert found.polarity > 50
    assert found.phase.max() > 2 * -found.phase.min()
    assert found.phase.max() > 8 * found.phase.std()


@pytest.mark.recording
@pytest.mark.slow
def test_a_hundredth_of_the_recording_tells_the_same(rotavirus: NDArray[np.uint8]) -> None:
    thinned = np.random.default_rng(0).binomial(rotavirus, 0.01).astype(np.uint8)
    found = calibrate(thinned, 31.25, 300e3, 1.03, nominal_defocus=-135e3)
    assert found.found
    assert found.mirrored
    assert found.defocus == pytest.approx(132e3, rel=0.03)
    assert found.rotation == pytest.approx(0.533, abs=0.02)


def crystal_scan(defocus: float, detector_to_scan: NDArray[np.float64], step: float) -> NDArray[np.uint16]:
    """(26, 26, 96, 96) counts at 3000 e/Å² of a square lattice of 3.9 Å, heavy and light atoms, as a pure phase object.

    Written out here, independent of the engine: probe exp(−iχ), exit wave, Fourier transform; detector and object share axes.
    """
    n, edge = 240, 18 * 3.9
    ky, kx = np.fft.fftfreq(n, edge / n)[:, None], np.fft.fftfreq(n, edge / n)[None, :]
    k = np.hypot(ky, kx)
    lattice = np.zeros((n, n))
    for offset, weight in ((0.0, 1.0), (0.5, 0.6)):
        at = np.rint((np.arange(18) + offset) * n / 18).astype(int) % n
        lattice[np.ix_(at, at)] += weight
    phase = np.fft.ifft2(np.fft.fft2(lattice) * np.exp(-((k / 0.8) ** 2))).real
    specimen = np.exp(0.6j * phase / phase.max())
    wavelength = optics.wavelength(VOLTAGE)
    aperture = 1 / (1 + np.exp((k * wavelength * 1e3 - SEMIANGLE) / 0.15))
    probe = aperture * np.exp(1j * math.pi * wavelength * defocus * k**2)  # χ = π λ C10 k², C10 = −defocus
    probe /= np.sqrt((np.abs(probe) ** 2).sum())
    positions = (np.indices((26, 26)).reshape(2, -1).T - 12.5) * step @ detector_to_scan + edge / 2
    counts = np.empty((len(positions), 96, 96), dtype=np.uint16)
    rng = np.random.default_rng(0)
    probe, specimen = probe.astype(np.complex64), specimen.astype(np.complex64)  # in half of the time
    for i, (y, x) in enumerate(positions):
        shift = np.exp(-2j * math.pi * ky * y).astype(np.complex64) * np.exp(-2j * math.pi * kx * x).astype(
            np.complex64
        )
        wave = fft.ifft2(probe * shift) * specimen
        pattern = np.fft.fftshift(np.abs(fft.fft2(wave)) ** 2)[72:168, 72:168]
        counts[i] = rng.poisson(pattern * 3000 * step**2)
    return counts.reshape(26, 26, 96, 96)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defocus", "rotation", "mirrored", "step"),
    [pytest.param(500.0, 2.5, True, 1.0, marks=pytest.mark.long), (-400.0, -2.2, False, 1.5)],
)
def test_geometry_of_a_perfect_crystal_is_found_even_where_the_step_undersamples_it(
    defocus: float, rotation: float, mirrored: bool, step: float
) -> None:
    counts = crystal_scan(defocus, optics.detector_to_scan(rotation, mirrored), step)
    found = calibrate(
        counts, step, VOLTAGE, SEMIANGLE, optics.wavelength(VOLTAGE) / (18 * 3.9) * 1e3, nominal_defocus=defocus
    )
    assert found.found
    assert found.mirrored == mirrored
    assert angle_between(found.rotation, rotation, 2 * math.pi) < 0.1
    assert found.defocus == pytest.approx(defocus, abs=60)


@pytest.mark.recording
@pytest.mark.slow
def test_curl_of_the_recording_agrees_with_its_parallax(rotavirus: NDArray[np.uint8]) -> None:
    found = calibrate(rotavirus, 31.25, 300e3, 1.03)
    assert found.curl.mirrored
    assert found.curl.significance > 8
    assert found.agreement is not None
    assert found.agreement < 3
    assert found.handedness > 20
    assert found.notes == ()
